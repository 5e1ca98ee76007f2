// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How the NVMe controller's process is told what controller it is. Sent once, in `Request::Configure`.
//!
//! Its image and its client's connection come as fds at exec; the guest reaches it through the device process only.

use serde::{Deserialize, Serialize};

use crate::instance::InstanceId;

/// Everything the process needs to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NvmeConfig {
    /// Which process it is, for logs and counters: `nvme0`.
    pub id: InstanceId,
    /// The serial number that the guest sees, up to 20 characters; `None`: it follows from the image.
    pub serial: Option<String>,
    /// The logical block size: 512 or 4096.
    pub block_len: u32,
    /// The image takes no writes.
    pub readonly: bool,
    /// The image's name, for the log.
    pub image: String,
}
