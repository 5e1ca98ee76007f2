// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The configuration of the process of an assigned device.
//!
//! The slot fixes the guest physical ranges of the device: its configuration space, and three areas in which its BARs
//! are placed, where they stay. Sent once, in `Request::Configure`.

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
