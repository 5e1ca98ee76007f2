// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The interface to whatever translates the device's DMA: the operations of a host IOMMU with nested translation
//! (iommufd's).
//!
//! An implementation is made over the nesting parent, which is guest RAM at its guest physical addresses. On top of
//! it a stream is attached to abort, bypass or the guest's stage 1; cached translations are dropped by the guest's
//! own commands; faults are queued. Dirty logging is each back end's own. [`software`] does it by walking the guest's
//! tables, [`crate::physical::nested`] by ioctls, with the same rules, errors included.

pub mod fault_queue;
pub mod software;

use ipc::addr::StreamId;
use ipc::protocol::stage1::Attachment;
use rustix::io::Errno;
use thiserror::Error;

use fault_queue::Entry;

/// Bits of stream table entry word 0 that a nested attachment may have: V, Config, S1Fmt, S1ContextPtr, S1CDMax.
pub const STE_WORD0_ALLOWED: u64 = 1 | 0b111 << 1 | 0b11 << 4 | 0x000f_ffff_ffff_ffc0 | 0x1f << 59;
/// Of word 1: S1DSS, S1CIR, S1COR, S1CSH, S1STALLD, EATS.
pub const STE_WORD1_ALLOWED: u64 = 0xff | 1 << 27 | 0b11 << 28;

/// Why an attachment was refused; in terms of the kernel's error numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AttachError {
    /// `EIO`: the words have bits that may not be set, or ask for something other than stage 1.
    #[error("EIO: stream table entry words {0:#x?} cannot be nested")]
    Words([u64; 2]),
    /// `ENOENT`: the stream is not this device's.
    #[error("ENOENT: stream {:#x} is not this device's", .0.0)]
    Stream(StreamId),
    /// The host's kernel failed the call.
    #[error("{call} failed on the host: {errno}")]
    Host {
        /// The call's name in its headers.
        call: &'static str,
        /// The error.
        errno: Errno,
    },
}

/// How much of a batch of invalidations was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invalidated {
    /// How many commands, from the first on, have taken effect.
    pub done: usize,
    /// Whether the next one was refused (`EIO`) and the rest skipped.
    pub refused: bool,
}

/// A host IOMMU, as one device uses it. When a call has returned, no DMA uses the previous configuration.
pub trait HostIommu {
    /// Attaches a stream. On an error it stays attached to what it was.
    ///
    /// # Errors
    /// If the attachment is not one that a nesting host takes, or not for this device.
    fn attach(&mut self, stream: StreamId, to: Attachment) -> Result<(), AttachError>;
    /// Applies commands of the guest, 16 bytes each, as `IOMMU_HWPT_INVALIDATE` takes them.
    fn invalidate(&mut self, commands: &[[u64; 2]]) -> Invalidated;
    /// The next entry of the fault queue.
    fn next_fault(&mut self) -> Option<Entry>;
    /// How many entries it has, as far as this process can know.
    fn fault_count(&self) -> u64;
}
