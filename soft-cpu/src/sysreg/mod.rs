// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The system registers of EL1 and EL0 (Arm ARM D13).
//!
//! `name` says which there are, `identification` what the constant ones say, `read` and `write` what access does.
//! Whatever is in neither is an Undefined exception, except the identification space, which reads as zero.

mod identification;
pub(crate) mod name;
mod read;
mod write;

pub use identification::identification;
pub(crate) use identification::{mpidr, vcpu_of};
pub(crate) use write::sanitise;

use crate::cpu::Cpu;
use crate::mmu::Regime;

/// Registers that are state and no more. Those with behaviour have their own place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SystemRegisters {
    pub sctlr: u64,
    pub cpacr: u64,
    pub ttbr0: u64,
    pub ttbr1: u64,
    pub tcr: u64,
    pub mair: u64,
    pub esr: u64,
    pub far: u64,
    pub par: u64,
    pub vbar: u64,
    pub elr: u64,
    pub spsr: u64,
    pub contextidr: u64,
    pub tpidr_el0: u64,
    pub tpidrro_el0: u64,
    pub tpidr_el1: u64,
    pub cntkctl: u64,
    pub csselr: u64,
    pub mdscr: u64,
    /// The OS lock, which holds debug exceptions off.
    pub os_locked: bool,
}

impl SystemRegisters {
    /// The values after reset; zero where the architecture leaves them unknown.
    pub(crate) fn at_reset() -> SystemRegisters {
        SystemRegisters {
            sctlr: sanitise::sctlr(0),
            cpacr: 0,
            ttbr0: 0,
            ttbr1: 0,
            tcr: 0,
            mair: 0,
            esr: 0,
            far: 0,
            par: 0,
            vbar: 0,
            elr: 0,
            spsr: 0,
            contextidr: 0,
            tpidr_el0: 0,
            tpidrro_el0: 0,
            tpidr_el1: 0,
            cntkctl: 0,
            csselr: 0,
            mdscr: 0,
            os_locked: true,
        }
    }

    /// CPACR_EL1.FPEN.
    #[inline(always)]
    pub(crate) fn fp_enabled(&self, el: u8) -> bool {
        match self.cpacr >> 20 & 3 {
            3 => true,
            1 => el == 1,
            _ => false,
        }
    }

    /// MDSCR_EL1.SS, with the OS lock open.
    pub(crate) fn step_enabled(&self) -> bool {
        self.mdscr & 1 == 1 && !self.os_locked
    }

    /// MDSCR_EL1.KDE: debug exceptions from EL1 itself.
    pub(crate) fn kernel_debug_enabled(&self) -> bool {
        self.mdscr >> 13 & 1 == 1
    }
}

impl Cpu {
    /// Follows a change of the registers that govern translation.
    pub(crate) fn update_regime(&mut self) {
        let regime = Regime::new(&self.sys);
        let changed_rules = !regime.same_rules(&self.regime);
        self.regime = regime;
        self.tlb.set_asid(regime.asid, self.el);
        if changed_rules {
            self.tlb.flush_all();
        }
        self.leave();
    }
}
