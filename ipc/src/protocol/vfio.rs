// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How the process of an assigned device is told what device it is, and where the guest sees it.
//!
//! The guest physical windows are fixed by the device's slot: its configuration space, and three areas in which the
//! device places its own BARs, which then stay. Sent once, in `Request::Configure`.

use serde::{Deserialize, Serialize};

use crate::addr::{Bdf, Gpa, GpaRange, StreamId};
use crate::instance::InstanceId;
use crate::protocol::ram::RamLayout;
use crate::protocol::smmu::Model;

/// The number that requests for the configuration space carry in the ring.
pub const CONFIG_REGION: u16 = 0;
/// The number that requests for the 32-bit BAR area carry.
pub const AREA32_REGION: u16 = 1;
/// The number that requests for the 64-bit BAR area carry.
pub const AREA64_REGION: u16 = 2;
/// The number that requests for the I/O BAR area carry.
pub const IO_REGION: u16 = 3;
/// Bytes of a function's configuration space.
pub const CONFIG_LEN: u64 = 4096;

/// Everything the process needs to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VfioConfig {
    /// Which process it is, for logs and counters: `vfio0`.
    pub id: InstanceId,
    /// Where it sits on the guest's bus.
    pub bdf: Bdf,
    /// By what number its vSMMU knows it.
    pub stream: StreamId,
    /// Where its BARs may lie.
    pub areas: BarAreas,
    /// Where its MSIs must arrive, after translation: `GITS_TRANSLATER`.
    pub doorbell: Gpa,
    /// The guest's RAM, which its DMA reaches.
    pub ram: RamLayout,
    /// Whether the device's server is given guest RAM while the stream is in bypass.
    pub direct_dma: bool,
    /// What the vSMMU before it advertises.
    pub model: Model,
    /// The device's server outlives this process: a next life finds it at the same connection.
    pub keeps_server: bool,
}

/// What of the guest's address space is there for a function's BARs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BarAreas {
    /// Where its 32-bit BARs and those that are not prefetchable may lie.
    pub memory32: GpaRange,
    /// Where its 64-bit prefetchable BARs may lie.
    pub memory64: GpaRange,
    /// Where its I/O BARs may lie.
    pub io: GpaRange,
    /// Where the host bridge has I/O address 0: what a memory BAR holds is where the guest sees it, what an I/O BAR
    /// holds is counted from here.
    pub io_base: Gpa,
}

impl BarAreas {
    /// The area whose requests carry this number.
    #[must_use]
    pub fn of(&self, region: u16) -> Option<GpaRange> {
        match region {
            AREA32_REGION => Some(self.memory32),
            AREA64_REGION => Some(self.memory64),
            IO_REGION => Some(self.io),
            _ => None,
        }
    }

    /// The areas that may hold memory, with their numbers.
    #[must_use]
    pub const fn memory(&self) -> [(u16, GpaRange); 2] {
        [(AREA32_REGION, self.memory32), (AREA64_REGION, self.memory64)]
    }
}
