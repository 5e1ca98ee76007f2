// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Memory files of peers: which of them can be mapped so that no access of ours can fault.
//!
//! The peer keeps the file, so it must be sealed against shrinking, and be in ordinary pages (tmpfs). With huge pages
//! an access to a hole faults if the pool is empty; files of a FUSE file system of the peer could block an access for
//! ever, but those cannot be sealed. A hole in ordinary memory reads as zeros. Used for servers' BARs and clients' DMA
//! windows.

use std::os::fd::AsFd;

use rustix::fs::SealFlags;
use thiserror::Error as ThisError;

/// Why memory of a peer is not mapped.
#[derive(Debug, ThisError)]
pub enum Unsafe {
    /// The peer could shrink it, and an access behind its end would be SIGBUS.
    #[error("its file is not sealed against shrinking (F_SEAL_SHRINK): {0}")]
    Unsealed(String),
    /// It is in huge pages, or not in memory.
    #[error("its file is on a file system of type {0:#x}, not in ordinary memory")]
    FileSystem(u64),
    /// It is shorter than announced.
    #[error("its file has {found:#x} bytes, {end:#x} are needed")]
    Short {
        /// Bytes of the file.
        found: u64,
        /// Bytes needed.
        end: u64,
    },
    /// Offset or length is not a multiple of a page.
    #[error("it is empty, or not page-aligned")]
    Unaligned,
    /// The host refused.
    #[error("the host does not map it: {0}")]
    Host(String),
}

/// `TMPFS_MAGIC` (linux/magic.h): memory files in ordinary pages.
const TMPFS: u64 = 0x0102_1994;

/// Checks that an access to the file's first `end` bytes can never fault.
///
/// # Errors
/// The rule that it breaks.
pub fn check(file: impl AsFd, end: u64) -> Result<(), Unsafe> {
    let host = |errno: rustix::io::Errno| Unsafe::Host(errno.to_string());
    let seals = rustix::fs::fcntl_get_seals(&file)
        .map_err(|errno| Unsafe::Unsealed(format!("it has no seals: {errno}")))?;
    if !seals.contains(SealFlags::SHRINK) {
        return Err(Unsafe::Unsealed(format!("its seals are {:#x}", seals.bits())));
    }
    let system = rustix::fs::fstatfs(&file).map_err(host)?;
    // The field's type differs between architectures; the numbers are 32 bits.
    let kind = u64::try_from(system.f_type).unwrap_or(u64::MAX);
    if kind != TMPFS {
        return Err(Unsafe::FileSystem(kind));
    }
    // It cannot shrink: the length stays true.
    let stat = rustix::fs::fstat(&file).map_err(host)?;
    let found = u64::try_from(stat.st_size).unwrap_or(0);
    if found < end { Err(Unsafe::Short { found, end }) } else { Ok(()) }
}
