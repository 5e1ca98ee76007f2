// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How the vSMMU process is told what SMMU it is.
//!
//! What is advertised to the guest (the ID registers) follows from [`SmmuModel`] alone: explicit, versioned,
//! equal at both ends of a migration, never derived from the host. Sent once, in `Request::Configure`.

use serde::{Deserialize, Serialize};

use crate::addr::{Gpa, StreamId};
use crate::protocol::ram::RamLayout;

/// Everything the vSMMU process needs to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SmmuConfig {
    /// For logs and counters: `smmu0`.
    pub name: String,
    /// The number that requests for it carry in the ring.
    pub region: u16,
    /// Where the guest sees it.
    pub base: Gpa,
    /// Its size in bytes: two 64 KiB register pages.
    pub len: u64,
    /// The guest's RAM, where its tables and queues are.
    pub ram: RamLayout,
    /// What it advertises.
    pub model: SmmuModel,
    /// The devices behind it.
    pub devices: Vec<SmmuDevice>,
}

/// A device behind the SMMU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SmmuDevice {
    /// For logs and counters: `vfio0`.
    pub name: String,
    /// Its StreamID.
    pub stream: StreamId,
    /// Its stage 1 channel.
    pub fd: u8,
}

/// What an SMMU advertises: a named profile and the options a user may choose within it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SmmuModel {
    /// The profile's versioned name, `bulkhead-smmu-1`.
    pub profile: String,
    /// `IDR1.SIDSIZE`: bits of a StreamID.
    pub stream_id_bits: u8,
    /// `IDR1.SSIDSIZE`: bits of a SubstreamID; 0 is none.
    pub substream_id_bits: u8,
    /// `IDR5.OAS`: bits of an output address.
    pub output_bits: u8,
    /// `IDR5.GRAN4K`.
    pub granule_4k: bool,
    /// `IDR5.GRAN16K`.
    pub granule_16k: bool,
    /// `IDR5.GRAN64K`.
    pub granule_64k: bool,
    /// `IDR3.RIL`: range invalidation.
    pub range_invalidation: bool,
    /// `IDR0.ST_LEVEL`: 2-level stream tables as well as linear ones.
    pub stream_table_2_level: bool,
}

impl Default for SmmuModel {
    /// What a new guest gets: everything `bulkhead-smmu-1` can do, for the IPA space of `bulkhead-virt-1`.
    fn default() -> Self {
        Self {
            profile: "bulkhead-smmu-1".to_owned(),
            stream_id_bits: 16,
            substream_id_bits: 16,
            output_bits: 40,
            granule_4k: true,
            granule_16k: true,
            granule_64k: true,
            range_invalidation: true,
            stream_table_2_level: true,
        }
    }
}
