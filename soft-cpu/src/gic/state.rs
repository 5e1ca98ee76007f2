// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The state behind the lock, and the rule that keeps IRQ lines up to date.
//!
//! Each change marks the vCPUs that it may concern in `touched`; before the lock is released,
//! `publish` computes the best interrupt of each marked vCPU anew and stores its line. So what an
//! acknowledge returns is already known, and an access costs one pass over the SPI words at most.

use std::sync::atomic::Ordering;

use super::cpu_interface::CpuInterface;
use super::distributor::Distributor;
use super::its::Its;
use super::redistributor::Redistributor;
use super::saved::{GicV1, ItsV1};
use super::spec::access::{Access, Refused};
use super::spec::redist;
use super::spec::{PPI_FIRST, SPI_FIRST};
use super::{GicConfig, GicError, IrqLine, TableMemory};

/// A set of vCPUs; [`super::VCPU_COUNT_MAX`] is what a word holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VcpuSet(u64);

impl VcpuSet {
    /// Adds one; numbers that no machine has are ignored.
    pub fn add(&mut self, vcpu: usize) {
        if vcpu < super::VCPU_COUNT_MAX {
            self.0 |= 1 << vcpu;
        }
    }

    /// Adds every possible vCPU.
    pub fn add_all(&mut self) {
        self.0 = u64::MAX;
    }

    /// True if it is in the set.
    pub fn has(self, vcpu: usize) -> bool {
        vcpu < super::VCPU_COUNT_MAX && self.0 & (1 << vcpu) != 0
    }

    /// True if nothing is in the set.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// The model's state.
pub struct State {
    /// GICD.
    pub dist: Distributor,
    /// GICR, by vCPU.
    pub redists: Vec<Redistributor>,
    /// ICC, by vCPU.
    pub cpus: Vec<CpuInterface>,
    /// GITS, if the machine has one.
    pub its: Option<Its>,
    /// vCPUs whose best interrupt may have changed since the last `publish`.
    pub touched: VcpuSet,
    /// SPIs whose wire is lowered at end of interrupt, for level-sensitive lines that devices share: a device that
    /// still asserts the line raises it again.
    pub resampled: Vec<u32>,
    /// Resampled SPIs that were deactivated since the lock was taken.
    pub ended: Vec<u32>,
    /// Accesses refused for their size or alignment.
    pub refused: u64,
}

impl State {
    /// Reset state of a machine.
    pub fn new(config: &GicConfig) -> Self {
        let count = config.vcpu_count;
        Self {
            dist: Distributor::new(count, config.spi_count, config.its),
            redists: (0..count).map(|vcpu| Redistributor::new(vcpu, vcpu + 1 == count, config.its)).collect(),
            cpus: (0..count).map(|_| CpuInterface::new()).collect(),
            its: config.its.then(Its::new),
            touched: VcpuSet::default(),
            resampled: Vec::new(),
            ended: Vec::new(),
            refused: 0,
        }
    }

    /// Recomputes what was touched and publishes the lines. Returns the vCPUs whose line rose.
    pub fn publish(&mut self, lines: &[IrqLine]) -> VcpuSet {
        let touched = std::mem::take(&mut self.touched);
        let mut rose = VcpuSet::default();
        if touched.is_empty() {
            return rose;
        }
        for (vcpu, ((cpu, redist), line)) in self.cpus.iter_mut().zip(&self.redists).zip(lines).enumerate() {
            if !touched.has(vcpu) {
                continue;
            }
            cpu.forward(forwarded(&self.dist, redist, vcpu));
            let high = cpu.irq();
            // Only this function stores, under the lock: a plain swap is enough to see the edge.
            if high && !line.0.swap(true, Ordering::Release) {
                rose.add(vcpu);
            } else if !high {
                line.0.store(false, Ordering::Release);
            }
        }
        rose
    }

    /// The result of a frame's handler; a refused access reads as zero and is counted.
    fn settle(&mut self, outcome: Result<u64, Refused>) -> u64 {
        outcome.unwrap_or_else(|Refused| {
            self.refused = self.refused.saturating_add(1);
            0
        })
    }

    /// GICD read.
    pub fn dist_read(&mut self, offset: u64, size: u8) -> u64 {
        let outcome = Access::new(offset, size).and_then(|access| self.dist.read(access));
        self.settle(outcome)
    }

    /// GICD write.
    pub fn dist_write(&mut self, offset: u64, size: u8, value: u64) {
        let outcome = Access::new(offset, size).and_then(|access| self.dist.write(access, value));
        self.touched.add_all();
        self.settle(outcome.map(|()| 0));
    }

