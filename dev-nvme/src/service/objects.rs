// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The memory objects behind DMA windows: one descriptor each, however many windows there are.
//!
//! A client behind an IOMMU of its own declares a window for every page that its guest maps, and passes a descriptor
//! with each. All refer to the few objects that make up guest memory; keeping every descriptor would exhaust
//! RLIMIT_NOFILE and end the session. An object is closed with its last window.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

use rustix::fs::{OFlags, fcntl_getfl, fstat};
use rustix::io::Errno;

/// The most objects at once: a guest's memory is one or a few. Windows in others are reached by messages.
pub const OBJECTS_MAX: usize = 64;

/// The identity of an object: device, inode, and access mode.
type Key = (u64, u64, u32);

/// The objects in use.
#[derive(Debug, Default)]
pub struct Objects {
    known: BTreeMap<Key, Weak<File>>,
}

impl Objects {
    /// The object behind a descriptor, by its first descriptor if it is known already. `None`: there are too many.
    ///
    /// # Errors
    /// If the descriptor cannot be examined.
    pub fn share(&mut self, fd: OwnedFd) -> Result<Option<Arc<File>>, Errno> {
        let stat = fstat(&fd)?;
        let mode = fcntl_getfl(&fd)? & OFlags::RWMODE;
        let key = (stat.st_dev, stat.st_ino, mode.bits());
        if let Some(known) = self.known.get(&key).and_then(Weak::upgrade) {
            return Ok(Some(known));
        }
        self.known.retain(|_, object| object.strong_count() > 0);
        if self.known.len() >= OBJECTS_MAX {
            return Ok(None);
        }
        let object = Arc::new(File::from(fd));
        self.known.insert(key, Arc::downgrade(&object));
        Ok(Some(object))
    }
}

#[cfg(test)]
mod tests;
