// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The disks of a guest that moves: which files they are, and whose.
//!
//! Both hosts open the same file. It is locked by the host that the guest may run on: the source lets go of it when
//! every process is paused and has flushed, the destination takes it before it says that it is ready, and a source
//! whose guest stays takes it again before that goes on. Whoever still holds it is waited for, by a thread: a
//! destination that has failed ends its processes first.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use ipc::hello::Role;
use ipc::protocol::budget;
use rustix::fs::{Advice, FlockOperation, SeekFrom, fadvise, flock, fstat, fstatvfs, seek};
use rustix::io::Errno;

use super::super::driver::{Vm, refused};
use crate::coordinator::handover::HandedDisk;
use crate::coordinator::spans::STOP_SPAN;
use crate::migration::offer;
use crate::problem::Problem;
use crate::system::{EdgeKind, ObjectId};

/// For a host that has lost its link to notice that, and to end its processes.
const LOCK_SPAN: Duration = budget::sum(&[budget::mover::STALL, STOP_SPAN, budget::SLACK]);
/// Poll interval: flock has no timeout.
const LOCK_INTERVAL: Duration = Duration::from_millis(2);

/// A disk that is to be locked.
#[derive(Debug)]
pub struct Lockable {
    image: OwnedFd,
    name: String,
    readonly: bool,
}

/// Lets go of all disks.
pub fn release(objects: &BTreeMap<ObjectId, OwnedFd>) -> Result<(), Problem> {
    for (_, image) in objects.iter().filter(|(object, _)| object.kind == EdgeKind::Image) {
        flock(image, FlockOperation::Unlock).map_err(|error| refused("unlock an image", &error))?;
    }
    Ok(())
}

/// Locks all disks, as soon as nobody else has them, and drops what this host's page cache has of them: it may be older
/// than what the other host has written. That has flushed what it wrote before it let go, and nobody has written here.
pub fn lock(disks: &[Lockable]) -> Result<(), Problem> {
    let until = Instant::now() + LOCK_SPAN;
    for Lockable { image, name, readonly } in disks {
        let kind = match readonly {
            true => FlockOperation::NonBlockingLockShared,
            false => FlockOperation::NonBlockingLockExclusive,
        };
        loop {
            match flock(image, kind) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK) if Instant::now() < until => std::thread::sleep(LOCK_INTERVAL),
                Err(Errno::WOULDBLOCK) => return Err(in_use(name)),
                Err(error) => return Err(refused("lock an image", &error)),
            }
        }
        fadvise(image, 0, None, Advice::DontNeed)
            .map_err(|error| refused("drop what is cached of an image", &error))?;
    }
    Ok(())
}

fn in_use(name: &str) -> Problem {
    Problem::host(
        "the image is in use by another host or process",
        name,
        "see what holds it: no two guests may write one file system",
    )
}

impl Vm {
    /// The disks, to be locked by a thread.
    pub(super) fn disks(&self) -> Result<Vec<Lockable>, Problem> {
        let mut disks = Vec::new();
        for (disk, image) in self.images() {
            let image = image.try_clone().map_err(|error| refused("duplicate a descriptor", &error))?;
            disks.push(Lockable { image, name: disk.image_name.clone(), readonly: disk.readonly });
        }
        Ok(disks)
    }

    fn images(&self) -> impl Iterator<Item = (&HandedDisk, &OwnedFd)> {
        self.given.handover.named().filter_map(|(id, device)| {
            let owner = ipc::instance::InstanceId::new(Role::Nvme, id.index);
            let image = self.given.objects.get(&ObjectId { kind: EdgeKind::Image, owner, index: 0 })?;
            Some((device.disk.as_ref()?, image))
        })
    }

    /// The devices as an offer has them.
    pub(super) fn offered_devices(&self) -> Result<Vec<offer::Device>, Problem> {
        let mut devices = Vec::new();
        for (id, device) in self.given.handover.named() {
            let owner = ipc::instance::InstanceId::new(Role::Nvme, id.index);
            let image = self.given.objects.get(&ObjectId { kind: EdgeKind::Image, owner, index: 0 });
            let disk = device.disk.as_ref().zip(image).map(|(disk, image)| {
                let described = describe(disk, image);
                described.map_err(|error| refused("examine an image", &error))
            });
            devices.push(offer::Device {
                kind: device.kind.as_str().to_owned(),
                slot: device.slot,
                disk: disk.transpose()?,
            });
        }
        Ok(devices)
    }
}

fn describe(disk: &HandedDisk, image: impl AsFd) -> Result<offer::Disk, Errno> {
    Ok(offer::Disk {
        len: seek(&image, SeekFrom::End(0))?,
        readonly: disk.readonly,
        serial: disk.serial.clone(),
        file: [fstatvfs(&image)?.f_fsid, fstat(&image)?.st_ino],
    })
}

#[cfg(test)]
mod tests;
