// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Doorbells: notifications between processes, by which no end can block the other.
//!
//! Not eventfds: `O_NONBLOCK` is a flag of the open file that both ends share, and the counter can be filled, so that a
//! hostile peer could make a read or a write of ours block for ever. A doorbell is a pair of datagram sockets: every
//! call passes `MSG_DONTWAIT`, and a notification is an empty datagram. Datagram sockets, because a peer that closes
//! its end does not make ours readable for ever, as it would with a stream.
//!
//! [`take_eventfd`] is for eventfds that a peer holds nevertheless (vfio-user and VFIO signal by them).

use std::io::IoSliceMut;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::{Errno, ReadWriteFlags};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType};

use crate::error::Error;

/// The most datagrams that one [`Doorbell::take`] removes: more than the kernel queues, unless an administrator has
/// raised `net.unix.max_dgram_qlen`. If any are left, the next `poll` returns at once.
const RINGS_MAX: usize = 32;

/// The end that rings.
#[derive(Debug)]
pub struct Ringer(OwnedFd);

/// The end that is polled.
#[derive(Debug)]
pub struct Doorbell(OwnedFd);

/// The two ends of a new doorbell, close-on-exec.
///
/// # Errors
/// If the socket pair cannot be created.
pub fn pair() -> Result<(Ringer, Doorbell), Error> {
    let (ringer, doorbell) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
            .map_err(|errno| Error::io("socketpair", errno))?;
    // One way: nothing can be sent to the ringing end, which is never read.
    rustix::net::shutdown(&ringer, Shutdown::Read).map_err(|errno| Error::io("shutdown", errno))?;
    Ok((Ringer(ringer), Doorbell(doorbell)))
}

impl Ringer {
    /// Makes a `poll` of the other end return. Never blocks: if the queue is full, it is rung already.
    pub fn ring(&self) {
        let _ = rustix::net::send(&self.0, &[], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }
}

impl Doorbell {
    /// Whether it is rung. Never blocks.
    #[must_use]
    pub fn is_rung(&self) -> bool {
        is_readable(&self.0)
    }

    /// Clears it, and returns whether it was rung. Never blocks.
    #[must_use]
    pub fn take(&self) -> bool {
        let mut rung = false;
        for _ in 0..RINGS_MAX {
            match rustix::net::recv(&self.0, &mut [0; 1][..], RecvFlags::DONTWAIT) {
                Ok(_) => rung = true,
                Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
        rung
    }
}

/// Whether a doorbell is rung, or the counter of an eventfd is not zero. Never blocks.
#[must_use]
pub fn is_readable(fd: impl AsFd) -> bool {
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0)
}

/// Resets the counter of an eventfd, and returns whether it was not zero. Never blocks, whatever the file's flags are,
/// which any holder can change at any time.
#[must_use]
pub fn take_eventfd(eventfd: impl AsFd) -> bool {
    let mut count = [0; 8];
    // An offset of -1 is the file's own position, which an eventfd does not have.
    rustix::io::preadv2(eventfd, &mut [IoSliceMut::new(&mut count)], u64::MAX, ReadWriteFlags::NOWAIT).is_ok()
}

impl AsFd for Ringer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for Ringer {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl From<Ringer> for OwnedFd {
    fn from(ringer: Ringer) -> Self {
        ringer.0
    }
}

impl From<Doorbell> for OwnedFd {
    fn from(doorbell: Doorbell) -> Self {
        doorbell.0
    }
}

impl From<OwnedFd> for Doorbell {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

#[cfg(test)]
mod tests;
