// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The configuration of a vSMMU's process.
//!
//! What is advertised to the guest (the ID registers) follows from [`Model`] alone: explicit, versioned,
//! equal at both ends of a migration, never derived from the host. Sent once, in `Request::Configure`.

use serde::{Deserialize, Serialize};
pub use smmu_arch::{Granules, Model, ModelError, Options};

use crate::addr::{Gpa, StreamId};
use crate::instance::InstanceId;
use crate::protocol::ram::RamLayout;

/// The configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SmmuConfig {
    /// Which process it is, for logs and counters: `smmu0`.
    pub id: InstanceId,
    /// The region number of its accesses in the ring.
    pub region: u16,
    /// Where the guest sees it.
    pub base: Gpa,
    /// Its size in bytes: two 64 KiB register pages.
    pub len: u64,
    /// The guest's RAM, where its tables and queues are.
    pub ram: RamLayout,
    /// What its ID registers advertise.
    pub model: Model,
    /// The devices behind it.
    pub devices: Vec<SmmuDevice>,
}

/// A device behind the SMMU. Its stage 1 channel is `stage1:PEER`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SmmuDevice {
    /// Its process.
    pub peer: InstanceId,
    /// Its StreamID.
    pub stream: StreamId,
}

#[cfg(test)]
mod tests;
