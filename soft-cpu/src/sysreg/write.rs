// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! MSR (register). Every write goes through the mask of the bits that exist, live and on restore.

use super::name;
use crate::cpu::{Cpu, Flags};

/// Bits of SCTLR_EL1 that can be written, and those that read as one: no AArch32, no big endian, no extension.
const SCTLR_WRITABLE: u64 = 0x040d_d21f;
const SCTLR_ONE: u64 = 0x30d0_0980;
/// Of TCR_EL1: all of Armv8.0; no hardware access flag or hierarchical permission disable.
const TCR_WRITABLE: u64 = 0x0000_0077_ffff_ffbf;
/// Of CPACR_EL1: FPEN.
const CPACR_WRITABLE: u64 = 3 << 20;
/// Of SPSR_EL1: what a return to AArch64 looks at.
const SPSR_WRITABLE: u64 = 0xf030_03df;
/// Of MDSCR_EL1: SS, TDCC, KDE, HDE, MDE.
const MDSCR_WRITABLE: u64 = 0xf001;
/// Of CNTKCTL_EL1: the enables and the event stream.
const CNTKCTL_WRITABLE: u64 = 0x3ff;

/// Of FPCR: AHP, DN, FZ, RMode. Of FPSR: QC and the cumulative exceptions.
const FPCR_WRITABLE: u32 = 0x07c0_0000;
const FPSR_WRITABLE: u32 = 0x0800_009f;

/// The masks that make a value one that a register can hold.
pub(crate) mod sanitise {
    pub(crate) fn sctlr(value: u64) -> u64 {
        value & super::SCTLR_WRITABLE | super::SCTLR_ONE
    }

    pub(crate) fn tcr(value: u64) -> u64 {
        value & super::TCR_WRITABLE
    }

    pub(crate) fn cpacr(value: u64) -> u64 {
        value & super::CPACR_WRITABLE
    }

    pub(crate) fn ttbr(value: u64) -> u64 {
        // Bit 0 is CnP of a later version.
        value & !1
    }

    pub(crate) fn spsr(value: u64) -> u64 {
        value & super::SPSR_WRITABLE
    }

    pub(crate) fn vbar(value: u64) -> u64 {
        value & !0x7ff
    }

    pub(crate) fn mdscr(value: u64) -> u64 {
        value & super::MDSCR_WRITABLE
    }

    pub(crate) fn cntkctl(value: u64) -> u64 {
        value & super::CNTKCTL_WRITABLE
    }

    pub(crate) fn csselr(value: u64) -> u64 {
        value & 0xf
    }

    pub(crate) fn word(value: u64) -> u64 {
        value & 0xffff_ffff
    }

    pub(crate) fn fpcr(value: u64) -> u32 {
        value as u32 & super::FPCR_WRITABLE
    }

    pub(crate) fn fpsr(value: u64) -> u32 {
        value as u32 & super::FPSR_WRITABLE
    }
}

impl Cpu {
    /// Writes the register that an MSR names, or takes an exception.
    pub(crate) fn system_write(&mut self, word: u32, value: u64) {
        let register = name::of(word);
        if self.el == 0 {
            let read_only = matches!(register, name::CNTFRQ_EL0 | name::TPIDRRO_EL0 | name::PMUSERENR_EL0);
            if name::op1(register) != 3 || read_only {
                return self.undefined();
            }
            if self.el0_may_access(register, word, true).is_none() {
                return;
            }
        }
        if self.write_register(register, value).is_none() {
            self.undefined();
        }
    }

