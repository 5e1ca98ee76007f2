// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How a stream's DMA is translated, as the vSMMU sends it to the device's process.
//!
//! The same three choices, with the same words of the stream table entry, that a host's kernel takes for a nested
//! page table (`iommu_hwpt_arm_smmuv3`), so that software and hardware translation take the same message. IHI 0070
//! §5.2.

use serde::{Deserialize, Serialize};

/// What a stream is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Attachment {
    /// Terminated.
    Abort,
    /// Its addresses are guest physical ones.
    Bypass,
    /// Translated by the guest's stage 1: words 0 and 1 of its stream table entry, reduced to the fields that a
    /// nesting host may be given.
    Stage1([u64; 2]),
}
