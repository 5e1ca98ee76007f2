// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The objects of one iommufd context, undone in the reverse order of their making.
//!
//! The kernel refuses to destroy an object that another depends on, and destroys all when the file is closed; but the
//! coordinator may hold the file too, so that it outlives this process. So objects made here are destroyed here. Those
//! of an earlier life of the process are destroyed first, or taken over, if that has left which is which
//! ([`super::journal`]).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use super::sys::iommufd::{self, ObjectId};

/// Ids are allocated from 1, the lowest free one first; a context of one device never has this many at once.
const IDS_MAX: u32 = 256;

/// A context and the objects in it.
#[derive(Debug)]
pub struct Objects {
    iommu: OwnedFd,
    made: Vec<ObjectId>,
}

impl Objects {
    /// An empty one.
    pub fn new(iommu: OwnedFd) -> Objects {
        Objects { iommu, made: Vec::new() }
    }

    /// Adds an object just made.
    pub fn keep(&mut self, made: Result<ObjectId, Errno>) -> Result<ObjectId, Errno> {
        let id = made?;
        self.made.push(id);
        Ok(id)
    }

    /// Destroys one that no other depends on.
    pub fn destroy(&mut self, id: ObjectId) {
        self.made.retain(|made| *made != id);
        if let Err(errno) = iommufd::destroy(self.as_fd(), id) {
            ipc::log::warn!("vfio: IOMMU_DESTROY of object {} failed: {errno}", id.0);
        }
    }

    /// Those of an earlier life, in the order of their making: they are this one's from now on.
    pub fn take_over(&mut self, made: impl IntoIterator<Item = ObjectId>) {
        self.made.extend(made);
    }

    /// Destroys all but these, and returns the one that is in use.
    pub fn destroy_others(&self, known: &[ObjectId]) -> Option<ObjectId> {
        let mut used = None;
        for id in (1..IDS_MAX).map(ObjectId).filter(|id| !known.contains(id)) {
            if iommufd::destroy(self.as_fd(), id) == Err(Errno::BUSY) {
                used = Some(id);
            }
        }
        used
    }

    /// Destroys the objects of an earlier life of this process, and finds the device that it bound. The device must
    /// be detached.
    pub fn clear_earlier(&self) -> Option<ObjectId> {
        // Dependent objects have higher ids, unless an id was reused: as many rounds as there are levels.
        const LEVELS: usize = 5;
        for _ in 0..LEVELS {
            for id in (1..IDS_MAX).rev().map(ObjectId) {
                if self.is_device(id) {
                    continue;
                }
                // No such object, or another depends on it: the next round tries again.
                let _ = iommufd::destroy(self.as_fd(), id);
            }
        }
        (1..IDS_MAX).map(ObjectId).find(|id| self.is_device(*id))
    }

    /// Whether a device behind an IOMMU is bound in it.
    pub fn has_device(&self) -> bool {
        (1..IDS_MAX).map(ObjectId).any(|id| self.is_device(id))
    }

    /// Whether this is a device behind an IOMMU.
    pub fn is_device(&self, id: ObjectId) -> bool {
        !matches!(iommufd::get_hw_info(self.as_fd(), id), Err(Errno::NOENT | Errno::INVAL | Errno::NOTTY))
    }
}

impl AsFd for Objects {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.iommu.as_fd()
    }
}

impl Drop for Objects {
    fn drop(&mut self) {
        while let Some(id) = self.made.pop() {
            // Nothing can be done about a failure here; the kernel destroys the rest when the file is closed.
            let _ = iommufd::destroy(self.iommu.as_fd(), id);
        }
    }
}
