// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The interface to the interrupt controller: a CPU's accesses to its GIC CPU interface and redistributor.
//!
//! System registers are named by `op0<<14|op1<<11|crn<<7|crm<<3|op2`.

use std::sync::atomic::AtomicBool;

use crate::gic::Gic;

/// An interrupt controller with a system register CPU interface, shared by all CPUs.
pub trait InterruptController: Send + Sync {
    /// Whether an interrupt of sufficient priority waits for this CPU. Read often: a plain load.
    fn irq_line(&self, vcpu: usize) -> &AtomicBool;
    /// Reads a CPU interface register; `None` if there is no such register to read.
    fn icc_read(&self, vcpu: usize, sysreg: u16) -> Option<u64>;
    /// Writes a CPU interface register; false if there is no such register to write.
    fn icc_write(&self, vcpu: usize, sysreg: u16, value: u64) -> bool;
    /// The CPU was switched on: its CPU interface starts at reset values.
    fn reset_cpu_interface(&self, vcpu: usize);
    /// Sets the level of a private peripheral interrupt.
    fn set_ppi_level(&self, vcpu: usize, intid: u32, high: bool);
}

impl InterruptController for Gic {
    fn irq_line(&self, vcpu: usize) -> &AtomicBool {
        Gic::irq_line(self, vcpu)
    }

    fn icc_read(&self, vcpu: usize, sysreg: u16) -> Option<u64> {
        Gic::icc_read(self, vcpu, sysreg)
    }

    fn icc_write(&self, vcpu: usize, sysreg: u16, value: u64) -> bool {
        Gic::icc_write(self, vcpu, sysreg, value)
    }

    fn reset_cpu_interface(&self, vcpu: usize) {
        Gic::reset_cpu_interface(self, vcpu);
    }

    fn set_ppi_level(&self, vcpu: usize, intid: u32, high: bool) {
        Gic::set_ppi_level(self, vcpu, intid, high);
    }
}
