// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A GICv3 with an ITS, in software (Arm IHI 0069): a pure model behind one lock.
//!
//! vCPU threads and device threads call it at once; nothing here does I/O, waits, or panics, whatever the
//! guest writes. Guest memory (ITS tables and command queue, LPI configuration and pending tables) is reached
//! through [`TableMemory`]. A vCPU's loop reads its IRQ line often: that is one atomic load, from
//! [`Gic::irq_line`].
//!
//! Offered: affinity routing only (ARE = 1), one security state (DS = 1), group 1; five priority bits with
//! preemption; SPIs by wire, pulse and message; LPIs by ITS. Group 0 can be configured and stays pending: FIQ
//! is never signalled. See `DESIGN-gic.md`.
#![forbid(unsafe_code)]
// The crate root relaxes these two for the interpreter; nothing here needs that.
#![deny(clippy::indexing_slicing, clippy::cast_possible_truncation)]

mod bank;
mod cpu_interface;
mod distributor;
mod icc;
mod its;
mod lpi;
mod priority;
mod redistributor;
pub mod saved;
mod spec;
mod state;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

pub use self::its::{CommandError, ItsCounters};
pub use self::priority::PRIORITY_BITS;
use self::saved::{GicV1, ItsV1};
use self::spec::command::Event;
use self::state::State;

/// Most vCPUs that a machine can have: what one word of [`state::VcpuSet`] holds.
pub const VCPU_COUNT_MAX: usize = 64;
/// Most SPIs: INTIDs 32..=1019.
const SPI_COUNT_MAX: u32 = spec::SPI_END - spec::SPI_FIRST;
/// Bytes of each vCPU's redistributor.
pub const REDISTRIBUTOR_LEN: u64 = spec::redist::STRIDE;

/// Affinity of a vCPU as Aff3.Aff2.Aff1.Aff0, to be used for MPIDR_EL1 as well.
///
/// Aff0 stays below 16, so a target list of ICC_SGI1R reaches every vCPU without a range selector.
pub const fn affinity_of(vcpu: usize) -> u32 {
    let vcpu = spec::low32(vcpu as u64);
    ((vcpu / 16) << 8) | (vcpu % 16)
}

/// Guest memory as the GIC uses it. Called with the GIC's lock held: implementations must not call the GIC.
pub trait TableMemory: Send + Sync {
    /// Fills `buffer` from guest physical address `gpa`; false if any of it is not memory.
    fn read(&self, gpa: u64, buffer: &mut [u8]) -> bool;
    /// Writes `bytes` at `gpa`, marking the dirty log; false (and nothing written) if any of it is not
    /// memory.
    fn write(&self, gpa: u64, bytes: &[u8]) -> bool;
}

/// Called after the lock is released, when a vCPU's IRQ line has risen: the vCPU should be woken.
pub type OnIrq = Box<dyn Fn(usize) + Send + Sync>;

/// Called after the lock is released, when the guest has ended a resampled SPI and its wire has fallen.
pub type OnEnd = Box<dyn Fn(u32) + Send + Sync>;

/// The machine's shape. Not saved: both ends of a migration build it from the machine's description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GicConfig {
    /// 1..=[`VCPU_COUNT_MAX`].
    pub vcpu_count: usize,
    /// At most [`SPI_COUNT_MAX`]; rounded up to a multiple of 32 where INTIDs allow.
    pub spi_count: u32,
    /// Whether there are LPIs and an ITS.
    pub its: bool,
}

/// Why a GIC could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GicError {
    /// The number of vCPUs is zero or too large.
    #[error("a GIC serves 1 to {VCPU_COUNT_MAX} vCPUs, not {0}")]
    VcpuCount(usize),
    /// Too many SPIs.
    #[error("a GIC has at most {SPI_COUNT_MAX} SPIs, not {0}")]
    SpiCount(u32),
    /// A saved state is of a machine of another shape.
    #[error("saved GIC state has another number of {0} than this machine")]
    Shape(&'static str),
}

