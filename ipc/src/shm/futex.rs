// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A word in shared memory on which a thread of any process can sleep.
//!
//! Under loom a word carries a lock and a condition variable instead: a sleeper is woken by a wake, never by
//! the word changing on its own, so a forgotten wake is a deadlock that the model finds.

use crate::deadline::Deadline;
use crate::shm::sync::{AtomicU32, Ordering};

/// A futex word. Shared between processes, so never with the kernel's process-private shortcut.
#[derive(Debug)]
#[cfg_attr(not(loom), repr(transparent))]
pub(crate) struct FutexWord {
    value: AtomicU32,
    #[cfg(loom)]
    sleepers: (loom::sync::Mutex<()>, loom::sync::Condvar),
}

impl FutexWord {
    pub(crate) fn load(&self, order: Ordering) -> u32 {
        self.value.load(order)
    }

    pub(crate) fn swap(&self, value: u32, order: Ordering) -> u32 {
        self.value.swap(value, order)
    }

    /// Changes the word, so that a thread that is about to sleep on its old value does not.
    pub(crate) fn bump(&self) {
        self.value.fetch_add(1, Ordering::Release);
    }
}

#[cfg(not(loom))]
impl FutexWord {
    /// Sleeps while the word is `expected`, until woken or the deadline. May return early: the caller checks again.
    pub(crate) fn wait(&self, expected: u32, deadline: Deadline) {
        let flags = rustix::thread::futex::Flags::empty();
        // Every outcome (woken, changed already, signal, timeout) is handled by the caller's next check.
        let _ = rustix::thread::futex::wait(&self.value, flags, expected, Some(&deadline.timespec()));
    }

    /// Wakes everyone who sleeps on the word.
    pub(crate) fn wake_all(&self) {
        let flags = rustix::thread::futex::Flags::empty();
        // The kernel takes the count as a signed number.
        let everyone = i32::MAX.unsigned_abs();
        let _ = rustix::thread::futex::wake(&self.value, flags, everyone);
    }
}

#[cfg(loom)]
impl FutexWord {
    pub(crate) fn new() -> Self {
        let sleepers = (loom::sync::Mutex::new(()), loom::sync::Condvar::new());
        Self { value: AtomicU32::new(0), sleepers }
    }

    pub(crate) fn wait(&self, expected: u32, _deadline: Deadline) {
        let guard = crate::shm::sync::lock(&self.sleepers.0);
        // As in the kernel, the check and the sleep are one step for a waker.
        if self.value.load(Ordering::SeqCst) == expected {
            drop(self.sleepers.1.wait(guard));
        }
    }

    pub(crate) fn wake_all(&self) {
        let _guard = crate::shm::sync::lock(&self.sleepers.0);
        self.sleepers.1.notify_all();
    }
}
