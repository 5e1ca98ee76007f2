// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A part of a BAR of the physical device, mapped so that a hypervisor can put it into a guest.
//!
//! The mapping is of VFIO's character device: its pages are the device's registers. An access of ours would reach the
//! device, or be SIGBUS while the device's Memory Space Enable is off, so it is never accessed here: only its address
//! is used. The file comes from the function's process, and must be the device that the coordinator has named.
// UNSAFETY: maps a file at an address that the kernel chooses, and unmaps just that; no type of the standard library or
// of vm-memory's owns a mapping that is never touched, and lets go of its file.
#![expect(unsafe_code, reason = "mmap and munmap of memory that is never touched")]

use std::os::fd::OwnedFd;

use rustix::fs::FileType;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use thiserror::Error as ThisError;

use crate::protocol::function_link::{DeviceWindow, WINDOW_ALIGN};

/// Why a part of a BAR is not mapped.
#[derive(Debug, ThisError)]
pub enum Unmappable {
    /// The process of the function gave another file.
    #[error("its file is not the host's device that the function has ({0})")]
    Foreign(&'static str),
    /// Offset or length is not a multiple of a page.
    #[error("the part of a BAR is empty, or not page-aligned")]
    Unaligned,
    /// The host refused.
    #[error("the host does not map a part of its device's BAR: {0}")]
    Host(#[from] rustix::io::Errno),
}

/// A mapped part of a BAR.
#[derive(Debug)]
pub struct HostBar {
    address: usize,
    len: usize,
    writable: bool,
}

impl HostBar {
    /// Maps the window, if `file` is the character device numbered `device` (`st_rdev`). The file itself is closed: the
    /// mapping keeps the device.
    ///
    /// # Errors
    /// If it is another file, or the host does not map it.
    pub fn map(file: OwnedFd, window: &DeviceWindow, device: u64) -> Result<Self, Unmappable> {
        let numbers = [window.file_offset, window.len];
        let aligned = numbers.iter().all(|number| number.is_multiple_of(WINDOW_ALIGN));
        if !aligned || window.len == 0 {
            return Err(Unmappable::Unaligned);
        }
        let stat = rustix::fs::fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice {
            return Err(Unmappable::Foreign("it is no character device"));
        }
        if stat.st_rdev != device {
            return Err(Unmappable::Foreign("it is another device"));
        }
        let len = usize::try_from(window.len).map_err(|_| Unmappable::Unaligned)?;
        let protection = if window.writable { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
        // SAFETY: a new mapping at a place that the kernel chooses takes nobody's memory.
        let mapped = unsafe {
            mmap(std::ptr::null_mut(), len, protection, MapFlags::SHARED, &file, window.file_offset)
        };
        Ok(Self { address: mapped?.expose_provenance(), len, writable: window.writable })
    }

    /// The address of the mapping in this process, for a hypervisor, which must keep this value while it uses it.
    #[must_use]
    pub const fn host_address(&self) -> usize {
        self.address
    }

    /// Whether it takes writes.
    #[must_use]
    pub const fn is_writable(&self) -> bool {
        self.writable
    }
}

impl Drop for HostBar {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping that was made in `map`, which nothing refers to: it is never touched here, and
        // whoever gave its address to a hypervisor has kept this value until it was taken back.
        let _ = unsafe { munmap(std::ptr::with_exposed_provenance_mut(self.address), self.len) };
    }
}

#[cfg(test)]
mod tests;
