// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The configuration of an NVMe controller's process. Sent once, in `Request::Configure`.
//!
//! Its image and its vfio-user connection are descriptors given at exec; the guest reaches it through the function's
//! process only.

use serde::{Deserialize, Serialize};

use crate::instance::InstanceId;

/// The configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NvmeConfig {
    /// Which process it is, for logs and counters: `nvme0`.
    pub id: InstanceId,
    /// The serial number that the guest sees, up to 20 characters; `None`: derived from the image.
    pub serial: Option<String>,
    /// The logical block size: 512 or 4096.
    pub block_len: u32,
    /// Whether the disk is write-protected.
    pub readonly: bool,
    /// The image's name, for the log.
    pub image: String,
}
