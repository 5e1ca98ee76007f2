// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The registers of the performance monitors (Arm ARM D13.4), and what EL0 may do with them (PMUSERENR_EL0).

use super::{ALL, COUNTER_COUNT, CYCLES, ENABLE, EVENT, NOT_EL0, NOT_EL1, event};
use crate::cpu::Cpu;

/// PMCR_EL0: P and C reset counters and read as zero, DP does nothing without EL2 and EL3, LC is one.
const PMCR_P: u64 = 1 << 1;
const PMCR_C: u64 = 1 << 2;
const PMCR_DP: u64 = 1 << 5;
const PMCR_LC: u64 = 1 << 6;
const PMCR_N: u64 = (COUNTER_COUNT as u64) << 11;

/// PMUSERENR_EL0.
const USER_ALL: u64 = 1 << 0;
const USER_SW: u64 = 1 << 1;
const USER_CYCLES: u64 = 1 << 2;
const USER_COUNTERS: u64 = 1 << 3;

/// The value of PMSELR_EL0 that means the cycle counter.
const SELECT_CYCLES: u64 = 31;

/// A register of the performance monitors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(clippy::upper_case_acronyms, reason = "the names of the manual")]
pub(crate) enum PmuRegister {
    PMCR,
    PMCNTENSET,
    PMCNTENCLR,
    PMOVSCLR,
    PMOVSSET,
    PMSWINC,
    PMSELR,
    PMCEID0,
    PMCEID1,
    PMCCNTR,
    PMXEVTYPER,
    PMXEVCNTR,
    PMUSERENR,
    PMINTENSET,
    PMINTENCLR,
    PMEVCNTR(usize),
    PMEVTYPER(usize),
    PMCCFILTR,
}

use PmuRegister::{
    PMCCFILTR, PMCCNTR, PMCEID0, PMCEID1, PMCNTENCLR, PMCNTENSET, PMCR, PMEVCNTR, PMEVTYPER, PMINTENCLR,
    PMINTENSET, PMOVSCLR, PMOVSSET, PMSELR, PMSWINC, PMUSERENR, PMXEVCNTR, PMXEVTYPER,
};

impl PmuRegister {
    /// By op1, CRn, CRm and op2. Counters that are not there have no registers.
    pub(crate) fn of(op1: u16, crn: u16, crm: u16, op2: u16) -> Option<PmuRegister> {
        let n = usize::from((crm & 3) << 3 | op2);
        Some(match (op1, crn, crm, op2) {
            (3, 9, 12, 0) => PMCR,
            (3, 9, 12, 1) => PMCNTENSET,
            (3, 9, 12, 2) => PMCNTENCLR,
            (3, 9, 12, 3) => PMOVSCLR,
            (3, 9, 12, 4) => PMSWINC,
            (3, 9, 12, 5) => PMSELR,
            (3, 9, 12, 6) => PMCEID0,
            (3, 9, 12, 7) => PMCEID1,
            (3, 9, 13, 0) => PMCCNTR,
            (3, 9, 13, 1) => PMXEVTYPER,
            (3, 9, 13, 2) => PMXEVCNTR,
            (3, 9, 14, 0) => PMUSERENR,
            (3, 9, 14, 3) => PMOVSSET,
            (0, 9, 14, 1) => PMINTENSET,
            (0, 9, 14, 2) => PMINTENCLR,
            (3, 14, 8..=11, _) if n < COUNTER_COUNT => PMEVCNTR(n),
            (3, 14, 15, 7) => PMCCFILTR,
            (3, 14, 12..=15, _) if n < COUNTER_COUNT => PMEVTYPER(n),
            _ => return None,
        })
    }

    /// What PMXEVTYPER_EL0 or PMXEVCNTR_EL0 stands for; `None` if the selection is no such counter.
    fn selected(self, selection: u64) -> Option<PmuRegister> {
        let n = Some(selection as usize).filter(|&n| n < COUNTER_COUNT);
        match self {
            PMXEVTYPER if selection == SELECT_CYCLES => Some(PMCCFILTR),
            PMXEVTYPER => n.map(PMEVTYPER),
            PMXEVCNTR => n.map(PMEVCNTR),
            other => Some(other),
        }
    }

