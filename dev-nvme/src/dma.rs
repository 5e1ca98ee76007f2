// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The host's memory as the controller reaches it: by IOVA.
//!
//! The seam between the model and its surroundings: mapped windows, messages to a vfio-user client, or a test's
//! vector. What is read is a private copy, so that a host that changes its memory meanwhile changes nothing here; data
//! that nobody looks at may go between medium and memory without one ([`HostMemory::lend`]).

use thiserror::Error;
use vm_memory::VolatileSlice;

use crate::prp::Segment;
use crate::spec::completion::COMPLETION_LEN;

/// An access that the host's memory did not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("DMA {} of {len:#x} bytes at {iova:#x} failed", if *.write { "write" } else { "read" })]
pub struct DmaError {
    /// Where.
    pub iova: u64,
    /// How many bytes.
    pub len: usize,
    /// Which way.
    pub write: bool,
}

/// What memory is lent for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loan {
    /// It is written, not read.
    pub written: bool,
    /// The access may wait for a disk. One that does not may keep others from the table of what is mapped.
    pub waits: bool,
}

/// Access to the host's memory. A failed access may have been done in part.
pub trait HostMemory: Send + Sync {
    /// Copies from the host.
    ///
    /// # Errors
    /// If not all of it can be read.
    fn read(&self, iova: u64, bytes: &mut [u8]) -> Result<(), DmaError>;

    /// Copies to the host.
    ///
    /// # Errors
    /// If not all of it can be written.
    fn write(&self, iova: u64, bytes: &[u8]) -> Result<(), DmaError>;

    /// Writes entries, one behind the other, such that the last dword of each is seen last: a host polls it.
    ///
    /// # Errors
    /// If not all of them can be written.
    fn publish(&self, iova: u64, entries: &[[u8; COMPLETION_LEN]]) -> Result<(), DmaError>;

    /// Reads an aligned dword at once, before anything that is read afterwards.
    ///
    /// # Errors
    /// If it cannot be read.
    fn load(&self, iova: u64) -> Result<u32, DmaError>;

    /// Writes an aligned dword at once, after anything that was written before.
    ///
    /// # Errors
    /// If it cannot be written.
    fn store(&self, iova: u64, dword: u32) -> Result<(), DmaError>;

    /// Lends memory itself where it can be had; returns whether it could. The host gets it back for good, should it want
    /// it, only when `access` has returned.
    fn lend(&self, segments: &[Segment], loan: Loan, access: &mut dyn FnMut(&[VolatileSlice<'_>])) -> bool;
}
