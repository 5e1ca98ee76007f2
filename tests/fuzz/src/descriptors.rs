// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Descriptors as a hostile peer may pass them, whatever a message calls them: for drivers of both ends.
//!
//! Who takes one as memory, or as an eventfd, must find out what it is before it can be hurt by it. None is of use to
//! anybody but the caller: a file, a pipe, a socket pair of its own.

use std::os::fd::OwnedFd;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

/// Bytes of each file that is not empty: one huge page.
pub const MEMORY_LEN: u64 = 2 << 20;

/// How many kinds [`descriptor`] knows.
pub const KINDS: u8 = 14;

/// A descriptor of a kind, which is taken modulo [`KINDS`], and the peer's own one that it keeps.
///
/// # Errors
/// The kernel's: kinds that this host does not have.
pub fn descriptor(kind: u8) -> Result<(OwnedFd, OwnedFd), Errno> {
    let memory = |len: u64, seals: SealFlags, flags: MemfdFlags| {
        let file = memfd_create("peer", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | flags)?;
        ftruncate(&file, len)?;
        fcntl_add_seals(&file, seals)?;
        Ok(file)
    };
    let none = MemfdFlags::empty();
    let one = match kind % KINDS {
        0 | 1 => memory(MEMORY_LEN, SealFlags::SHRINK, none),
        2 => memory(MEMORY_LEN, SealFlags::empty(), none),
        3 => memory(0, SealFlags::SHRINK, none),
        4 => memory(MEMORY_LEN, SealFlags::SHRINK | SealFlags::FUTURE_WRITE, none),
        5 => memory(MEMORY_LEN, SealFlags::SHRINK, MemfdFlags::HUGETLB),
        6 => memory(4096, SealFlags::SHRINK | SealFlags::GROW, none),
        7 | 8 => eventfd(0, EventfdFlags::CLOEXEC),
        9 => eventfd(0, EventfdFlags::CLOEXEC).and_then(|full| fill_eventfd(&full).map(|()| full)),
        10 => return rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC),
        11 => return full_pipe(),
        12 => return socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None),
        _ => rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC),
    }?;
    let kept = rustix::io::fcntl_dupfd_cloexec(&one, 0)?;
    Ok((one, kept))
}

/// Fills an eventfd's counter, so that the next signal waits; something else is left alone.
///
/// # Errors
/// The kernel's.
pub fn fill_eventfd(fd: &OwnedFd) -> Result<(), Errno> {
    rustix::io::ioctl_fionbio(fd, true)?;
    let filled = rustix::io::write(fd, &(u64::MAX - 1).to_ne_bytes());
    rustix::io::ioctl_fionbio(fd, false)?;
    filled.map(drop)
}

/// The end to write to, with no room.
fn full_pipe() -> Result<(OwnedFd, OwnedFd), Errno> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&write, true)?;
    while rustix::io::write(&write, &[0; 4096]).is_ok() {}
    rustix::io::ioctl_fionbio(&write, false)?;
    Ok((write, read))
}
