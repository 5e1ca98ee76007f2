// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! MRS.

use std::sync::atomic::Ordering;

use super::{identification, name};
use crate::clock::COUNTER_HZ;
use crate::cpu::Cpu;
use crate::pmu::registers::PmuRegister;

/// SCTLR_EL1.UCT: EL0 may read CTR_EL0.
const UCT: u64 = 1 << 15;
/// SCTLR_EL1.DZE: EL0 may zero blocks, and DCZID_EL0.DZP says so.
const DZE: u64 = 1 << 14;
const DZP: u64 = 1 << 4;
/// OSLSR_EL1: an OS lock is implemented (OSLM 0b10).
const OS_LOCK_MODEL: u64 = 1 << 3;

impl Cpu {
    /// Reads the register that an MRS names. `None`: an exception was taken.
    pub(crate) fn system_read(&mut self, word: u32) -> Option<u64> {
        let register = name::of(word);
        if self.el == 0 {
            if name::op1(register) != 3 {
                self.undefined();
                return None;
            }
            self.el0_may_access(register, word, false)?;
        }
        let value = match self.read_register(register) {
            Some(value) => value,
            None => {
                self.undefined();
                return None;
            }
        };
        Some(value)
    }

    fn read_register(&mut self, register: u16) -> Option<u64> {
        let sys = &self.sys;
        Some(match register {
            name::SCTLR_EL1 => sys.sctlr,
            name::CPACR_EL1 => sys.cpacr,
            name::TTBR0_EL1 => sys.ttbr0,
            name::TTBR1_EL1 => sys.ttbr1,
            name::TCR_EL1 => sys.tcr,
            name::SPSR_EL1 => sys.spsr,
            name::ELR_EL1 => sys.elr,
            name::SP_EL0 if self.sp_select => self.sp_el[0],
            name::SPSEL => u64::from(self.sp_select),
            name::CURRENT_EL => u64::from(self.el) << 2,
            name::ESR_EL1 => sys.esr,
            name::FAR_EL1 => sys.far,
            name::PAR_EL1 => sys.par,
            name::MAIR_EL1 => sys.mair,
            name::VBAR_EL1 => sys.vbar,
            name::CONTEXTIDR_EL1 => sys.contextidr,
            name::TPIDR_EL1 => sys.tpidr_el1,
            name::TPIDR_EL0 => sys.tpidr_el0,
            name::TPIDRRO_EL0 => sys.tpidrro_el0,
            name::CNTKCTL_EL1 => sys.cntkctl,
            name::CSSELR_EL1 => sys.csselr,
            // Implementation defined, and here without content.
            name::ACTLR_EL1 | name::AFSR0_EL1 | name::AFSR1_EL1 | name::AMAIR_EL1 => 0,
            // No error record, and no SError that ESB could defer.
            name::ERRIDR_EL1 | name::DISR_EL1 => 0,
            // The address that a CPU starts at is its caller's choice.
            name::RVBAR_EL1 => 0,
            name::ISR_EL1 => self.interrupt_status(),
            name::NZCV => u64::from(self.flags.bits()) << 28,
            name::DAIF => u64::from(self.daif) << 6,
            name::FPCR | name::FPSR => {
                let value = if register == name::FPCR { self.fpcr } else { self.fpsr };
                u64::from(value)
            }
            name::DCZID_EL0 if self.el == 0 && sys.sctlr & DZE == 0 => {
                identification::read(register, self.index)? | DZP
            }
            name::CNTFRQ_EL0 => COUNTER_HZ,
            name::CNTPCT_EL0 | name::CNTVCT_EL0 => self.clock.ticks(),
            name::CNTP_CTL_EL0 => self.timers.phys.read_control(self.clock.ticks()),
            name::CNTP_CVAL_EL0 => self.timers.phys.compare,
            name::CNTP_TVAL_EL0 => self.timers.phys.read_distance(self.clock.ticks()),
            name::CNTV_CTL_EL0 => self.timers.virt.read_control(self.clock.ticks()),
            name::CNTV_CVAL_EL0 => self.timers.virt.compare,
            name::CNTV_TVAL_EL0 => self.timers.virt.read_distance(self.clock.ticks()),
            name::MDSCR_EL1 => sys.mdscr,
            name::OSLSR_EL1 => OS_LOCK_MODEL | u64::from(sys.os_locked) << 1,
            // Debug without a debugger: no communication channel, claim tags, ROM table or breakpoint unit.
            name::MDCCINT_EL1
            | name::MDRAR_EL1
            | name::OSDLR_EL1
            | name::OSECCR_EL1
            | name::OSDTRRX_EL1
            | name::OSDTRTX_EL1
            | name::DBGPRCR_EL1
            | name::DBGCLAIMCLR_EL1
            | name::DBGAUTHSTATUS_EL1
            | name::MDCCSR_EL0
            | name::DBGDTR_EL0
            | name::DBGDTRRX_EL0 => 0,
            // All eight claim tags may be set.
            name::DBGCLAIMSET_EL1 => 0xff,
            _ if name::is_interrupt_controller(register) => {
                let value = self.interrupts.icc_read(self.index, register)?;
                // Acknowledging and the like may lower the line.
                self.attend();
                value
            }
            _ => match (name::debug_register(register), name::pmu_register(register)) {
                (Some(point), _) => self.debug.read(point),
                (_, Some(register)) => self.pmu_read(register)?,
                _ => identification::read(register, self.index)?,
            },
        })
    }

    /// ISR_EL1: what is pending, masked or not.
    fn interrupt_status(&self) -> u64 {
        u64::from(self.interrupts.irq_line(self.index).load(Ordering::Relaxed)) << 7
    }

    /// Whether EL0 may access a register it can name. If not, the trap has been taken.
    pub(super) fn el0_may_access(&mut self, register: u16, word: u32, write: bool) -> Option<()> {
        let (kctl, sctlr) = (self.sys.cntkctl, self.sys.sctlr);
        let allowed = match register {
            name::CTR_EL0 => sctlr & UCT != 0,
            name::DAIF => return self.may_mask(word).then_some(()),
            name::FPCR | name::FPSR => return self.fp_access(),
            // EL0PCTEN and EL0VCTEN, EL0PTEN, EL0VTEN.
            name::CNTFRQ_EL0 => kctl & 0b11 != 0,
            name::CNTPCT_EL0 => kctl & 1 << 0 != 0,
            name::CNTVCT_EL0 => kctl & 1 << 1 != 0,
            name::CNTP_CTL_EL0 | name::CNTP_CVAL_EL0 | name::CNTP_TVAL_EL0 => kctl & 1 << 9 != 0,
            name::CNTV_CTL_EL0 | name::CNTV_CVAL_EL0 | name::CNTV_TVAL_EL0 => kctl & 1 << 8 != 0,
            // MDSCR_EL1.TDCC.
            name::MDCCSR_EL0 | name::DBGDTR_EL0 | name::DBGDTRRX_EL0 => self.sys.mdscr & 1 << 12 == 0,
            _ => match name::pmu_register(register) {
                // PMUSERENR_EL0 itself is readable at EL0.
                Some(PmuRegister::PMUSERENR) => true,
                Some(register) => self.pmu.user & register.user_permission(write) != 0,
                None => true,
            },
        };
        if allowed {
            return Some(());
        }
        self.system_trap(word);
        None
    }
}
