// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Taking exceptions to EL1, and returning from them (Arm ARM D1.10, AArch64.TakeException, ERET).
//!
//! EL1 is the highest level there is, so the target never varies. The syndrome layouts are those of ESR_EL1.

use crate::cpu::{Cpu, Flags};
use crate::mmu::{Access, Fault};
use crate::order::Barrier;

/// ESR_ELx.EC values that this CPU produces.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Class {
    Unknown = 0x00,
    WaitTrap = 0x01,
    FpTrap = 0x07,
    IllegalState = 0x0e,
    Svc = 0x15,
    SystemTrap = 0x18,
    /// From EL0; one more from EL1.
    InstructionAbort = 0x20,
    PcAlignment = 0x22,
    /// From EL0; one more from EL1.
    DataAbort = 0x24,
    SpAlignment = 0x26,
    /// From EL0; one more from EL1.
    Breakpoint = 0x30,
    /// From EL0; one more from EL1.
    SoftwareStep = 0x32,
    /// From EL0; one more from EL1.
    Watchpoint = 0x34,
    Brk = 0x3c,
}

/// ESR_ELx.IL: the instruction was 32 bits long (or it does not matter).
const IL: u64 = 1 << 25;

/// Offsets in the vector table for the two kinds of exceptions there are.
const SYNCHRONOUS: u64 = 0x000;
const IRQ: u64 = 0x080;

impl Cpu {
    /// PSTATE in the layout of SPSR_EL1.
    pub(crate) fn pstate(&self) -> u64 {
        u64::from(self.flags.bits()) << 28
            | u64::from(self.single_step) << 21
            | u64::from(self.illegal_state) << 20
            | u64::from(self.daif) << 6
            | u64::from(self.el) << 2
            | u64::from(self.sp_select)
    }

    /// The Undefined exception of the running instruction.
    #[cold]
    pub(crate) fn undefined(&mut self) {
        let pc = self.this_pc();
        self.take_synchronous(Class::Unknown, 0, None, pc);
    }

    /// Whether SIMD and floating point may be used now (CPACR_EL1.FPEN). If not, the trap has been taken.
    #[inline(always)]
    pub(crate) fn fp_access(&mut self) -> Option<()> {
        if self.sys.fp_enabled(self.el) {
            return Some(());
        }
        self.fp_trap();
        None
    }

    #[cold]
    fn fp_trap(&mut self) {
        // CV set, COND "always".
        let pc = self.this_pc();
        self.take_synchronous(Class::FpTrap, 1 << 24 | 0xe << 20, None, pc);
    }

    /// Traps a system instruction or register access from EL0 to EL1.
    #[cold]
    pub(crate) fn system_trap(&mut self, word: u32) {
        let field = |low: u32, width: u32| u64::from(word >> low & ((1 << width) - 1));
        let iss = field(19, 2) << 20
            | field(5, 3) << 17
            | field(16, 3) << 14
            | field(12, 4) << 10
            | field(0, 5) << 5
            | field(8, 4) << 1
            | field(21, 1);
        let pc = self.this_pc();
        self.take_synchronous(Class::SystemTrap, iss, None, pc);
    }

    /// Traps WFI or WFE from EL0 to EL1 (SCTLR_EL1.nTWI, nTWE).
    #[cold]
    pub(crate) fn wait_trap(&mut self, for_event: bool) {
        let pc = self.this_pc();
        self.take_synchronous(Class::WaitTrap, 1 << 24 | 0xe << 20 | u64::from(for_event), None, pc);
    }

    #[cold]
    pub(crate) fn stack_alignment(&mut self) {
        let pc = self.this_pc();
        self.take_synchronous(Class::SpAlignment, 0, None, pc);
    }

    pub(crate) fn take_data_abort(&mut self, va: u64, access: Access, fault: Fault) {
        let cache_maintenance = u64::from(access == Access::Maintain) << 8;
        let write = u64::from(matches!(access, Access::Write | Access::Maintain)) << 6;
        let pc = self.this_pc();
        self.take_synchronous(Class::DataAbort, cache_maintenance | write | fault.status(), Some(va), pc);
    }

