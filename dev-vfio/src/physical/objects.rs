// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The objects of one iommufd context, undone in the reverse order of their making.
//!
//! The kernel refuses to destroy what another object stands on, and leaks nothing when the file closes; but the file may
//! be held by the coordinator too, and outlive this process. So what is made here is unmade here, and what an earlier life
//! of the process left behind is cleared away first.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use super::sys::iommufd::{self, ObjectId};

/// Numbers are given out from 1, the lowest free one first; a context of one device never has as many at once.
const IDS_MAX: u32 = 256;

/// A context and what was made in it.
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

    /// Takes note of an object just made.
    pub fn keep(&mut self, made: Result<ObjectId, Errno>) -> Result<ObjectId, Errno> {
        let id = made?;
        self.made.push(id);
        Ok(id)
    }

    /// Destroys one that nothing stands on.
    pub fn destroy(&mut self, id: ObjectId) {
        self.made.retain(|made| *made != id);
        if let Err(errno) = iommufd::destroy(self.as_fd(), id) {
            ipc::log::warn!("vfio: iommufd object {} cannot be destroyed: {errno}", id.0);
        }
    }

    /// Destroys whatever an earlier life of this process left, and finds the device that it bound. The device must be
    /// detached.
    pub fn adopt(&self) -> Option<ObjectId> {
        // What stands on others has the higher number, unless a number was used again: as many rounds as levels.
        const LEVELS: usize = 5;
        for _ in 0..LEVELS {
            for id in (1..IDS_MAX).rev().map(ObjectId) {
                if self.is_device(id) {
                    continue;
                }
                // There is none, or another stands on it: either way the next round knows.
                let _ = iommufd::destroy(self.as_fd(), id);
            }
        }
        (1..IDS_MAX).map(ObjectId).find(|id| self.is_device(*id))
    }

    fn is_device(&self, id: ObjectId) -> bool {
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
            // Whoever is told of a failure here can do nothing; the kernel undoes the rest when the file closes.
            let _ = iommufd::destroy(self.iommu.as_fd(), id);
        }
    }
}
