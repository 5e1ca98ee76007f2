// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! ICC registers with effects beyond their CPU interface: acknowledge, end, deactivate, generate SGIs.
//!
//! Called through `Gic::icc_read` and `Gic::icc_write`; `None`/`false` means the register does not exist and
//! the vCPU takes an Undefined Instruction exception.

use super::affinity_of;
use super::cpu_interface::CpuInterface;
use super::spec::icc::{self, SgiRequest};
use super::spec::{INTID_SPURIOUS, SPI_END, SPI_FIRST, low32};
use super::state::State;

impl State {
    /// MRS.
    pub fn icc_read(&mut self, vcpu: usize, register: u16) -> Option<u64> {
        match register {
            icc::IAR1 => Some(self.acknowledge(vcpu).into()),
            _ => self.cpus.get(vcpu)?.read(register),
        }
    }

    /// MSR.
    pub fn icc_write(&mut self, vcpu: usize, register: u16, value: u64) -> bool {
        let intid = low32(icc::INTID.get(value));
        match register {
            icc::EOIR1 => self.end(vcpu, intid),
            icc::DIR => {
                if self.cpus.get(vcpu).is_some_and(|cpu| cpu.eoi_mode()) {
                    self.deactivate(vcpu, intid);
                }
            }
            icc::SGI1R => self.generate_sgi(vcpu, SgiRequest::decode(value), false),
            icc::SGI0R => self.generate_sgi(vcpu, SgiRequest::decode(value), true),
            _ => {
                let Some(cpu) = self.cpus.get_mut(vcpu) else { return false };
                self.touched.add(vcpu);
                return cpu.write(register, value);
            }
        }
        true
    }

    /// The vCPU was switched off and on.
    pub fn reset_cpu_interface(&mut self, vcpu: usize) {
        if let Some(cpu) = self.cpus.get_mut(vcpu) {
            *cpu = CpuInterface::new();
            self.touched.add(vcpu);
        }
    }

    fn acknowledge(&mut self, vcpu: usize) -> u32 {
        let Some(cpu) = self.cpus.get_mut(vcpu) else { return INTID_SPURIOUS };
        let Some(taken) = cpu.takeable() else { return INTID_SPURIOUS };
        cpu.activate(taken);
        self.touched.add(vcpu);
        match (taken.intid, self.redists.get_mut(vcpu)) {
            (SPI_FIRST..SPI_END, _) => self.dist.spis().acknowledge(taken.intid),
            (..SPI_FIRST, Some(redist)) => redist.private().acknowledge(taken.intid),
            (_, Some(redist)) => {
                redist.clear_lpi(taken.intid);
            }
            (_, None) => {}
        }
        taken.intid
    }

    fn end(&mut self, vcpu: usize, intid: u32) {
        let Some(cpu) = self.cpus.get_mut(vcpu) else { return };
        // Special INTIDs, the spurious one among them, end nothing.
        if (SPI_END..=INTID_SPURIOUS).contains(&intid) {
            return;
        }
        cpu.drop_priority();
        self.touched.add(vcpu);
        if !cpu.eoi_mode() {
            self.deactivate(vcpu, intid);
        }
    }

    /// Ends the active state. LPIs and numbers that do not exist have none.
    fn deactivate(&mut self, vcpu: usize, intid: u32) {
        if intid < SPI_FIRST {
            if let Some(redist) = self.redists.get_mut(vcpu) {
                redist.private().deactivate(intid);
            }
            self.touched.add(vcpu);
        } else if intid < SPI_END {
            self.dist.spis().deactivate(intid);
            if self.resampled.contains(&intid) {
                self.dist.spis().set_line(intid, false);
                self.ended.push(intid);
            }
            // It may be pending again, and for another vCPU.
            self.touch_target(intid);
        }
    }

    /// Latches an SGI at each target. A group 1 request reaches both groups; a group 0 request only group 0
    /// (nothing in group 0 is delivered, but it can be moved to group 1 later and be pending then).
    fn generate_sgi(&mut self, sender: usize, request: SgiRequest, only_group0: bool) {
        for (vcpu, redist) in self.redists.iter_mut().enumerate() {
            let named = if request.all_others { vcpu != sender } else { request.names(affinity_of(vcpu)) };
            if named && (!only_group0 || redist.private().is_group0(request.intid)) {
                redist.private().latch(request.intid);
                self.touched.add(vcpu);
            }
        }
    }
}
