// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Saving a CPU and making one from a saved state.
//!
//! Not saved, because the architecture allows them to be lost at any time: translations, decoded code, and the
//! exclusive monitor. A wait ends when `run` returns, so there is none to save.

use crate::cluster::Power;
use crate::cpu::{Cpu, Flags, Registers};
use crate::debug::{Debug, Point};
use crate::monitor::Monitor;
use crate::pmu::Pmu;
use crate::saved::{DebugPointV1, RestoreError, VcpuV1};
use crate::sysreg::{SystemRegisters, sanitise};
use crate::timer::{Timer, Timers};
use crate::vcpu::{Vcpu, VcpuParts};

const POWER_OFF: u64 = 0;
const POWER_ON: u64 = 1;
const POWER_PENDING: u64 = 2;

impl Vcpu {
    /// The state between two calls of `run`.
    pub fn save(&self) -> VcpuV1 {
        self.cpu.save()
    }

    /// A CPU in the saved state. The interrupt controller and the clock in `parts` are restored already.
    ///
    /// # Errors
    /// If PSTATE or the power state is one that no CPU of this crate can have.
    pub fn restore(index: usize, parts: VcpuParts, saved: &VcpuV1) -> Result<Vcpu, RestoreError> {
        let mut vcpu = Vcpu::new(index, parts);
        vcpu.cpu.load_saved(saved)?;
        Ok(vcpu)
    }
}

impl Cpu {
    fn save(&self) -> VcpuV1 {
        let (power, power_entry, power_context) = match self.shared().inbox().power {
            Power::Off => (POWER_OFF, 0, 0),
            Power::On => (POWER_ON, 0, 0),
            Power::Pending { entry, context } => (POWER_PENDING, entry, context),
        };
        let mut sp = self.sp_el;
        sp[usize::from(self.sp_select)] = self.r(crate::op::SP);
        let [sp_el0, sp_el1] = sp;
        let SystemRegisters {
            sctlr,
            cpacr,
            ttbr0,
            ttbr1,
            tcr,
            mair,
            esr,
            far,
            par,
            vbar,
            elr,
            spsr,
            contextidr,
            tpidr_el0,
            tpidrro_el0,
            tpidr_el1,
            cntkctl,
            csselr,
            mdscr,
            os_locked,
        } = self.sys;
        let (breakpoints, watchpoints) = self.debug.points();
        let saved = |point: Point| DebugPointV1 { control: point.control, value: point.value };
        let Timers { virt, phys } = self.timers;
        VcpuV1 {
            x: std::array::from_fn(|i| self.r(i as u8)),
            sp_el0,
            sp_el1,
            pc: self.pc,
            pstate: self.pstate(),
            v: self.v,
            fpcr: u64::from(self.fpcr),
            fpsr: u64::from(self.fpsr),
            sctlr,
            cpacr,
            ttbr0,
            ttbr1,
            tcr,
            mair,
            esr,
            far,
            par,
            vbar,
            elr,
            spsr,
            contextidr,
            tpidr_el0,
            tpidrro_el0,
            tpidr_el1,
            cntkctl,
            csselr,
            mdscr,
            os_lock: u64::from(os_locked),
            breakpoints: breakpoints.map(saved),
            watchpoints: watchpoints.map(saved),
            pmu: self.pmu.save(),
            cntv_ctl: virt.control(),
            cntv_cval: virt.compare,
            cntp_ctl: phys.control(),
            cntp_cval: phys.compare,
            event: u64::from(self.shared().has_event()),
            power,
            power_entry,
            power_context,
        }
    }

    fn load_saved(&mut self, saved: &VcpuV1) -> Result<(), RestoreError> {
        let VcpuV1 {
            x,
            sp_el0,
            sp_el1,
            pc,
            pstate,
            v,
            fpcr,
            fpsr,
            sctlr,
            cpacr,
            ttbr0,
            ttbr1,
            tcr,
            mair,
            esr,
            far,
            par,
            vbar,
            elr,
            spsr,
            contextidr,
            tpidr_el0,
            tpidrro_el0,
            tpidr_el1,
            cntkctl,
            csselr,
            mdscr,
            os_lock,
            breakpoints,
            watchpoints,
            ref pmu,
            cntv_ctl,
            cntv_cval,
            cntp_ctl,
            cntp_cval,
            event,
            power,
            power_entry,
            power_context,
        } = *saved;
        let power = match power {
            POWER_OFF => Power::Off,
            POWER_ON => Power::On,
            POWER_PENDING => Power::Pending { entry: power_entry, context: power_context },
            other => return Err(RestoreError::Power(other)),
        };
        // M[3:0]: EL0t, EL1t, EL1h.
        let (el, sp_select) = match pstate & 0x1f {
            0b00000 => (0, false),
            0b00100 => (1, false),
            0b00101 => (1, true),
            _ => return Err(RestoreError::Pstate(pstate)),
        };
        self.regs = Registers::new();
        for (slot, value) in (0..).zip(x) {
            self.w(slot, value);
        }
        self.el = el;
        self.sp_select = sp_select;
        self.sp_el = [sp_el0, sp_el1];
        self.load_sp();
        self.pc = pc;
        self.flags = Flags::from_bits((pstate >> 28 & 0xf) as u8);
        self.daif = (pstate >> 6 & 0xf) as u8;
        self.single_step = pstate >> 21 & 1 == 1;
        self.illegal_state = pstate >> 20 & 1 == 1;
        self.v = v;
        self.fpcr = sanitise::fpcr(fpcr);
        self.fpsr = sanitise::fpsr(fpsr);
        self.sys = SystemRegisters {
            sctlr: sanitise::sctlr(sctlr),
            cpacr: sanitise::cpacr(cpacr),
            ttbr0: sanitise::ttbr(ttbr0),
            ttbr1: sanitise::ttbr(ttbr1),
            tcr: sanitise::tcr(tcr),
            mair,
            esr: sanitise::word(esr),
            far,
            par,
            vbar: sanitise::vbar(vbar),
            elr,
            spsr: sanitise::spsr(spsr),
            contextidr: sanitise::word(contextidr),
            tpidr_el0,
            tpidrro_el0,
            tpidr_el1,
            cntkctl: sanitise::cntkctl(cntkctl),
            csselr: sanitise::csselr(csselr),
            mdscr: sanitise::mdscr(mdscr),
            os_locked: os_lock & 1 == 1,
        };
        let point = |saved: DebugPointV1| Point { control: saved.control, value: saved.value };
        self.debug = Debug::with(breakpoints.map(point), watchpoints.map(point));
        self.pmu = Pmu::restore(pmu);
        self.timers = Timers { virt: Timer::new(cntv_ctl, cntv_cval), phys: Timer::new(cntp_ctl, cntp_cval) };
        self.monitor = Monitor::default();
        self.powered = power == Power::On;
        self.shared().set_event(event & 1 == 1);
        self.shared().inbox().power = power;
        self.update_regime();
        self.tlb.flush_all();
        self.arm_debug();
        self.announce_timers();
        self.announce_pmu();
        self.attend();
        Ok(())
    }
}