    /// The bits of PMUSERENR_EL0 any of which lets EL0 make this access.
    pub(crate) const fn user_permission(self, write: bool) -> u64 {
        match self {
            PMSWINC => USER_ALL | USER_SW,
            PMCCNTR if !write => USER_ALL | USER_CYCLES,
            PMXEVCNTR | PMEVCNTR(_) if !write => USER_ALL | USER_COUNTERS,
            PMSELR => USER_ALL | USER_COUNTERS,
            _ => USER_ALL,
        }
    }
}

/// The masks that make a value one that a register can hold, live and on restore.
pub(crate) mod sanitise {
    use super::{
        ALL, ENABLE, EVENT, NOT_EL0, NOT_EL1, PMCR_DP, USER_ALL, USER_COUNTERS, USER_CYCLES, USER_SW,
    };

    pub(crate) fn control(value: u64) -> u64 {
        value & (ENABLE | PMCR_DP)
    }

    pub(crate) fn counters(value: u64) -> u64 {
        value & ALL
    }

    pub(crate) fn selection(value: u64) -> u64 {
        value & 0x1f
    }

    pub(crate) fn user(value: u64) -> u64 {
        value & (USER_ALL | USER_SW | USER_CYCLES | USER_COUNTERS)
    }

    pub(crate) fn kind(value: u64) -> u64 {
        value & (NOT_EL1 | NOT_EL0 | EVENT)
    }

    pub(crate) fn cycle_filter(value: u64) -> u64 {
        value & (NOT_EL1 | NOT_EL0)
    }
}

impl Cpu {
    /// Reads a register; `None` if it cannot be read.
    pub(crate) fn pmu_read(&mut self, register: PmuRegister) -> Option<u64> {
        self.count_instructions();
        let pmu = &self.pmu;
        // A selection of nothing reads as zero.
        let Some(register) = register.selected(pmu.selected) else { return Some(0) };
        Some(match register {
            PMCR => pmu.control | PMCR_LC | PMCR_N,
            PMCNTENSET | PMCNTENCLR => pmu.enabled,
            PMOVSCLR | PMOVSSET => pmu.overflowed,
            PMINTENSET | PMINTENCLR => pmu.interrupts,
            PMSELR => pmu.selected,
            PMCEID0 => event::COMMON,
            PMCEID1 => 0,
            PMCCNTR => pmu.cycles,
            PMCCFILTR => pmu.cycle_filter,
            PMUSERENR => pmu.user,
            PMEVCNTR(n) => u64::from(pmu.counters.get(n)?.value),
            PMEVTYPER(n) => pmu.counters.get(n)?.kind,
            PMSWINC | PMXEVTYPER | PMXEVCNTR => return None,
        })
    }

    /// Writes a register; `None` if it cannot be written.
    pub(crate) fn pmu_write(&mut self, register: PmuRegister, value: u64) -> Option<()> {
        self.count_instructions();
        let el = self.el;
        let pmu = &mut self.pmu;
        let Some(register) = register.selected(pmu.selected) else { return Some(()) };
        match register {
            PMCR => {
                pmu.control = sanitise::control(value);
                if value & PMCR_P != 0 {
                    pmu.counters.iter_mut().for_each(|counter| counter.value = 0);
                }
                if value & PMCR_C != 0 {
                    pmu.cycles = 0;
                }
            }
            PMCNTENSET => pmu.enabled |= sanitise::counters(value),
            PMCNTENCLR => pmu.enabled &= !value,
            PMOVSSET => pmu.overflowed |= sanitise::counters(value),
            PMOVSCLR => pmu.overflowed &= !value,
            PMINTENSET => pmu.interrupts |= sanitise::counters(value),
            PMINTENCLR => pmu.interrupts &= !value,
            PMSWINC => {
                for n in pmu.each_counting(event::SW_INCR, el).filter(|n| value >> n & 1 == 1) {
                    pmu.add(n, 1, el);
                }
            }
            PMSELR => pmu.selected = sanitise::selection(value),
            PMCCNTR => pmu.cycles = value,
            PMCCFILTR => pmu.cycle_filter = sanitise::cycle_filter(value),
            PMUSERENR => pmu.user = sanitise::user(value),
            PMEVCNTR(n) => pmu.counters.get_mut(n)?.value = value as u32,
            PMEVTYPER(n) => pmu.counters.get_mut(n)?.kind = sanitise::kind(value),
            PMCEID0 | PMCEID1 | PMXEVTYPER | PMXEVCNTR => return None,
        }
        // The interrupt, the slice length, and whether instructions run one by one may have changed.
        self.attend();
        Some(())
    }
}

const _: () = assert!(CYCLES == 1 << SELECT_CYCLES);