/// An IRQ line on a cache line of its own: each vCPU polls its own without disturbing others.
#[derive(Debug, Default)]
#[repr(align(64))]
struct IrqLine(AtomicBool);

/// The line of a vCPU that does not exist.
static NO_LINE: AtomicBool = AtomicBool::new(false);

/// Counters of guest-caused events since this GIC was made; for `inspect`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GicCounters {
    /// Accesses refused for their size or alignment.
    pub refused_accesses: u64,
    /// The ITS's counters; zeros when there is none.
    pub its: ItsCounters,
}

/// The interrupt controller of one machine.
pub struct Gic {
    state: Mutex<State>,
    lines: Vec<IrqLine>,
    memory: Arc<dyn TableMemory>,
    on_irq: OnIrq,
    on_end: OnEnd,
    config: GicConfig,
}

impl Gic {
    /// A GIC at reset.
    ///
    /// # Errors
    /// If there are no vCPUs, or more vCPUs or SPIs than a GIC of this model has.
    pub fn new(config: GicConfig, memory: Arc<dyn TableMemory>, on_irq: OnIrq) -> Result<Self, GicError> {
        if !(1..=VCPU_COUNT_MAX).contains(&config.vcpu_count) {
            return Err(GicError::VcpuCount(config.vcpu_count));
        }
        if config.spi_count > SPI_COUNT_MAX {
            return Err(GicError::SpiCount(config.spi_count));
        }
        let lines = std::iter::repeat_with(IrqLine::default).take(config.vcpu_count).collect();
        let state = Mutex::new(State::new(&config));
        Ok(Self { state, lines, memory, on_irq, on_end: Box::new(|_| ()), config })
    }

    /// The same, with wires of these SPIs that fall when the guest ends the interrupt. Several devices may assert such
    /// a wire: `on_end` asks them whether they still do.
    #[must_use]
    pub fn with_resampled(mut self, intids: Vec<u32>, on_end: OnEnd) -> Self {
        self.state.get_mut().unwrap_or_else(PoisonError::into_inner).resampled = intids;
        self.on_end = on_end;
        self
    }

    /// Runs `change` under the lock, brings the lines up to date, then reports those that rose.
    fn with<R>(&self, change: impl FnOnce(&mut State, &dyn TableMemory) -> R) -> R {
        let (result, rose, ended) = {
            // A poisoned lock is usable: no invariant of the state spans a point where a caller may panic.
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let result = change(&mut state, self.memory.as_ref());
            (result, state.publish(&self.lines), std::mem::take(&mut state.ended))
        };
        if !rose.is_empty() {
            (0..self.config.vcpu_count).filter(|vcpu| rose.has(*vcpu)).for_each(|vcpu| (self.on_irq)(vcpu));
        }
        ended.into_iter().for_each(|intid| (self.on_end)(intid));
        result
    }

    /// The machine's shape.
    pub fn config(&self) -> GicConfig {
        self.config
    }

    /// The level of a vCPU's IRQ input. Stored (release) before the call that changed it returns.
    pub fn irq_line(&self, vcpu: usize) -> &AtomicBool {
        self.lines.get(vcpu).map_or(&NO_LINE, |line| &line.0)
    }

    /// GICD read; `size` is 1, 2, 4 or 8 bytes.
    pub fn dist_read(&self, offset: u64, size: u8) -> u64 {
        self.with(|state, _| state.dist_read(offset, size))
    }

    /// GICD write.
    pub fn dist_write(&self, offset: u64, size: u8, value: u64) {
        self.with(|state, _| state.dist_write(offset, size, value));
    }

    /// GICR read; `offset` is in the region of all redistributors, [`REDISTRIBUTOR_LEN`] bytes a vCPU.
    pub fn redist_read(&self, offset: u64, size: u8) -> u64 {
        self.with(|state, _| state.redist_read(offset, size))
    }

    /// GICR write.
    pub fn redist_write(&self, offset: u64, size: u8, value: u64) {
        self.with(|state, memory| state.redist_write(offset, size, value, memory));
    }

