// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A window's memory, and the interface that maps it into the guest.

use std::fmt::Debug;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use ipc::addr::GpaRange;
use ipc::protocol::function_link::DeviceWindow;
use ipc::shm::device_memory::DeviceMemory;
use ipc::shm::host_bar::HostBar;
use vm_memory::{GuestMemoryRegion, MemoryRegionAddress};

/// Maps windows as memory slots. Both calls are for any thread, also while vCPUs run.
pub trait Mapper: Debug + Send + Sync {
    /// Whether the guest's accesses to such memory are coherent with its other users.
    fn can_map(&self, memory: &WindowMemory) -> bool;

    /// Makes a memory slot of it; the memory stays mapped here as long as the slot. When this returns, accesses no
    /// longer exit.
    ///
    /// # Errors
    /// If the host refuses.
    fn map(&self, memory: &Arc<WindowMemory>) -> Result<u32, String>;

    /// Removes the slot. When this returns, accesses exit again.
    ///
    /// # Errors
    /// If the host refuses.
    fn unmap(&self, slot: u32) -> Result<(), String>;
}

/// Mapped memory of a device, and its guest address.
#[derive(Debug)]
pub struct WindowMemory {
    place: GpaRange,
    bytes: Bytes,
}

#[derive(Debug)]
enum Bytes {
    /// A server's memory, which can be accessed here without a fault.
    Sealed(DeviceMemory),
    /// A physical device's BAR, which only the guest may access.
    HostBar(HostBar),
}

impl WindowMemory {
    /// Maps a server's memory, or a part of a BAR of the `host_device` with this number.
    ///
    /// # Errors
    /// If it is not safe to map, is another file, or cannot be mapped.
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

    /// Whether it may be accessed here; such memory is cached by its other users.
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

    /// Whether it is writable.
    pub const fn is_writable(&self) -> bool {
        match &self.bytes {
            Bytes::Sealed(memory) => memory.is_writable(),
            Bytes::HostBar(bar) => bar.is_writable(),
        }
    }

    /// Reads 1, 2, 4 or 8 bytes. `None`: it does not have all of them, or may not be accessed here.
    pub fn read(&self, gpa: u64, size: u8) -> Option<u64> {
        match &self.bytes {
            Bytes::Sealed(memory) => memory.read(gpa, size),
            Bytes::HostBar(_) => None,
        }
    }

    /// Writes 1, 2, 4 or 8 bytes. False: it does not have all of them, or may not be accessed here.
    pub fn write(&self, gpa: u64, size: u8, value: u64) -> bool {
        match &self.bytes {
            Bytes::Sealed(memory) => memory.write(gpa, size, value),
            Bytes::HostBar(_) => false,
        }
    }
}