    /// GICR read, in the region of all redistributors.
    pub fn redist_read(&mut self, offset: u64, size: u8) -> u64 {
        let (frame, offset) = (offset / redist::STRIDE, offset % redist::STRIDE);
        let Some(redist) = usize::try_from(frame).ok().and_then(|frame| self.redists.get(frame)) else {
            return 0;
        };
        let outcome = Access::new(offset, size).and_then(|access| redist.read(access));
        self.settle(outcome)
    }

    /// GICR write.
    pub fn redist_write(&mut self, offset: u64, size: u8, value: u64, memory: &dyn TableMemory) {
        let (frame, offset) = (offset / redist::STRIDE, offset % redist::STRIDE);
        let Ok(frame) = usize::try_from(frame) else { return };
        let Some(redist) = self.redists.get_mut(frame) else { return };
        let outcome = Access::new(offset, size).and_then(|access| redist.write(access, value, memory));
        self.touched.add(frame);
        self.settle(outcome.map(|()| 0));
    }

    /// GITS read.
    pub fn its_read(&mut self, offset: u64, size: u8, memory: &dyn TableMemory) -> u64 {
        let Some(its) = &mut self.its else { return 0 };
        let outcome = Access::new(offset, size)
            .and_then(|access| its.read(access, &mut self.redists, memory, &mut self.touched));
        self.settle(outcome)
    }

    /// GITS write.
    pub fn its_write(&mut self, offset: u64, size: u8, value: u64, memory: &dyn TableMemory) {
        let Some(its) = &mut self.its else { return };
        let outcome = Access::new(offset, size)
            .and_then(|access| its.write(access, value, &mut self.redists, memory, &mut self.touched));
        self.settle(outcome.map(|()| 0));
    }

    /// An SPI's input wire.
    pub fn set_level(&mut self, intid: u32, high: bool) {
        if self.dist.spis().set_line(intid, high) {
            self.touch_target(intid);
        }
    }

    /// An edge on an SPI's input wire.
    pub fn pulse(&mut self, intid: u32) {
        if self.dist.spis().pulse(intid) {
            self.touch_target(intid);
        }
    }

    /// Marks the vCPU that an SPI is routed to.
    pub fn touch_target(&mut self, intid: u32) {
        for vcpu in 0..self.cpus.len() {
            if self.dist.is_routed_to(intid, vcpu) {
                self.touched.add(vcpu);
            }
        }
    }

    /// A PPI's input wire.
    pub fn set_ppi_level(&mut self, vcpu: usize, intid: u32, high: bool) {
        let Some(redist) = self.redists.get_mut(vcpu) else { return };
        if (PPI_FIRST..SPI_FIRST).contains(&intid) && redist.private().set_line(intid, high) {
            self.touched.add(vcpu);
        }
    }

    /// The saved form of everything but the ITS.
    pub fn save(&self) -> GicV1 {
        // The ITS is a unit of its own; nothing is touched or ended between calls; refusals are this process's; which
        // wires are resampled is the machine's shape.
        let Self { dist, redists, cpus, its: _, touched: _, resampled: _, ended: _, refused: _ } = self;
        GicV1 {
            distributor: dist.save(),
            redistributors: redists.iter().map(Redistributor::save).collect(),
            cpu_interfaces: cpus.iter().map(CpuInterface::save).collect(),
        }
    }

    /// Fills a state at reset.
    pub fn restore(
        &mut self,
        memory: &dyn TableMemory,
        gic: &GicV1,
        its: Option<&ItsV1>,
    ) -> Result<(), GicError> {
        let GicV1 { distributor, redistributors, cpu_interfaces } = gic;
        if redistributors.len() != self.redists.len() || cpu_interfaces.len() != self.cpus.len() {
            return Err(GicError::Shape("vCPUs"));
        }
        if its.is_some() != self.its.is_some() {
            return Err(GicError::Shape("interrupt translation services"));
        }
        self.dist.restore(distributor)?;
        for (redist, saved) in self.redists.iter_mut().zip(redistributors) {
            redist.restore(saved, memory)?;
        }
        self.cpus = cpu_interfaces.iter().map(CpuInterface::restore).collect();
        self.its = its.map(Its::restore);
        self.touched.add_all();
        Ok(())
    }
}

/// What the distributor and the redistributor forward to a vCPU's interface.
fn forwarded(dist: &Distributor, redist: &Redistributor, vcpu: usize) -> Option<super::bank::Candidate> {
    if !dist.group1_enabled() || redist.is_asleep() {
        return None;
    }
    redist.best().into_iter().chain(dist.best(vcpu)).min()
}
