// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Admission of DMA and interrupts: a pause shuts them out, the vSMMU's requests go before them.
//!
//! A mutex is not fair: a stream of DMA that takes and releases it could starve the vSMMU's requests, and with them a
//! guest's CMD_SYNC, for seconds. So a thread with requests announces itself, and the next transfer waits for it.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Closed while the guest is paused.
#[derive(Debug, Default)]
pub struct Gate {
    /// Held for the length of a transfer.
    closed: Mutex<bool>,
    /// Threads with priority that wait for the lock or hold it.
    urgent: AtomicUsize,
    changed: Condvar,
}

/// Permission to change guest state, for as long as this lives.
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

    /// Takes priority, whether open or closed: waits for the transfer in progress and for no other.
    pub fn go_first(&self) -> Urgent<'_> {
        // Before the lock: the next transfer to take it sees this and yields.
        self.urgent.fetch_add(1, Relaxed);
        drop(self.closed());
        Urgent { gate: self }
    }

    /// Closes the gate; when this returns, no transfer is under way.
    pub fn close(&self) {
        *self.closed() = true;
    }

    /// Lets transfers and interrupts go on.
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
        // With the lock held: a thread that has checked the condition is asleep by then, and is woken.
        drop(self.gate.closed());
        self.gate.changed.notify_all();
    }
}
