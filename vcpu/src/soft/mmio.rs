// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! MMIO of a software CPU: its interrupt controller, and the machine's bus.

use crate::bus::Bus;
use machine::layout::{GIC_DISTRIBUTOR, GIC_ITS, GIC_REDISTRIBUTORS};
use soft_cpu::bus::Mmio;
use soft_cpu::gic::Gic;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Routes an access to one or the other.
pub struct GuestMmio {
    gic: Arc<Gic>,
    bus: Arc<Bus>,
    gic_accesses: AtomicU64,
}

/// A frame group of the interrupt controller, and the offset into it.
enum GicTarget {
    Distributor(u64),
    Redistributor(u64),
    Its(u64),
}

impl GuestMmio {
    /// Both.
    pub fn new(gic: Arc<Gic>, bus: Arc<Bus>) -> Self {
        Self { gic, bus, gic_accesses: AtomicU64::new(0) }
    }

    /// How often the interrupt controller's registers were accessed.
    pub fn gic_accesses(&self) -> u64 {
        self.gic_accesses.load(Ordering::Relaxed)
    }

    fn gic_target(&self, gpa: u64) -> Option<GicTarget> {
        let redistributor = || GIC_REDISTRIBUTORS.offset_of(gpa).map(GicTarget::Redistributor);
        let distributor = || GIC_DISTRIBUTOR.offset_of(gpa).map(GicTarget::Distributor);
        let target =
            redistributor().or_else(distributor).or_else(|| GIC_ITS.offset_of(gpa).map(GicTarget::Its));
        if target.is_some() {
            self.gic_accesses.fetch_add(1, Ordering::Relaxed);
        }
        target
    }
}

impl Mmio for GuestMmio {
    fn read(&self, _vcpu: usize, gpa: u64, size: u8) -> u64 {
        match self.gic_target(gpa) {
            Some(GicTarget::Distributor(offset)) => self.gic.dist_read(offset, size),
            Some(GicTarget::Redistributor(offset)) => self.gic.redist_read(offset, size),
            Some(GicTarget::Its(offset)) => self.gic.its_read(offset, size),
            None => self.bus.read(gpa, size),
        }
    }

    fn write(&self, _vcpu: usize, gpa: u64, size: u8, value: u64) {
        match self.gic_target(gpa) {
            Some(GicTarget::Distributor(offset)) => self.gic.dist_write(offset, size, value),
            Some(GicTarget::Redistributor(offset)) => self.gic.redist_write(offset, size, value),
            Some(GicTarget::Its(offset)) => self.gic.its_write(offset, size, value),
            None => self.bus.write(gpa, size, value),
        }
    }
}