    fn write_register(&mut self, register: u16, value: u64) -> Option<()> {
        let sys = &mut self.sys;
        match register {
            name::SPSR_EL1 => sys.spsr = sanitise::spsr(value),
            name::ELR_EL1 => sys.elr = value,
            name::SP_EL0 if self.sp_select => self.sp_el[0] = value,
            name::ESR_EL1 => sys.esr = sanitise::word(value),
            name::FAR_EL1 => sys.far = value,
            name::PAR_EL1 => sys.par = value,
            name::VBAR_EL1 => sys.vbar = sanitise::vbar(value),
            name::CONTEXTIDR_EL1 => sys.contextidr = sanitise::word(value),
            name::TPIDR_EL1 => sys.tpidr_el1 = value,
            name::TPIDR_EL0 => sys.tpidr_el0 = value,
            name::TPIDRRO_EL0 => sys.tpidrro_el0 = value,
            name::CNTKCTL_EL1 => sys.cntkctl = sanitise::cntkctl(value),
            name::CSSELR_EL1 => sys.csselr = sanitise::csselr(value),
            name::CPACR_EL1 => sys.cpacr = sanitise::cpacr(value),
            name::SCTLR_EL1 => {
                sys.sctlr = sanitise::sctlr(value);
                self.update_regime();
            }
            name::TTBR0_EL1 => {
                sys.ttbr0 = sanitise::ttbr(value);
                self.update_regime();
            }
            name::TTBR1_EL1 => {
                sys.ttbr1 = sanitise::ttbr(value);
                self.update_regime();
            }
            name::TCR_EL1 => {
                sys.tcr = sanitise::tcr(value);
                self.update_regime();
            }
            name::MAIR_EL1 => {
                sys.mair = value;
                self.update_regime();
            }
            name::MDSCR_EL1 => {
                sys.mdscr = sanitise::mdscr(value);
                self.arm_debug();
            }
            name::OSLAR_EL1 => {
                sys.os_locked = value & 1 == 1;
                self.arm_debug();
            }
            name::SPSEL => {
                self.bank_sp();
                self.sp_select = value & 1 == 1;
                self.load_sp();
            }
            name::NZCV => self.flags = Flags::from_bits((value >> 28) as u8),
            name::DAIF => self.set_daif((value >> 6 & 0xf) as u8),
            name::FPCR | name::FPSR => {
                if register == name::FPCR {
                    self.fpcr = sanitise::fpcr(value);
                } else {
                    self.fpsr = sanitise::fpsr(value);
                }
            }
            name::CNTP_CTL_EL0
            | name::CNTP_CVAL_EL0
            | name::CNTP_TVAL_EL0
            | name::CNTV_CTL_EL0
            | name::CNTV_CVAL_EL0
            | name::CNTV_TVAL_EL0 => self.write_timer(register, value),
            // Fixed, without content, or of a debugger that is not there.
            name::ACTLR_EL1
            | name::AFSR0_EL1
            | name::AFSR1_EL1
            | name::AMAIR_EL1
            | name::CNTFRQ_EL0
            | name::DISR_EL1
            | name::MDCCINT_EL1
            | name::OSDLR_EL1
            | name::OSECCR_EL1
            | name::OSDTRRX_EL1
            | name::OSDTRTX_EL1
            | name::DBGPRCR_EL1
            | name::DBGCLAIMSET_EL1
            | name::DBGCLAIMCLR_EL1
            | name::DBGDTR_EL0
            | name::DBGDTRRX_EL0 => {}
            _ if name::is_interrupt_controller(register) => {
                if !self.interrupts.icc_write(self.index, register, value) {
                    return None;
                }
                self.attend();
            }
            _ => match (name::debug_register(register), name::pmu_register(register)) {
                (Some(point), _) => {
                    self.debug.write(point, value);
                    self.arm_debug();
                }
                (_, Some(register)) => self.pmu_write(register, value)?,
                _ => return None,
            },
        }
        Some(())
    }

    fn write_timer(&mut self, register: u16, value: u64) {
        let now = self.clock.ticks();
        match register {
            name::CNTP_CTL_EL0 => self.timers.phys.write_control(value),
            name::CNTP_CVAL_EL0 => self.timers.phys.compare = value,
            name::CNTP_TVAL_EL0 => self.timers.phys.write_distance(value, now),
            name::CNTV_CTL_EL0 => self.timers.virt.write_control(value),
            name::CNTV_CVAL_EL0 => self.timers.virt.compare = value,
            _ => self.timers.virt.write_distance(value, now),
        }
        self.attend();
    }
}
