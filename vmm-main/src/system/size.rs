// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The resource limits of each process: those of its profile, grown by the size of the VM and its number of devices.
//!
//! A profile states what a role needs for itself. Added to that are the mappings of guest RAM, of the dirty log and, in
//! the vCPU process, of device memory; the length of the image that it may write; the descriptors that it is given, and
//! those for each device. The coordinator needs room for two sets of processes at once, during a save-restore. Called
//! by the launcher for the coordinator and by the coordinator for all others; `bulkhead ps` compares the running
//! processes with the same limits.

use std::io;
use std::os::fd::BorrowedFd;

use ipc::hello::Role;
use ipc::protocol::function_link::WINDOWS_LEN_MAX;
use machine::layout;
use rustix::fs::SeekFrom;
use sandbox::Profile;

use super::{DeviceKind, EdgeKind, Instance, ObjectId, Rights, Shape, System};

/// Bytes of RAM per byte of dirty log: two bits for each page of 4 KiB.
const RAM_PER_LOG: u64 = 4 * 4096;
const RAM_PER_MAP: u64 = 8 * 4096;
/// Sets of processes that exist at once, during a save-restore.
const GENERATIONS: u64 = 2;
/// Descriptors that the coordinator holds for each process beside shared objects: two pidfds, its channel, crash page
/// and log, its saved state, and spares.
const PER_PROCESS: u64 = 8;

/// The size of a VM, as far as limits depend on it.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Bytes of guest RAM.
    pub memory_len: u64,
    /// Bytes of the largest image, 0 if there is none.
    pub image_len: u64,
}

impl Size {
    /// The size of a VM with this much RAM and these images.
    ///
    /// # Errors
    /// If an image does not say how long it is.
    pub fn measure<'a>(
        system: &System,
        memory_len: u64,
        held: impl Fn(ObjectId) -> Option<BorrowedFd<'a>>,
    ) -> io::Result<Self> {
        let mut image_len = 0;
        let images = system.edges_of(EdgeKind::Image).flat_map(|edge| edge.objects());
        for image in images.filter_map(|(object, _)| held(object)) {
            image_len = rustix::fs::seek(image, SeekFrom::End(0))?.max(image_len);
        }
        Ok(Self { memory_len, image_len })
    }
}

impl System {
    /// The profile of `instance` in a VM of this size.
    pub fn profile_of(&self, instance: &Instance, size: Size) -> Profile {
        let profile = instance.profile();
        if instance.id == super::COORDINATOR_ID {
            return self.coordinator_profile(profile, size);
        }
        let file_len = if instance.holds(EdgeKind::Image) { size.image_len } else { 0 };
        // It writes guest RAM as a file.
        let file_len = if instance.id == super::MOVER { size.memory_len } else { file_len };
        profile.sized(self.mapped_len(instance, size.memory_len), file_len)
    }

    /// Limits are inherited, so the coordinator's are at least the highest of all others; it also maps guest RAM to
    /// load the guest.
    fn coordinator_profile(&self, profile: Profile, size: Size) -> Profile {
        let processes = || self.processes().iter().chain([self.mover()]);
        let all = || processes().map(|process| self.profile_of(process, size).limits);
        let most = |of: fn(&sandbox::Limits) -> u64| all().map(|limits| of(&limits)).max().unwrap_or(0);
        let held = self.coordinator().descriptors.len();
        let held = processes().fold(held, |held, process| held + process.descriptors.len());
        let ends = u64::try_from(held).unwrap_or(u64::MAX);
        let processes = u64::try_from(processes().count()).unwrap_or(u64::MAX);
        let nofile = ends.saturating_add(processes.saturating_mul(PER_PROCESS)).saturating_mul(GENERATIONS);
        let nproc: u64 = all().map(|limits| limits.nproc_count).fold(0, u64::saturating_add);
        let nproc = nproc.saturating_mul(GENERATIONS);
        let nofile = nofile.max(most(|limits| limits.nofile_count));
        let file_len = most(|limits| limits.fsize_len).max(size.memory_len);
        // It maps the logs of all processes, of both sets during a save-restore.
        let logs = u64::try_from(self.edges_of(EdgeKind::DirtyLog).count()).unwrap_or(u64::MAX);
        let logs = (size.memory_len / RAM_PER_LOG).saturating_mul(logs).saturating_mul(GENERATIONS);
        let address_len = most(|limits| limits.address_len)
            .saturating_add(logs)
            .saturating_add(size.memory_len / RAM_PER_MAP);
        profile.sized(address_len, file_len).with_more(nofile, nproc)
    }

    /// Bytes of guest RAM, dirty log and device memory that a process may map.
    pub fn mapped_len(&self, instance: &Instance, memory_len: u64) -> u64 {
        // The process of a physical device passes RAM to the kernel's iommufd, and may not map it.
        // The mover reads and writes it, and maps what is owed.
        let maps = |held: &super::Descriptor| {
            held.object.kind == EdgeKind::Ram && held.rights != Rights::HandOn && instance.id != super::MOVER
        };
        let ram = if instance.descriptors.iter().any(maps) { memory_len } else { 0 };
        let log = if instance.holds(EdgeKind::DirtyLog) { memory_len / RAM_PER_LOG } else { 0 };
        let windows = if instance.id.role == Role::Vcpu { windows_len(self.shape()) } else { 0 };
        let owed = if instance.holds(EdgeKind::OwedMap) { memory_len / RAM_PER_MAP } else { 0 };
        [log, windows, owed].into_iter().fold(ram, u64::saturating_add)
    }
}

impl Instance {
    /// Its profile, with room for the descriptors that it is given, and for its devices.
    pub fn profile(&self) -> Profile {
        let given = u64::try_from(self.descriptors.len()).unwrap_or(u64::MAX);
        let (nofile, nproc) =
            self.template.growth.map_or((0, 0), |growth| (growth.nofile_count, growth.nproc_count));
        let times = |count: u64| count.saturating_mul(self.growth_count);
        self.template.profile().with_more(times(nofile).saturating_add(given), times(nproc))
    }
}

/// The most device memory, in bytes, that the vCPU process maps for the guest.
fn windows_len(shape: &Shape) -> u64 {
    let lens = shape.devices.iter().map(|kind| match kind {
        DeviceKind::VfioUser | DeviceKind::Nvme => WINDOWS_LEN_MAX,
        // Its BARs, which lie in the slot's areas.
        DeviceKind::Physical => layout::pci_area32(0).len.saturating_add(layout::pci_area64(0).len),
    });
    lens.fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests;
