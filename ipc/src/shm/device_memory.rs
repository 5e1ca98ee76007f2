// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Memory of a device's server, checked before it is mapped, and accessed by copies and atomics only.
//!
//! The server keeps the file; [`peer_file`] has the rules by which no access of ours can fault. The content is between
//! the guest and the device, and is not interpreted here.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryRegion, GuestRegionMmap, MemoryRegionAddress};

use crate::addr::GpaRange;
use crate::protocol::function_link::{DeviceWindow, WINDOW_ALIGN};
use crate::shm::peer_file::{self, Unsafe};

const PROT_READ: i32 = 1;
const PROT_READ_WRITE: i32 = 3;
/// `MAP_SHARED | MAP_NORESERVE`: the same on x86-64 and arm64.
const MAP_SHARED_NORESERVE: i32 = 0x4001;

/// A mapped window, at the guest address where the guest may reach it.
#[derive(Debug)]
pub struct DeviceMemory {
    region: GuestRegionMmap,
    writable: bool,
}

impl DeviceMemory {
    /// Maps the window that the guest sees at `place`.
    ///
    /// # Errors
    /// If an access to it could fault, or the host does not map it.
    pub fn map(file: OwnedFd, window: &DeviceWindow, place: GpaRange) -> Result<Self, Unsafe> {
        let end = window.file_offset.checked_add(window.len).ok_or(Unsafe::Unaligned)?;
        let numbers = [window.file_offset, window.len, place.start().0, place.len()];
        let aligned = numbers.iter().all(|number| number.is_multiple_of(WINDOW_ALIGN));
        if !aligned || window.len == 0 || place.len() != window.len {
            return Err(Unsafe::Unaligned);
        }
        let host = |error: &dyn ToString| Unsafe::Host(error.to_string());
        peer_file::check(&file, end)?;
        let len = usize::try_from(window.len).map_err(|error| host(&error))?;
        let prot = if window.writable { PROT_READ_WRITE } else { PROT_READ };
        let mapping = MmapRegionBuilder::new(len)
            .with_mmap_prot(prot)
            .with_mmap_flags(MAP_SHARED_NORESERVE)
            .with_file_offset(FileOffset::from_arc(Arc::new(File::from(file)), window.file_offset))
            .build()
            .map_err(|error| host(&error))?;
        let region = GuestRegionMmap::new(mapping, GuestAddress(place.start().0));
        let region = region.ok_or_else(|| host(&"its address overflows"))?;
        Ok(Self { region, writable: window.writable })
    }

    /// The mapping, for a memory slot of a hypervisor.
    #[must_use]
    pub const fn region(&self) -> &GuestRegionMmap {
        &self.region
    }

    /// Whether it takes writes.
    #[must_use]
    pub const fn is_writable(&self) -> bool {
        self.writable
    }

    /// Reads 1, 2, 4 or 8 bytes, atomically if they are aligned. `None`: not all of them are in the window.
    #[must_use]
    pub fn read(&self, gpa: u64, size: u8) -> Option<u64> {
        let at = self.locate(gpa, size)?;
        let aligned = gpa.is_multiple_of(size.into());
        let value = match size {
            1 => self.region.load::<u8>(at, SeqCst).map(u64::from),
            2 if aligned => self.region.load::<u16>(at, SeqCst).map(u64::from),
            4 if aligned => self.region.load::<u32>(at, SeqCst).map(u64::from),
            8 if aligned => self.region.load::<u64>(at, SeqCst),
            _ => {
                let mut bytes = [0; 8];
                let part = bytes.get_mut(..size.into())?;
                self.region.read_slice(part, at).map(|()| u64::from_le_bytes(bytes))
            }
        };
        value.ok()
    }

    /// Writes 1, 2, 4 or 8 bytes, atomically if they are aligned. False: not all of them are in the window, or it is
    /// read-only.
    #[must_use]
    pub fn write(&self, gpa: u64, size: u8, value: u64) -> bool {
        let Some(at) = self.locate(gpa, size).filter(|_| self.writable) else { return false };
        let [b0, b1, b2, b3, ..] = value.to_le_bytes();
        let aligned = gpa.is_multiple_of(size.into());
        let done = match size {
            1 => self.region.store(b0, at, SeqCst),
            2 if aligned => self.region.store(u16::from_le_bytes([b0, b1]), at, SeqCst),
            4 if aligned => self.region.store(u32::from_le_bytes([b0, b1, b2, b3]), at, SeqCst),
            8 if aligned => self.region.store(value, at, SeqCst),
            _ => match value.to_le_bytes().get(..size.into()) {
                Some(part) => self.region.write_slice(part, at),
                None => return false,
            },
        };
        done.is_ok()
    }

    fn locate(&self, gpa: u64, size: u8) -> Option<MemoryRegionAddress> {
        let offset = gpa.checked_sub(self.region.start_addr().0)?;
        let end = offset.checked_add(size.into())?;
        (size != 0 && end <= self.region.len()).then_some(MemoryRegionAddress(offset))
    }
}

#[cfg(test)]
mod tests;
