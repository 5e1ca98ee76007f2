// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The controller's access to host memory, by IOVA.
//!
//! The interface that the model uses; behind it are mapped windows, messages to a vfio-user client, or a test's
//! vector. Reads return a private copy, so that a host that changes its memory meanwhile has no effect here; data
//! that is not interpreted may go between medium and memory without a copy ([`HostMemory::lend`]).

use thiserror::Error;
use vm_memory::VolatileSlice;

use crate::prp::Segment;
use crate::spec::completion::COMPLETION_LEN;

/// A failed access to host memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("DMA {} of {len:#x} bytes at {iova:#x} failed", if *.write { "write" } else { "read" })]
pub struct DmaError {
    /// Its IOVA.
    pub iova: u64,
    /// Its length in bytes.
    pub len: usize,
    /// Whether it was a write.
    pub write: bool,
}

/// The purpose of a loan of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loan {
    /// The memory is written, not read.
    pub written: bool,
    /// The access may wait for a disk. One that does not may hold the table of windows meanwhile.
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

    /// Writes consecutive entries such that the last dword of each becomes visible last: a host polls it.
    ///
    /// # Errors
    /// If not all of them can be written.
    fn publish(&self, iova: u64, entries: &[[u8; COMPLETION_LEN]]) -> Result<(), DmaError>;

    /// Reads an aligned dword atomically, with acquire ordering.
    ///
    /// # Errors
    /// If it cannot be read.
    fn load(&self, iova: u64) -> Result<u32, DmaError>;

    /// Writes an aligned dword atomically, with release ordering.
    ///
    /// # Errors
    /// If it cannot be written.
    fn store(&self, iova: u64, dword: u32) -> Result<(), DmaError>;

    /// Whether the host is still there. Accesses to one that is gone fail, and that says nothing about them.
    fn is_connected(&self) -> bool;

    /// Lends the mapped memory itself if it can; returns whether it did. A removal of the window waits until `access`
    /// has returned.
    fn lend(&self, segments: &[Segment], loan: Loan, access: &mut dyn FnMut(&[VolatileSlice<'_>])) -> bool;
}
