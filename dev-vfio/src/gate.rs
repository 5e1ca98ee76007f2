// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Who may change the guest, and when: DMA and interrupts come in here, pause shuts them out, orders go first.
//!
//! A lock that is free for a moment only, again and again, can pass by a thread that sleeps for it: a stream of DMA
//! would hold up the vSMMU's orders, and with them a guest's CMD_SYNC, for seconds. So whoever has orders says so,
//! and the next transfer waits for it, not the other way round.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Closed while the guest is paused.
#[derive(Debug, Default)]
pub struct Gate {
    /// Held for the length of a transfer.
    closed: Mutex<bool>,
    /// Threads that wait for, or have, what a transfer would take.
    urgent: AtomicUsize,
    changed: Condvar,
}

/// The right to change the guest for as long as this lives.
#[derive(Debug)]
pub struct Open<'a> {
    _closed: MutexGuard<'a, bool>,
}

/// Keeps new transfers from beginning for as long as this lives.
#[derive(Debug)]
pub struct Urgent<'a> {
    gate: &'a Gate,
}

impl Gate {
    /// Waits until the gate is open and no order is waiting.
    pub fn enter(&self) -> Open<'_> {
        let wait = |closed: &mut bool| *closed || self.urgent.load(Relaxed) > 0;
        let closed = self.changed.wait_while(self.closed(), wait);
        Open { _closed: closed.unwrap_or_else(PoisonError::into_inner) }
    }

    /// Goes first, open or closed: a transfer that is under way is waited for, and no other.
    pub fn go_first(&self) -> Urgent<'_> {
        // Before the lock: whoever takes it next sees this, and steps back.
        self.urgent.fetch_add(1, Relaxed);
        drop(self.closed());
        Urgent { gate: self }
    }

    /// Closes the gate; when this returns, no transfer is under way.
    pub fn close(&self) {
        *self.closed() = true;
    }

    /// Opens it.
    pub fn open(&self) {
        *self.closed() = false;
        self.changed.notify_all();
    }

    fn closed(&self) -> MutexGuard<'_, bool> {
        self.closed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Urgent<'_> {
    fn drop(&mut self) {
        self.gate.urgent.fetch_sub(1, Relaxed);
        // With the lock held: a thread that has looked is asleep by then, and woken.
        drop(self.gate.closed());
        self.gate.changed.notify_all();
    }
}
