// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Guest RAM, mapped from the memory object that was passed: copies and atomics, never slices.
//!
//! [`map`] is for the software CPU, which tracks its own writes. [`GuestMemory`] is for devices: every write goes
//! through the dirty log, such that a crash in the middle of it loses no page. A guest may change any byte while it is
//! read, so data is copied first and checked in the copy.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use thiserror::Error as ThisError;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{
    AtomicAccess, Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestRegionMmap,
};

use crate::addr::{Gpa, GpaRange};
use crate::error::{Breach, Error, Violation};
use crate::protocol::ram::RamLayout;
use crate::shm::dirty_log::DirtyLog;
use crate::shm::region::Region;

/// An access that is not to guest RAM, or misaligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ThisError)]
#[error("{op} of {len:#x} bytes at {gpa} is not all RAM, or misaligned")]
pub struct GuestMemoryError {
    /// The operation.
    pub op: &'static str,
    /// The address.
    pub gpa: Gpa,
    /// The length in bytes.
    pub len: usize,
}

/// Maps all of guest RAM.
///
/// # Errors
/// A violation if the memory object is shorter than the layout; `Io` if the kernel refuses.
pub fn map(ram: &Region, layout: &RamLayout) -> Result<GuestMemoryMmap, Error> {
    if ram.len() < layout.file_len() {
        let breach = Breach::RegionLength { found: ram.len(), expected: layout.file_len() };
        return Err(Error::Violation(Violation::new("guest RAM", breach)));
    }
    let mut regions = Vec::new();
    for region in layout.regions() {
        let len = usize::try_from(region.len)
            .map_err(|_| Error::Refused("mapping more RAM than this host can address"))?;
        let file = FileOffset::from_arc(Arc::clone(ram.file()), region.file_offset);
        let mapping = MmapRegionBuilder::new(len)
            .with_mmap_prot(PROT_READ_WRITE)
            .with_mmap_flags(MAP_SHARED_NORESERVE)
            .with_file_offset(file)
            .build()
            .map_err(|error| Error::Io { call: "mmap of guest RAM", source: std::io::Error::other(error) })?;
        let region = GuestRegionMmap::new(mapping, GuestAddress(region.gpa.0));
        regions.push(region.ok_or(Error::Refused("a RAM region at the end of the address space"))?);
    }
    GuestMemoryMmap::from_regions(regions)
        .map_err(|error| Error::Io { call: "arranging guest RAM", source: std::io::Error::other(error) })
}

/// `PROT_READ | PROT_WRITE`: the same on every architecture.
const PROT_READ_WRITE: i32 = 3;
/// `MAP_SHARED | MAP_NORESERVE`: the same on x86-64 and arm64.
const MAP_SHARED_NORESERVE: i32 = 0x4001;

/// Guest RAM of a process whose writes are logged.
#[derive(Clone, Debug)]
pub struct GuestMemory {
    memory: Arc<GuestMemoryMmap>,
    log: Arc<DirtyLog>,
}

impl GuestMemory {
    /// RAM and its log.
    #[must_use]
    pub const fn new(memory: Arc<GuestMemoryMmap>, log: Arc<DirtyLog>) -> Self {
        Self { memory, log }
    }

    /// The log that writes are marked in.
    #[must_use]
    pub const fn log(&self) -> &Arc<DirtyLog> {
        &self.log
    }

    /// Whether every byte of the range is RAM.
    #[must_use]
    pub fn contains(&self, range: GpaRange) -> bool {
        usize::try_from(range.len())
            .is_ok_and(|len| self.memory.check_range(GuestAddress(range.start().0), len))
    }

    /// Copies out of RAM.
    ///
    /// # Errors
    /// If not all of it is RAM; `bytes` may have been filled in part.
    pub fn read(&self, gpa: Gpa, bytes: &mut [u8]) -> Result<(), GuestMemoryError> {
        let len = bytes.len();
        let read = self.memory.read_slice(bytes, GuestAddress(gpa.0));
        read.map_err(|_| GuestMemoryError { op: "read", gpa, len })
    }

    /// Copies into RAM, all or nothing.
    ///
    /// # Errors
    /// If not all of it is RAM.
    pub fn write(&self, gpa: Gpa, bytes: &[u8]) -> Result<(), GuestMemoryError> {
        let error = GuestMemoryError { op: "write", gpa, len: bytes.len() };
        if !self.memory.check_range(GuestAddress(gpa.0), bytes.len()) {
            return Err(error);
        }
        let len = u64::try_from(bytes.len()).map_err(|_| error)?;
        self.log.writing(gpa, len, || self.memory.write_slice(bytes, GuestAddress(gpa.0))).map_err(|_| error)
    }

    /// Reads an aligned integer atomically.
    ///
    /// # Errors
    /// If it is not RAM, or misaligned.
    pub fn load<T: AtomicAccess>(&self, gpa: Gpa, order: Ordering) -> Result<T, GuestMemoryError> {
        let loaded = self.memory.load(GuestAddress(gpa.0), order);
        loaded.map_err(|_| GuestMemoryError { op: "load", gpa, len: size_of::<T>() })
    }

    /// Writes an aligned integer atomically.
    ///
    /// # Errors
    /// If it is not RAM, or misaligned.
    pub fn store<T: AtomicAccess>(
        &self,
        gpa: Gpa,
        value: T,
        order: Ordering,
    ) -> Result<(), GuestMemoryError> {
        let len = size_of::<T>();
        let error = GuestMemoryError { op: "store", gpa, len };
        let bytes = u64::try_from(len).map_err(|_| error)?;
        if !gpa.is_aligned(bytes) {
            return Err(error);
        }
        self.log
            .writing(gpa, bytes, || self.memory.store(value, GuestAddress(gpa.0), order))
            .map_err(|_| error)
    }
}

#[cfg(test)]
mod tests;