    /// GITS read; runs waiting commands when the guest polls for their end.
    pub fn its_read(&self, offset: u64, size: u8) -> u64 {
        self.with(|state, memory| state.its_read(offset, size, memory))
    }

    /// GITS write; runs a bounded number of commands.
    pub fn its_write(&self, offset: u64, size: u8, value: u64) {
        self.with(|state, memory| state.its_write(offset, size, value, memory));
    }

    /// Runs up to `budget` units of queued ITS commands; true if some are left.
    pub fn its_step(&self, budget: u32) -> bool {
        self.with(|state, memory| {
            let State { its, redists, touched, .. } = state;
            its.as_mut().is_some_and(|its| its.step(budget, redists, memory, touched))
        })
    }

    /// Reads an ICC register, named `op0 << 14 | op1 << 11 | CRn << 7 | CRm << 3 | op2`. `None`: there is no
    /// such register to read.
    pub fn icc_read(&self, vcpu: usize, register: u16) -> Option<u64> {
        self.with(|state, _| state.icc_read(vcpu, register))
    }

    /// Writes an ICC register; false if there is no such register to write.
    pub fn icc_write(&self, vcpu: usize, register: u16, value: u64) -> bool {
        self.with(|state, _| state.icc_write(vcpu, register, value))
    }

    /// A vCPU is switched on again: its CPU interface starts at reset values; its redistributor goes on.
    pub fn reset_cpu_interface(&self, vcpu: usize) {
        self.with(|state, _| state.reset_cpu_interface(vcpu));
    }

    /// Drives the input wire of SPI `intid` (INTID, from 32). Other numbers are ignored.
    pub fn set_level(&self, intid: u32, high: bool) {
        self.with(|state, _| state.set_level(intid, high));
    }

    /// Drives the input wire of a vCPU's PPI `intid` (16..=31).
    pub fn set_ppi_level(&self, vcpu: usize, intid: u32, high: bool) {
        self.with(|state, _| state.set_ppi_level(vcpu, intid, high));
    }

    /// Raises and lowers the wire of SPI `intid`. One that the guest has as level-sensitive is not left
    /// pending.
    pub fn pulse(&self, intid: u32) {
        self.with(|state, _| state.pulse(intid));
    }

    /// A device's message to GITS_TRANSLATER. False if nothing is mapped for it: the message is dropped.
    pub fn signal_msi(&self, device_id: u32, event_id: u32) -> bool {
        self.with(|state, memory| {
            let State { its, redists, touched, .. } = state;
            let event = Event { device: device_id, event: event_id };
            its.as_mut().is_some_and(|its| its.signal(event, redists, memory, touched))
        })
    }

    /// For `inspect`, since this GIC was made.
    pub fn counters(&self) -> GicCounters {
        self.with(|state, _| GicCounters {
            refused_accesses: state.refused,
            its: state.its.as_ref().map(|its| its.counters()).unwrap_or_default(),
        })
    }

    /// The state of everything but the ITS. vCPUs and devices must be paused, as between this and
    /// [`Self::save_its`].
    pub fn save(&self) -> GicV1 {
        self.with(|state, _| state.save())
    }

    /// The ITS's state; `None` for a machine without one.
    pub fn save_its(&self) -> Option<ItsV1> {
        self.with(|state, _| state.its.as_ref().map(its::Its::save))
    }

    /// A GIC as it was saved. Guest memory must be complete: the configuration of pending LPIs is read from
    /// it. Lines are already up to date when this returns, and `on_irq` has been called for those that are
    /// high.
    ///
    /// # Errors
    /// If the saved state is of a machine with other numbers of vCPUs or SPIs, or with or without an ITS.
    pub fn restore(
        config: GicConfig,
        memory: Arc<dyn TableMemory>,
        on_irq: OnIrq,
        gic: &GicV1,
        its: Option<&ItsV1>,
    ) -> Result<Self, GicError> {
        let this = Self::new(config, memory, on_irq)?;
        this.with(|state, memory| state.restore(memory, gic, its))?;
        Ok(this)
    }
}
