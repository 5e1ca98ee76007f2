// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The descriptor table of a new process: checked before clone, made between clone and exec, verified before sealing.
//!
//! Sources and targets may overlap in any way, so every source is first duplicated above all targets and only
//! then put in its place; all else is marked close-on-exec in one call.

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use crate::sys;

/// The most descriptors a process may be given: a table has its place on the stack of a new process, which may not
/// allocate. A vCPU process with a device in every slot of its bus is given some two hundred.
pub const FDS_MAX: usize = 256;

/// A checked table: sources in target order.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    sources: [RawFd; FDS_MAX],
    count: usize,
}

impl Table {
    /// The sources become 0, 1, 2, ... in their order.
    pub fn new<'a>(fds: impl ExactSizeIterator<Item = BorrowedFd<'a>>) -> Result<Table, String> {
        let count = fds.len();
        if count > FDS_MAX {
            return Err(format!("{count} descriptors are given, at most {FDS_MAX} can be"));
        }
        let mut sources = [-1; FDS_MAX];
        for (slot, source) in sources.iter_mut().zip(fds) {
            *slot = source.as_raw_fd();
        }
        Ok(Table { sources, count })
    }

    /// How many there are.
    pub fn count(&self) -> i32 {
        i32::try_from(self.count).unwrap_or(i32::MAX)
    }

    /// Puts every source in its place and marks all else close-on-exec. Async-signal-safe; between clone and exec only.
    pub fn install(&self) -> Result<(), i32> {
        let mut high = [-1; FDS_MAX];
        for (copy, source) in high.iter_mut().zip(self.sources).take(self.count) {
            *copy = sys::dup_above(source, self.count())?;
        }
        for (target, copy) in (0..self.count()).zip(high) {
            sys::dup_onto(copy, target)?;
        }
        sys::close_on_exec_from(self.count().cast_unsigned())
    }
}

/// What is wrong with the table of this process, which should be 0 to `count` - 1 open and nothing else.
/// Needs no /proc: every number below the limit is tried.
pub fn verify(count: u32) -> Result<(), String> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.unwrap_or(1 << 20);
    let limit = i32::try_from(limit).unwrap_or(i32::MAX);
    for fd in 0..limit {
        let expected = fd.cast_unsigned() < count;
        match (sys::is_open(fd), expected) {
            (true, false) => return Err(format!("descriptor {fd} is open and should not be")),
            (false, true) => return Err(format!("descriptor {fd} is not open and should be")),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
