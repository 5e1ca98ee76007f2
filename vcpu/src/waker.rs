// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Ends a thread's `poll` from another thread of this process: an eventfd whose count means nothing, and that no other
//! process holds. Between processes it is a doorbell (`ipc::doorbell`).

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// An eventfd that one thread polls, and that any thread writes to wake it.
#[derive(Debug)]
pub struct Waker(OwnedFd);

impl Waker {
    /// A new waker. Fails only if the host has no eventfd left.
    pub fn new() -> Result<Self, Errno> {
        eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map(Self)
    }

    /// Makes the current or next `poll` return.
    pub fn wake(&self) {
        // A full counter means a wake-up is pending already.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    /// Clears it, so that the next `poll` waits again.
    pub fn clear(&self) {
        // Nothing to read: no wake-up was pending.
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
