// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The descriptors that a process was given at exec, as owned values.
//!
//! A number means nothing until somebody owns it: the whole table is taken once, at the start of `main`, and each
//! entry is then taken out by the role that the topology gives its number.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::fds::FDS_MAX;
use crate::sys;

/// The log: the standard library writes to it, nobody owns it, and it stays open.
const STDERR: i32 = 2;

static TAKEN: AtomicBool = AtomicBool::new(false);

/// Why the table, or an entry of it, could not be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InheritedError {
    /// Two owners of one descriptor would close it twice.
    #[error("the inherited descriptors were taken already")]
    TakenTwice,
    /// The program was not started as it should be.
    #[error("descriptor {0} was not inherited; this program is started by `bulkhead run`, not by hand")]
    NotOpen(i32),
    /// Asked for twice, or never given.
    #[error("descriptor {0} is not in the inherited table, or was taken from it already")]
    Missing(u8),
}

/// Descriptors 0 to `count` - 1, each to be taken once; what nobody takes is closed with the table.
#[derive(Debug)]
pub struct Inherited {
    fds: Vec<Option<OwnedFd>>,
}

impl Inherited {
    /// Takes descriptors 0 to `count` - 1. Once in the life of a process.
    pub fn take_all(count: u32) -> Result<Inherited, InheritedError> {
        let fds = || (0..i32::try_from(count).unwrap_or(i32::MAX)).take(FDS_MAX);
        if let Some(fd) = fds().find(|fd| !sys::is_open(*fd)) {
            return Err(InheritedError::NotOpen(fd));
        }
        if TAKEN.swap(true, Ordering::SeqCst) {
            return Err(InheritedError::TakenTwice);
        }
        Ok(Inherited { fds: fds().map(|fd| (fd != STDERR).then(|| sys::own(fd))).collect() })
    }

    /// Takes one of them.
    pub fn take(&mut self, number: u8) -> Result<OwnedFd, InheritedError> {
        let slot = self.fds.get_mut(usize::from(number)).and_then(Option::take);
        slot.ok_or(InheritedError::Missing(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn take_all_of_what_is_not_open_names_the_first() {
        // Far more than a test runner has open.
        assert!(matches!(Inherited::take_all(u32::MAX), Err(InheritedError::NotOpen(_))));
    }
}
