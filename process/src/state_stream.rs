// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The memory object of a saved state as a stream, so that a program holds only a part of the state in private memory.
//!
//! Each piece read or written is reported as progress of the request.
//!
//! The object's length is checked once, before reading: the object is sealed. Neither end goes beyond
//! [`SAVED_LEN_MAX`].

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use ipc::protocol::control::SAVED_LEN_MAX;

use crate::context::Events;

/// Reads a state from the start of a memory object.
#[derive(Debug)]
pub(crate) struct StateReader {
    memory: OwnedFd,
    len: u64,
    done: u64,
    events: Events,
}

/// Writes a state from the start of a memory object.
#[derive(Debug)]
pub(crate) struct StateWriter {
    memory: OwnedFd,
    len: u64,
    events: Events,
}

impl StateReader {
    /// A state of `len` bytes.
    ///
    /// # Errors
    /// If the object is shorter, or `len` above [`SAVED_LEN_MAX`].
    pub(crate) fn new(memory: OwnedFd, len: u64, events: Events) -> io::Result<Self> {
        let held = u64::try_from(rustix::fs::fstat(memory.as_fd())?.st_size).unwrap_or(0);
        if len > held || len > SAVED_LEN_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the memory object is shorter than the announced state, or the state is too long",
            ));
        }
        Ok(Self { memory, len, done: 0, events })
    }
}

impl Read for StateReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.len - self.done).unwrap_or(usize::MAX);
        let count = into.len().min(left);
        let Some(into) = into.get_mut(..count).filter(|into| !into.is_empty()) else { return Ok(0) };
        let count = rustix::io::pread(&self.memory, into, self.done)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.done += count as u64;
        self.events.progress();
        Ok(count)
    }
}

impl StateWriter {
    /// Writes into this object.
    pub(crate) const fn new(memory: OwnedFd, events: Events) -> Self {
        Self { memory, len: 0, events }
    }

    /// Counts `len` bytes as written.
    #[cfg(test)]
    pub(crate) const fn skip(&mut self, len: u64) {
        self.len += len;
    }

    /// Bytes that were written.
    pub(crate) const fn len(&self) -> u64 {
        self.len
    }
}

impl Write for StateWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = usize::try_from(SAVED_LEN_MAX - self.len).unwrap_or(usize::MAX);
        if bytes.len() > room {
            let why = format!("a state is at most {SAVED_LEN_MAX:#x} bytes");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
        }
        let count = rustix::io::pwrite(&self.memory, bytes, self.len)?;
        self.len += count as u64;
        self.events.progress();
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