    /// Fetching the instruction at `pc` failed.
    pub(crate) fn take_instruction_abort(&mut self, pc: u64, fault: Fault) {
        self.take_synchronous(Class::InstructionAbort, fault.status(), Some(pc), pc);
    }

    /// The address to fetch from is not a multiple of four.
    pub(crate) fn take_pc_alignment(&mut self) {
        let pc = self.pc;
        self.take_synchronous(Class::PcAlignment, 0, Some(pc), pc);
    }

    /// PSTATE.IL is set: nothing may run.
    pub(crate) fn take_illegal_state(&mut self) {
        let pc = self.pc;
        self.take_synchronous(Class::IllegalState, 0, None, pc);
    }

    /// Whether software step is active at the current level.
    pub(crate) fn step_active(&self) -> bool {
        self.sys.step_enabled() && self.debug_enabled_here()
    }

    /// The instruction to be stepped has run.
    pub(crate) fn take_software_step(&mut self) {
        let pc = self.pc;
        self.take_synchronous(Class::SoftwareStep, 0b100010, None, pc);
    }

    /// Takes a synchronous exception with `return_pc` as its preferred return address.
    #[cold]
    pub(crate) fn take_synchronous(&mut self, class: Class, iss: u64, far: Option<u64>, return_pc: u64) {
        let from_el1 = matches!(
            class,
            Class::InstructionAbort
                | Class::DataAbort
                | Class::Breakpoint
                | Class::SoftwareStep
                | Class::Watchpoint
        );
        let code = u64::from(class as u8) + u64::from(from_el1 && self.el == 1);
        self.sys.esr = code << 26 | IL | iss;
        if let Some(address) = far {
            self.sys.far = address;
        }
        self.take(SYNCHRONOUS, return_pc);
    }

    /// Takes the IRQ exception before the instruction at `pc`.
    pub(crate) fn take_irq(&mut self) {
        let pc = self.pc;
        self.take(IRQ, pc);
    }

    fn take(&mut self, kind: u64, return_pc: u64) {
        self.count_before_level_changes();
        let from = match (self.el, self.sp_select) {
            (0, _) => 0x400,
            (_, true) => 0x200,
            (_, false) => 0,
        };
        self.sys.spsr = self.pstate();
        self.sys.elr = return_pc;
        self.bank_sp();
        self.el = 1;
        self.sp_select = true;
        self.load_sp();
        self.tlb.set_level(1);
        self.order.barrier(Barrier::Instruction);
        self.daif = 0xf;
        self.single_step = false;
        self.illegal_state = false;
        self.pc = self.sys.vbar.wrapping_add(from + kind);
        self.leave();
    }

    /// ERET: PSTATE from SPSR_EL1, the address from ELR_EL1.
    pub(crate) fn exception_return(&mut self) {
        let spsr = self.sys.spsr;
        let target = self.sys.elr;
        self.monitor.clear();
        self.count_before_level_changes();
        self.order.barrier(Barrier::Instruction);
        let el = spsr >> 2 & 3;
        // AArch32, levels that do not exist, a reserved bit, and EL0 with its own choice of stack are illegal.
        let illegal = spsr >> 4 & 1 == 1 || el > 1 || spsr >> 1 & 1 == 1 || (el == 0 && spsr & 1 == 1);
        self.flags = Flags::from_bits((spsr >> 28) as u8);
        self.daif = (spsr >> 6 & 0xf) as u8;
        self.single_step = spsr >> 21 & 1 == 1 && self.sys.step_enabled();
        self.illegal_state = illegal || spsr >> 20 & 1 == 1;
        if !illegal {
            self.bank_sp();
            self.el = el as u8;
            self.sp_select = spsr & 1 == 1;
            self.load_sp();
            self.tlb.set_level(self.el);
        }
        self.pc = target;
        if self.irq_seen || self.illegal_state || self.sys.step_enabled() {
            self.attend();
        } else {
            self.leave();
        }
    }
}
