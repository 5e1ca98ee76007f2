// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The system registers of EL1 and EL0 (Arm ARM D13).
//!
//! A register is named by `op0<<14|op1<<11|crn<<7|crm<<3|op2`, as in the instruction that reaches it.

use crate::cpu::Cpu;
use crate::mmu::Regime;

/// Registers that are state and no more. Those with behaviour have their own place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SystemRegisters {
    pub sctlr: u64,
    pub actlr: u64,
    pub cpacr: u64,
    pub ttbr0: u64,
    pub ttbr1: u64,
    pub tcr: u64,
    pub mair: u64,
    pub amair: u64,
    pub afsr0: u64,
    pub afsr1: u64,
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
    pub os_locked: bool,
}

impl SystemRegisters {
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
}

impl Cpu {
    /// Follows a change of the registers that govern translation.
    pub(crate) fn update_regime(&mut self) {
        let regime = Regime::new(&self.sys);
        if !regime.same_rules(&self.regime) {
            self.tlb.flush_all();
        }
        self.regime = regime;
        self.tlb.set_asid(regime.asid, self.el);
        self.leave();
    }
}
