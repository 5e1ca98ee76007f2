// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How much each process may have: what its profile's limits grow by with the machine and with its number of devices.
//!
//! A profile states what a role needs for itself. Beside that a process maps guest RAM if it maps RAM at all, its dirty
//! log, and, in the vCPU process, memory of devices; it writes an image, if it was given one; it holds what it is
//! given, and for each device that it works with what that brings. The coordinator needs room for all of them at once,
//! twice: a guest moves into new processes while the old ones live. Called by the launcher for the coordinator and by
//! the coordinator for all others; `bulkhead ps` holds the running processes against the same.

use std::io;
use std::os::fd::BorrowedFd;

use ipc::hello::Role;
use ipc::protocol::function_link::WINDOWS_LEN_MAX;
use machine::layout;
use rustix::fs::SeekFrom;
use sandbox::Profile;

use super::{DeviceKind, EdgeKind, Instance, ObjectId, Rights, Shape, System};

/// A dirty log has two bits for each page of 4 KiB, the owed map one.
const RAM_PER_LOG: u64 = 4 * 4096;
const RAM_PER_MAP: u64 = 8 * 4096;
/// Sets of processes that live at once: while a guest moves into new ones.
const GENERATIONS: u64 = 2;
/// What the coordinator holds of each process beside what they share: its pidfd, twice; its channel, its crash page,
/// its log, its state while it is saved and restored, and one spare.
const PER_PROCESS: u64 = 8;

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
        profile.sized(self.mapped_len(instance, size.memory_len), file_len)
    }

    /// The coordinator hands limits down, and has guest RAM mapped while it loads it: that of the greediest is its own.
    fn coordinator_profile(&self, profile: Profile, size: Size) -> Profile {
        let all = || self.processes().iter().map(|process| self.profile_of(process, size).limits);
        let most = |of: fn(&sandbox::Limits) -> u64| all().map(|limits| of(&limits)).max().unwrap_or(0);
        let held: usize = self.instances().map(|instance| instance.descriptors.len()).sum();
        let ends = u64::try_from(held).unwrap_or(u64::MAX);
        let processes = u64::try_from(self.processes().len()).unwrap_or(u64::MAX);
        let nofile = ends.saturating_add(processes.saturating_mul(PER_PROCESS)).saturating_mul(GENERATIONS);
        let nproc: u64 = all().map(|limits| limits.nproc_count).fold(0, u64::saturating_add);
        let nproc = nproc.saturating_mul(GENERATIONS);
        let nofile = nofile.max(most(|limits| limits.nofile_count));
        let file_len = most(|limits| limits.fsize_len).max(size.memory_len);
        // It takes all logs into one map, and those of both sets while a guest moves.
        let logs = u64::try_from(self.edges_of(EdgeKind::DirtyLog).count()).unwrap_or(u64::MAX);
        let logs = (size.memory_len / RAM_PER_LOG).saturating_mul(logs).saturating_mul(GENERATIONS);
        let address_len = most(|limits| limits.address_len)
            .saturating_add(logs)
            .saturating_add(size.memory_len / RAM_PER_MAP);
        profile.sized(address_len, file_len).with_more(nofile, nproc)
    }

    /// Bytes of RAM, its log, and of devices that a process may map.
    pub fn mapped_len(&self, instance: &Instance, memory_len: u64) -> u64 {
        // The process of a physical device hands RAM to the kernel, and may not map it.
        let maps =
            |held: &super::Descriptor| held.object.kind == EdgeKind::Ram && held.rights != Rights::HandOn;
        let ram = if instance.descriptors.iter().any(maps) { memory_len } else { 0 };
        let log = if instance.holds(EdgeKind::DirtyLog) { memory_len / RAM_PER_LOG } else { 0 };
        let windows = if instance.id.role == Role::Vcpu { windows_len(self.shape()) } else { 0 };
        [log, windows].into_iter().fold(ram, u64::saturating_add)
    }
}

impl Instance {
    /// Its profile, with room for what it is given and for the devices that it works with.
    pub fn profile(&self) -> Profile {
        let given = u64::try_from(self.descriptors.len()).unwrap_or(u64::MAX);
        let (nofile, nproc) =
            self.template.growth.map_or((0, 0), |growth| (growth.nofile_count, growth.nproc_count));
        let times = |count: u64| count.saturating_mul(self.growth_count);
        self.template.profile().with_more(times(nofile).saturating_add(given), times(nproc))
    }
}

/// The most memory of devices that the vCPU process maps for the guest.
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
