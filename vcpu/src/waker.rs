// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Ends a thread's `poll` from another thread of this process: an eventfd whose count means nothing, and that no other
//! process holds. Between processes it is a doorbell (`ipc::doorbell`).

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What one thread polls for reading and any thread wakes it by.
#[derive(Debug)]
pub struct Waker(OwnedFd);

impl Waker {
    /// One that was not woken yet; fails only where the host has no eventfd left.
    pub fn new() -> Result<Self, Errno> {
        eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map(Self)
    }

    /// Makes the next, or the present, `poll` return.
    pub fn wake(&self) {
        // A full counter means that it wakes already.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    /// Lets the next `poll` wait again.
    pub fn clear(&self) {
        // Nothing to read means that no thread woke it.
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
