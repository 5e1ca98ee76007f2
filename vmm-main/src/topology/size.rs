// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How much of a machine each process may map and write: what its profile's limits grow by.
//!
//! A profile states what a role needs for itself. Beside that a process maps guest RAM if it holds it, its dirty log, and,
//! in the vCPU process, memory of devices; and it writes an image, if it was given one. Called by the launcher for the
//! coordinator and by the coordinator for all others; `bulkhead ps` holds the running processes against the same.

use std::io;
use std::os::fd::BorrowedFd;

use ipc::protocol::bus::WINDOWS_LEN_MAX;
use machine::layout;
use rustix::fs::SeekFrom;
use sandbox::Profile;

use super::{COORDINATOR, DeviceKind, Object, Row, Shape, VCPU, VFIO, VFIO_KERNEL_PROGRAM, processes};

/// A dirty log has a bit for each page of 4 KiB.
const RAM_PER_LOG: u64 = 8 * 4096;

/// What a VM's processes are given of it.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Bytes of guest RAM.
    pub memory_len: u64,
    /// Bytes of the largest image, 0 if there is none.
    pub image_len: u64,
}

impl Size {
    /// Of a VM with this much RAM, whose objects `held` gives.
    ///
    /// # Errors
    /// If an image does not say how long it is.
    pub fn measure<'a>(
        shape: &Shape,
        memory_len: u64,
        held: impl Fn(Object) -> Option<BorrowedFd<'a>>,
    ) -> io::Result<Self> {
        let images = VFIO.into_iter().zip(&shape.devices).filter(|(_, kind)| **kind == DeviceKind::Nvme);
        let mut image_len = 0;
        for image in images.filter_map(|(name, _)| held(Object::DeviceSource(name))) {
            image_len = rustix::fs::seek(image, SeekFrom::End(0))?.max(image_len);
        }
        Ok(Self { memory_len, image_len })
    }
}

impl Row {
    /// Its profile in a VM of this shape and size.
    pub fn profile_of(&self, shape: &Shape, size: Size) -> Profile {
        let profile = self.profile();
        if self.name == COORDINATOR.name {
            // It hands limits down, and has guest RAM mapped while it loads it: that of the greediest is its own.
            let all = || processes(shape).map(|row| row.profile_of(shape, size).limits);
            let address = all().map(|limits| limits.address_len).max().unwrap_or(0);
            let file = all().map(|limits| limits.fsize_len).max().unwrap_or(0);
            return profile.sized(address, file.max(size.memory_len));
        }
        let file_len = if self.fds.iter().any(|fd| self.writes(fd.object)) { size.image_len } else { 0 };
        profile.sized(self.mapped_len(shape, size.memory_len), file_len)
    }

    /// Whether `object` is an image of its own.
    fn writes(&self, object: Object) -> bool {
        matches!(object, Object::DeviceSource(_)) && self.role == ipc::hello::Role::Nvme
    }

    /// Bytes of RAM, its log, and of devices that it may map.
    pub fn mapped_len(&self, shape: &Shape, memory_len: u64) -> u64 {
        let holds = |object: Object| self.number_of(object).is_some();
        // The process of a physical device hands RAM to the kernel, and may not map it.
        let maps_ram = holds(Object::GuestRam) && self.program != VFIO_KERNEL_PROGRAM;
        let ram = if maps_ram { memory_len } else { 0 };
        let log = if holds(Object::GuestRam) { memory_len / RAM_PER_LOG } else { 0 };
        let devices = if self.name == VCPU { shape.devices.iter().map(windows_len).sum() } else { 0 };
        [log, devices].into_iter().fold(ram, u64::saturating_add)
    }
}

/// The most memory of a device that the vCPU process maps for the guest.
fn windows_len(kind: &DeviceKind) -> u64 {
    match kind {
        DeviceKind::VfioUser | DeviceKind::Nvme => WINDOWS_LEN_MAX,
        // Its BARs, which lie in the slot's areas.
        DeviceKind::Real => layout::pci_area32(0).len.saturating_add(layout::pci_area64(0).len),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{CpuKind, NVME, SMMU0, row};

    const SIZE: Size = Size { memory_len: 8 << 30, image_len: 1 << 40 };

    fn shape(devices: &[DeviceKind]) -> Shape {
        Shape { cpu: CpuKind::Soft, devices: devices.to_vec() }
    }

    #[test]
    fn size_of_each_process_is_its_own_and_what_it_is_given() {
        let shape = shape(&[DeviceKind::Nvme, DeviceKind::Real]);
        let more = |name: &str| {
            let row = row(name, &shape).unwrap();
            row.profile_of(&shape, SIZE).limits.address_len - row.profile().limits.address_len
        };
        let log = SIZE.memory_len / 32768;
        assert_eq!(more(SMMU0), SIZE.memory_len + log);
        assert_eq!(more(VFIO[0]), SIZE.memory_len + log);
        assert_eq!(more(VFIO[1]), log, "RAM is not mapped beside a physical device");
        assert_eq!(more(NVME[0]), 0, "an NVMe controller has nothing of the guest's memory");
        let areas = layout::pci_area32(0).len + layout::pci_area64(0).len;
        assert_eq!(more(VCPU), SIZE.memory_len + log + (1 << 30) + areas);
    }

    #[test]
    fn size_of_files_is_the_images_for_who_writes_it_only() {
        let shape = shape(&[DeviceKind::Nvme]);
        let file = |name: &str| row(name, &shape).unwrap().profile_of(&shape, SIZE).limits.fsize_len;
        assert_eq!(file(NVME[0]), SIZE.image_len);
        assert_eq!([file(VCPU), file(SMMU0), file(VFIO[0])], [64 << 20; 3]);
    }

    #[test]
    fn size_of_the_coordinator_leaves_room_for_all_it_starts() {
        for devices in [vec![], vec![DeviceKind::Nvme; 4], vec![DeviceKind::Real; 4]] {
            let shape = shape(&devices);
            let own = COORDINATOR.profile_of(&shape, SIZE).limits;
            for row in processes(&shape) {
                let limits = row.profile_of(&shape, SIZE).limits;
                assert!(
                    limits.address_len <= own.address_len && limits.data_len <= own.data_len,
                    "{}",
                    row.name
                );
                assert!(limits.fsize_len <= own.fsize_len && limits.nofile_count <= own.nofile_count);
            }
            assert!(own.fsize_len >= SIZE.memory_len, "it makes the guest's RAM");
        }
    }
}
