// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The storage of blocks: a raw image file, or a test's.
//!
//! Calls come from several threads at once; ranges were checked against the namespace before. A failure here is the
//! host's, and reaches the guest as a media status, never as an errno.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use ipc::shm::file_io;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::{Errno, pread, pwrite};
use vm_memory::VolatileSlice;

/// Blocks by byte offset.
pub trait Media: Send + Sync {
    /// Fills all of `bytes`.
    ///
    /// # Errors
    /// If the I/O on the image fails.
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()>;

    /// Writes all of `bytes`; they may be in a volatile cache afterwards.
    ///
    /// # Errors
    /// If the I/O on the image fails.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Fills all of the host's memory, as [`Media::read_at`].
    ///
    /// # Errors
    /// If the I/O on the image fails.
    fn read_to(&self, offset: u64, memory: &[VolatileSlice<'_>]) -> io::Result<()>;

    /// Fills all of the host's memory if that does not block. Returns whether it did; a part may have been filled.
    ///
    /// # Errors
    /// If the I/O on the image fails.
    fn read_at_once(&self, offset: u64, memory: &[VolatileSlice<'_>]) -> io::Result<bool>;

    /// Writes all of the host's memory, as [`Media::write_at`].
    ///
    /// # Errors
    /// If the I/O on the image fails.
    fn write_from(&self, offset: u64, memory: &[VolatileSlice<'_>]) -> io::Result<()>;

    /// Flushes everything written so far to the medium.
    ///
    /// # Errors
    /// If the I/O on the image fails: what was written may be lost.
    fn flush(&self) -> io::Result<()>;

    /// Zeroes a range; `release` deallocates its space.
    ///
    /// # Errors
    /// If the I/O on the image fails.
    fn zero(&self, offset: u64, len: u64, release: bool) -> io::Result<()>;

    /// Deallocates a range if that needs no writing; it reads as zeros then, otherwise it is unchanged.
    ///
    /// # Errors
    /// If the I/O on the image fails.
    fn release(&self, offset: u64, len: u64) -> io::Result<()>;
}

/// A raw image.
#[derive(Debug)]
pub struct Image {
    file: File,
}

impl Image {
    /// Over an open file.
    #[must_use]
    pub const fn new(file: File) -> Self {
        Self { file }
    }
}

/// How much is written at once where a range cannot be zeroed by the file system.
const ZEROS_LEN: usize = 64 << 10;

impl Media for Image {
    fn read_at(&self, mut offset: u64, mut bytes: &mut [u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match pread(&self.file, &mut *bytes, offset) {
                // The file is shorter than it was when it was opened.
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    bytes = bytes.get_mut(count..).unwrap_or_default();
                    offset += count as u64;
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    fn write_at(&self, mut offset: u64, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match pwrite(&self.file, bytes, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    bytes = bytes.get(count..).unwrap_or_default();
                    offset += count as u64;
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    fn read_to(&self, offset: u64, memory: &[VolatileSlice<'_>]) -> io::Result<()> {
        Ok(file_io::read_at(self.file.as_fd(), memory, offset)?)
    }

    fn read_at_once(&self, offset: u64, memory: &[VolatileSlice<'_>]) -> io::Result<bool> {
        Ok(file_io::read_at_once(self.file.as_fd(), memory, offset)?)
    }

    fn write_from(&self, offset: u64, memory: &[VolatileSlice<'_>]) -> io::Result<()> {
        Ok(file_io::write_at(self.file.as_fd(), memory, offset)?)
    }

    fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn zero(&self, offset: u64, len: u64, release: bool) -> io::Result<()> {
        let how = if release { FallocateFlags::PUNCH_HOLE } else { FallocateFlags::ZERO_RANGE };
        match self.allocate(how, offset, len) {
            Err(Errno::OPNOTSUPP) => self.write_zeros(offset, len),
            done => Ok(done?),
        }
    }

    fn release(&self, offset: u64, len: u64) -> io::Result<()> {
        match self.allocate(FallocateFlags::PUNCH_HOLE, offset, len) {
            // The file system does not support it; it is only a hint, and writing zeros would defeat it.
            Err(Errno::OPNOTSUPP) => Ok(()),
            done => Ok(done?),
        }
    }
}

impl Image {
    fn allocate(&self, how: FallocateFlags, offset: u64, len: u64) -> Result<(), Errno> {
        loop {
            match fallocate(&self.file, how | FallocateFlags::KEEP_SIZE, offset, len) {
                Err(Errno::INTR) => {}
                done => return done,
            }
        }
    }

    fn write_zeros(&self, mut offset: u64, mut len: u64) -> io::Result<()> {
        let zeros = [0; ZEROS_LEN];
        while len > 0 {
            let piece = usize::try_from(len).unwrap_or(ZEROS_LEN).min(ZEROS_LEN);
            self.write_at(offset, zeros.get(..piece).unwrap_or_default())?;
            offset += piece as u64;
            len -= piece as u64;
        }
        Ok(())
    }
}
