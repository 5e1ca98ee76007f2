// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The configuration of the process of an assigned device.
//!
//! The slot fixes the guest physical ranges of the device: its configuration space, and three areas in which its BARs
//! are placed, where they stay. Sent once, in `Request::Configure`.

use core::ops::Range;

use serde::{Deserialize, Serialize};

use crate::addr::{Bdf, Gpa, GpaRange, StreamId};
use crate::instance::InstanceId;
use crate::protocol::ram::RamLayout;
use crate::protocol::smmu::Model;

/// The region number, in the ring, of accesses to configuration space.
pub const CONFIG_REGION: u16 = 0;
/// The region number of accesses to the 32-bit BAR area.
pub const AREA32_REGION: u16 = 1;
/// The region number of accesses to the 64-bit BAR area.
pub const AREA64_REGION: u16 = 2;
/// The region number of accesses to the I/O BAR area.
pub const IO_REGION: u16 = 3;
/// Bytes of a function's configuration space.
pub const CONFIG_LEN: u64 = 4096;

/// The configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VfioConfig {
    /// Which process it is, for logs and counters: `vfio0`.
    pub id: InstanceId,
    /// Its address on the guest's PCI bus.
    pub bdf: Bdf,
    /// Its StreamID at its vSMMU.
    pub stream: StreamId,
    /// Where its BARs may lie.
    pub areas: BarAreas,
    /// Where its MSIs must arrive, after translation: `GITS_TRANSLATER`.
    pub doorbell: Gpa,
    /// The guest's RAM, which its DMA reaches.
    pub ram: RamLayout,
    /// Whether the device's server is given guest RAM while the stream is in bypass.
    pub direct_dma: bool,
    /// What its vSMMU advertises.
    pub model: Model,
    /// Whether the device's server outlives this process: a next life takes over the connection.
    pub keeps_server: bool,
    /// If this process or the device's server dies, the next lives of both go on from their checkpoints: what of the
    /// device's registers may be accessed twice. `None`: there is no next life.
    pub next_life: Option<IdempotentRegisters>,
}

/// Registers of a device's model that may be accessed twice: a death between an access and its answer leaves open
/// whether it was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdempotentRegisters {
    /// The region, by its index in VFIO. Reads of it have no effect, and a write that is made twice in succession has
    /// that of the first.
    pub region: u32,
    /// Offsets of its registers of which only the latest value counts: they may be written again later, until any
    /// other register is written.
    pub doorbells: Range<u64>,
}

impl IdempotentRegisters {
    /// Of a device that is not known: none.
    #[must_use]
    pub const fn none() -> Self {
        Self { region: u32::MAX, doorbells: 0..0 }
    }

    /// Of an NVMe controller, NVMe 1.4 section 3.1: all of BAR 0. CAP, VS and CSTS are read-only; INTMS and INTMC are
    /// not there with MSI-X; AQA, ASQ and ACQ hold what is written; CC acts when EN or SHN changes, and a second write
    /// of the same value changes neither. The doorbells hold positions in rings, the same one as often as it is
    /// written. Those of the admin queues are no doorbells here: a command that they announce may delete an I/O queue,
    /// and the next one make another, at which an earlier position would be wrong.
    #[must_use]
    pub const fn nvme() -> Self {
        Self { region: 0, doorbells: 0x1008..0x1000 + 17 * 2 * 4 }
    }
}

/// The ranges of the guest's address space for a function's BARs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BarAreas {
    /// Where its 32-bit BARs and those that are not prefetchable may lie.
    pub memory32: GpaRange,
    /// Where its 64-bit prefetchable BARs may lie.
    pub memory64: GpaRange,
    /// Where its I/O BARs may lie.
    pub io: GpaRange,
    /// Where the host bridge maps I/O address 0. Memory BARs hold guest physical addresses, I/O BARs offsets from here.
    pub io_base: Gpa,
}

impl BarAreas {
    /// The area of this region number.
    #[must_use]
    pub fn of(&self, region: u16) -> Option<GpaRange> {
        match region {
            AREA32_REGION => Some(self.memory32),
            AREA64_REGION => Some(self.memory64),
            IO_REGION => Some(self.io),
            _ => None,
        }
    }

    /// The areas of memory BARs, with their region numbers.
    #[must_use]
    pub const fn memory(&self) -> [(u16, GpaRange); 2] {
        [(AREA32_REGION, self.memory32), (AREA64_REGION, self.memory64)]
    }
}
