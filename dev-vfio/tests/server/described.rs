// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the vfio-user servers of suites and of the fuzz driver answer alike: version, description, configuration space.
//!
//! Compiled into each of them, since no crate of the product has a server for tests. A server answers first what it has
//! besides (a pin, memory that can be mapped), and leaves the rest to [`Described::answer`].

use ipc::vfio_user::device::{
    DeviceInfo, IrqInfo, PCI_CONFIG_REGION, PCI_MSIX_IRQ, RegionDescription, RegionInfo,
};
use ipc::vfio_user::header::Command;
use ipc::vfio_user::region::RegionAccess;
use ipc::vfio_user::version::Version;
use zerocopy::IntoBytes;

/// A PCI device with one BAR, and MSI-X in it.
pub struct Described {
    /// The length of BAR 0, in bytes.
    pub bar_len: u64,
    /// How many vectors it has.
    pub vectors: u32,
    /// Its configuration space.
    pub config_space: fn() -> [u8; 256],
}

impl Described {
    /// The answer to a request about the device; `None` if it is about anything else. Panics on a malformed request:
    /// the client is the one under test.
    pub fn answer(&self, command: Command, body: &[u8]) -> Option<Vec<u8>> {
        match command {
            Command::VERSION => Some(Version::decode(body).unwrap().agree().unwrap().encode()),
            Command::DEVICE_GET_INFO => Some(DeviceInfo::pci().as_bytes().to_vec()),
            Command::DEVICE_GET_REGION_INFO => {
                let info = self.region(body);
                Some(RegionDescription { info, sparse: None }.encode(info.argsz.get()))
            }
            Command::DEVICE_GET_IRQ_INFO => {
                let index = IrqInfo::decode_request(body).unwrap().index.get();
                let count = if index == PCI_MSIX_IRQ { self.vectors } else { 0 };
                Some(IrqInfo::new(index, IrqInfo::EVENTFD, count).as_bytes().to_vec())
            }
            Command::REGION_READ => {
                let (access, count) = RegionAccess::decode_read(body).unwrap();
                let offset = usize::try_from(access.offset.get()).unwrap();
                let in_config = access.region.get() == PCI_CONFIG_REGION;
                let data = (self.config_space)().get(offset..offset + count)?.to_vec();
                in_config.then(|| [access.as_bytes(), &data].concat())
            }
            _ => None,
        }
    }

    /// The region that a `DEVICE_GET_REGION_INFO` asks about.
    pub fn region(&self, body: &[u8]) -> RegionInfo {
        let mut info = RegionInfo::decode_request(body).unwrap();
        let len = match info.index.get() {
            0 => self.bar_len,
            PCI_CONFIG_REGION => 256,
            _ => 0,
        };
        info.size = len.into();
        info.flags = (RegionInfo::READ | RegionInfo::WRITE).into();
        info
    }
}
