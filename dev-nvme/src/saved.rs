// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The controller's saved state: frozen structs of plain integers, no runtime type among them.
//!
//! Saved while idle, so no commands in flight are in it: commands not fetched are in guest memory, completions held
//! back are here. The blocks are not: both ends have the image. A change is a new struct with a higher version. What
//! comes in is untrusted and goes through `controller::state`'s checks.

use ipc::saved::{SavedError, SavedState, UnitKind};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Everything, version 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are those of the runtime types")]
pub struct NvmeV1 {
    pub namespace: NamespaceV1,
    pub config: Vec<u8>,
    pub msix: Vec<u8>,
    pub cc: u32,
    pub csts: u32,
    pub aqa: u32,
    pub asq: u64,
    pub acq: u64,
    pub shutdown_wanted: bool,
    pub submission: Vec<SubmissionQueueV1>,
    pub completion: Vec<CompletionQueueV1>,
    pub features: FeaturesV1,
    pub event_requests: Vec<u16>,
    pub events_pending: Vec<u32>,
    pub events_masked: u8,
    pub counters: CountersV1,
    pub error_count: u64,
    pub errors: Vec<Vec<u8>>,
}

/// Everything, version 2: doorbells may be in the host's memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are those of the runtime types")]
pub struct NvmeV2 {
    pub v1: NvmeV1,
    pub shadow: Option<ShadowV2>,
}

impl From<NvmeV1> for NvmeV2 {
    fn from(v1: NvmeV1) -> Self {
        Self { v1, shadow: None }
    }
}

/// The two pages of Doorbell Buffer Config.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are those of the runtime types")]
pub struct ShadowV2 {
    pub doorbells: u64,
    pub event_indices: u64,
}

/// What both ends must agree on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are those of the runtime types")]
pub struct NamespaceV1 {
    pub serial: String,
    pub block_shift: u8,
    pub blocks: u64,
}

/// The saved form of `SubmissionQueue`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are those of the runtime types")]
pub struct SubmissionQueueV1 {
    pub id: u16,
    pub base: u64,
    pub size: u32,
    pub head: u32,
    pub tail: u32,
    pub cqid: u16,
}

/// The saved form of `CompletionQueue`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are those of the runtime types")]
pub struct CompletionQueueV1 {
    pub id: u16,
    pub base: u64,
    pub size: u32,
    pub head: u32,
    pub tail: u32,
    pub phase: bool,
    pub vector: Option<u16>,
    pub held: Vec<CompletedV1>,
}

/// A completion held back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are those of the runtime types")]
pub struct CompletedV1 {
    pub dw0: u32,
    pub sqid: u16,
    pub cid: u16,
    pub status: u16,
}

/// The saved form of Set Features values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are those of the runtime types")]
pub struct FeaturesV1 {
    pub arbitration: u32,
    pub temperature_over: u16,
    pub temperature_under: u16,
    pub error_recovery: u32,
    pub write_cache: bool,
    pub coalescing: u32,
    pub coalescing_disabled: u32,
    pub write_atomicity: u32,
    pub event_configuration: u32,
}

/// The SMART counters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are those of the runtime types")]
pub struct CountersV1 {
    pub bytes_read: u64,
    pub bytes_written: u64,
    pub reads: u64,
    pub writes: u64,
    pub media_errors: u64,
    pub power_cycles: u64,
    pub unsafe_shutdowns: u64,
}

impl SavedState for NvmeV1 {
    const KIND: UnitKind = UnitKind::new("nvme");
    const VERSION: u16 = 1;
}

impl SavedState for NvmeV2 {
    const KIND: UnitKind = NvmeV1::KIND;
    const VERSION: u16 = 2;
}

/// Why a state does not fit this controller.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StateError {
    /// The stream is broken.
    #[error(transparent)]
    Stream(#[from] SavedError),
    /// It is of another disk.
    #[error("the state is of {found}, this controller is {expected}")]
    OtherNamespace {
        /// In the state.
        found: String,
        /// Here.
        expected: String,
    },
    /// A value that no controller can have.
    #[error("saved NVMe state: invalid value {found:#x}: {what}")]
    Impossible {
        /// Name of the saved field.
        what: &'static str,
        /// Its value.
        found: u64,
    },
}

#[cfg(test)]
mod tests;
