// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Completion Queue entries, NVMe 1.4 section 4.6.

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// A completion. Its last dword holds the phase tag: a host may look at the rest once that has turned.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Completion {
    /// What the command returns.
    pub dw0: U32,
    /// Reserved.
    pub dw1: U32,
    /// How far the Submission Queue was fetched.
    pub sq_head: U16,
    /// Which Submission Queue.
    pub sqid: U16,
    /// Which command.
    pub cid: U16,
    /// Status and phase tag.
    pub status: U16,
}

/// The length of a completion.
pub const COMPLETION_LEN: usize = 16;

const _: () = assert!(size_of::<Completion>() == COMPLETION_LEN);

impl Completion {
    /// The entry as it travels.
    #[must_use]
    pub fn to_bytes(self) -> [u8; COMPLETION_LEN] {
        zerocopy::transmute!(self)
    }
}
