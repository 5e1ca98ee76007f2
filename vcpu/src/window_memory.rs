// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a window's bytes are, and who can put them into the guest's address space.

use std::fmt::Debug;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use ipc::addr::GpaRange;
use ipc::protocol::function_link::DeviceWindow;
use ipc::shm::device_memory::DeviceMemory;
use ipc::shm::host_bar::HostBar;
use vm_memory::{GuestMemoryRegion, MemoryRegionAddress};

/// A hypervisor, as far as windows go. Both calls are for any thread, also while vCPUs run.
pub trait Mapper: Debug + Send + Sync {
    /// Whether the guest sees in such memory what its other users do.
    fn can_map(&self, memory: &WindowMemory) -> bool;

    /// Makes a memory slot of it, which is kept mapped here for as long. From the return on accesses to it do not leave the guest.
    ///
    /// # Errors
    /// The host's reason.
    fn map(&self, memory: &Arc<WindowMemory>) -> Result<u32, String>;

    /// Takes the slot away: from the return on accesses leave the guest.
    ///
    /// # Errors
    /// The host's reason.
    fn unmap(&self, slot: u32) -> Result<(), String>;
}

/// Mapped memory of a device, and where the guest sees it.
#[derive(Debug)]
pub struct WindowMemory {
    place: GpaRange,
    bytes: Bytes,
}

#[derive(Debug)]
enum Bytes {
    /// A server's, which is safe to touch.
    Sealed(DeviceMemory),
    /// The physical device's, which only the guest may touch.
    HostBar(HostBar),
}

impl WindowMemory {
    /// Maps a server's memory, or a part of a BAR of the `host_device` with this number.
    ///
    /// # Errors
    /// If it is not safe to map, another file, or the host does not map it.
    pub fn new(
        file: OwnedFd,
        window: &DeviceWindow,
        place: GpaRange,
        host_device: Option<u64>,
    ) -> Result<Self, String> {
        let bytes = match host_device {
            None => {
                let mapped = DeviceMemory::map(file, window, place);
                Bytes::Sealed(mapped.map_err(|error| error.to_string())?)
            }
            Some(device) => {
                let mapped = HostBar::map(file, window, device);
                Bytes::HostBar(mapped.map_err(|error| error.to_string())?)
            }
        };
        Ok(Self { place, bytes })
    }

    /// Whether it may be touched here: then its other users reach it through their caches.
    pub const fn is_sealed(&self) -> bool {
        matches!(self.bytes, Bytes::Sealed(_))
    }

    /// Where the guest sees it.
    pub const fn place(&self) -> GpaRange {
        self.place
    }

    /// Where it is mapped in this process.
    pub fn host_address(&self) -> Option<usize> {
        match &self.bytes {
            Bytes::Sealed(memory) => {
                memory.region().get_host_address(MemoryRegionAddress(0)).ok().map(|address| address.addr())
            }
            Bytes::HostBar(bar) => Some(bar.host_address()),
        }
    }

    /// Whether it takes writes.
    pub const fn is_writable(&self) -> bool {
        match &self.bytes {
            Bytes::Sealed(memory) => memory.is_writable(),
            Bytes::HostBar(bar) => bar.is_writable(),
        }
    }

    /// Reads 1, 2, 4 or 8 bytes. `None`: not all of them are here, or they may not be touched.
    pub fn read(&self, gpa: u64, size: u8) -> Option<u64> {
        match &self.bytes {
            Bytes::Sealed(memory) => memory.read(gpa, size),
            Bytes::HostBar(_) => None,
        }
    }

    /// Writes 1, 2, 4 or 8 bytes. False: not all of them are here, or they may not be touched.
    pub fn write(&self, gpa: u64, size: u8, value: u64) -> bool {
        match &self.bytes {
            Bytes::Sealed(memory) => memory.write(gpa, size, value),
            Bytes::HostBar(_) => false,
        }
    }
}
