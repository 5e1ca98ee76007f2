// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Eventfds received from foreign peers, checked to be eventfds before anything is written to them.
//!
//! A peer can pass any descriptor as an eventfd. A write to a pipe or a socket may block for ever, one to a file or a
//! device would use our rights for the peer. A write to an eventfd blocks only while its counter is full, which a
//! holder can make it: [`PeerEventfd::drain`] unblocks it. Processes of one VM use doorbells instead
//! ([`crate::doorbell`]).

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
    /// Checks that the descriptor is an eventfd that can be signalled, without reading its counter or writing to it.
    /// `None`: it is something else, or its counter is full.
    #[must_use]
    pub fn prove(fd: OwnedFd) -> Option<Self> {
        is_eventfd(&fd).then_some(Self(fd))
    }

    /// Signals it. Blocks while its counter is full.
    pub fn signal(&self) {
        // An error concerns the peer alone, whose descriptor it is.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Resets its counter, which unblocks a blocked [`Self::signal`]. Never blocks.
    pub fn drain(&self) {
        let _ = take_eventfd(&self.0);
    }
}

fn is_eventfd(fd: &OwnedFd) -> bool {
    // Anonymous inodes have no file type in `st_mode`; pipes, sockets, memory files, devices and disk files have.
    let Ok(stat) = rustix::fs::fstat(fd) else { return false };
    if !matches!(FileType::from_raw_mode(stat.st_mode), FileType::Unknown) {
        return false;
    }
    // An offset of -1 is the file's own position, which such a file does not have.
    let read =
        |len: usize| preadv2(fd, &mut [IoSliceMut::new(&mut vec![0; len])], u64::MAX, ReadWriteFlags::NOWAIT);
    // It takes non-blocking reads, but of no less than 8 bytes: an eventfd, a timerfd or a signalfd.
    if read(0) != Ok(0) || read(4) != Err(Errno::INVAL) {
        return false;
    }
    // Of these only an eventfd polls as writable.
    let mut polled = [PollFd::new(fd, PollFlags::OUT)];
    let ready = poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
    ready == Ok(1) && polled.iter().all(|fd| fd.revents() == PollFlags::OUT)
}

#[cfg(test)]
mod tests;
