// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The two identities a transaction carries, as types that do not mix with addresses or each other.
//!
//! Addresses stay `u64`: in stage 1 the input is a VA and the output an IPA or PA, and every function
//! of this crate names which it takes. IHI 0070 §3.2 (StreamID) and §3.2.1 (SubstreamID).

use core::fmt;

use serde::{Deserialize, Serialize};

/// Which requester a transaction comes from; for PCIe, the requester id as the machine maps it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StreamId(pub u32);

/// Which address space of a stream; for PCIe, the PASID. 20 bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SubstreamId(pub u32);

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stream {:#x}", self.0)
    }
}

impl fmt::Display for SubstreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "substream {:#x}", self.0)
    }
}
