// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Eventfds of peers that are not ours: proved to be eventfds before anything is written to them.
//!
//! A peer may pass anything under that name. A write to a pipe or a socket can wait for ever, one to a file or a device
//! does what the peer likes with our rights. To a real eventfd a write waits only while its counter is full, which it
//! is after nearly 2^64 signals, or at once if a holder of it fills it: [`PeerEventfd::drain`] ends that. Processes of
//! one VM have doorbells instead ([`crate::doorbell`]).

use std::io::IoSliceMut;
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::FileType;
use rustix::io::{Errno, ReadWriteFlags, preadv2};

use crate::doorbell::take_eventfd;

/// An eventfd that a peer passed.
#[derive(Debug)]
pub struct PeerEventfd(OwnedFd);

impl PeerEventfd {
    /// Takes the descriptor if it is an eventfd that can be signalled; nothing is read from it or written to it.
    /// `None`: it is something else, or full.
    #[must_use]
    pub fn prove(fd: OwnedFd) -> Option<Self> {
        is_eventfd(&fd).then_some(Self(fd))
    }

    /// Signals it. Waits while its counter is full.
    pub fn signal(&self) {
        // Whatever fails is the peer's, whose descriptor it is.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Takes its count, so that a signal which waits gets through. Never waits.
    pub fn drain(&self) {
        let _ = take_eventfd(&self.0);
    }
}

fn is_eventfd(fd: &OwnedFd) -> bool {
    // Files of no file system have no type in their mode: pipes, sockets, memory, devices and files on disks have.
    let Ok(stat) = rustix::fs::fstat(fd) else { return false };
    if !matches!(FileType::from_raw_mode(stat.st_mode), FileType::Unknown) {
        return false;
    }
    // At the file's own position: it has none.
    let read =
        |len: usize| preadv2(fd, &mut [IoSliceMut::new(&mut vec![0; len])], u64::MAX, ReadWriteFlags::NOWAIT);
    // It can be read, and without waiting, but not in less than 8 bytes: an eventfd, a timer or a signal descriptor.
    if read(0) != Ok(0) || read(4) != Err(Errno::INVAL) {
        return false;
    }
    // Only one of these can be ready to be written to.
    let mut polled = [PollFd::new(fd, PollFlags::OUT)];
    let ready = poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
    ready == Ok(1) && polled.iter().all(|fd| fd.revents() == PollFlags::OUT)
}

#[cfg(test)]
mod tests;
