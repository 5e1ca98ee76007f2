// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Doorbells between processes: one end says "look", the other polls for it. Neither can make the other wait.
//!
//! Not eventfds: whether a call on one blocks is a flag of the open file that both ends share, and its counter can be
//! filled, so whoever holds one end could make a read or a write of the other last for ever. Here the ends are two
//! sockets, each call says for itself that it does not wait, and what has been rung is a queue of a few empty
//! datagrams. Datagrams, because the end of one end is not told to the other: nothing a peer does
//! leaves a descriptor that is always ready.
//!
//! For an eventfd that a peer holds nevertheless (vfio-user and VFIO signal by them), [`take_eventfd`].

use std::io::IoSliceMut;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::{Errno, ReadWriteFlags};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType};

use crate::error::Error;

/// How many rings one look takes: more than the kernel queues unless an administrator has raised
/// `net.unix.max_dgram_qlen`. What is left makes the next `poll` return at once.
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
/// If the kernel has no socket pair to give.
pub fn pair() -> Result<(Ringer, Doorbell), Error> {
    let (ringer, doorbell) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
            .map_err(|errno| Error::io("socketpair", errno))?;
    // One way: nothing can be sent to the end that nobody reads.
    rustix::net::shutdown(&ringer, Shutdown::Read).map_err(|errno| Error::io("shutdown", errno))?;
    Ok((Ringer(ringer), Doorbell(doorbell)))
}

impl Ringer {
    /// Makes the other end's next, or present, `poll` return. Never waits: a queue that is full rings already, and an
    /// end that is gone has nobody to hear it.
    pub fn ring(&self) {
        let _ = rustix::net::send(&self.0, &[], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }
}

impl Doorbell {
    /// Whether it has rung, and still does. Never waits.
    #[must_use]
    pub fn is_rung(&self) -> bool {
        is_readable(&self.0)
    }

    /// Silences it, and says whether it has rung. Never waits.
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

/// Whether a read of it would find something: a ring of a doorbell, the count of an eventfd. Never waits.
#[must_use]
pub fn is_readable(fd: impl AsFd) -> bool {
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0)
}

/// Takes the count of an eventfd, and says whether there was one. Never waits, whatever flags the file has by now:
/// another holder of it can change them at any time.
#[must_use]
pub fn take_eventfd(eventfd: impl AsFd) -> bool {
    let mut count = [0; 8];
    // At the file's own position: it has none.
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
