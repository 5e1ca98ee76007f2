// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What pause closes: whoever changes the guest's memory or interrupts goes through here.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Closed while the guest is paused.
#[derive(Debug, Default)]
pub struct Gate {
    closed: Mutex<bool>,
    opened: Condvar,
}

/// The right to change the guest for as long as this lives.
#[derive(Debug)]
pub struct Open<'a> {
    _closed: MutexGuard<'a, bool>,
}

impl Gate {
    /// Waits until the gate is open.
    pub fn enter(&self) -> Open<'_> {
        let closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        let closed = self.opened.wait_while(closed, |closed| *closed);
        Open { _closed: closed.unwrap_or_else(PoisonError::into_inner) }
    }

    /// Closes the gate; when this returns, nobody is inside.
    pub fn close(&self) {
        *self.closed.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }

    /// Opens it.
    pub fn open(&self) {
        *self.closed.lock().unwrap_or_else(PoisonError::into_inner) = false;
        self.opened.notify_all();
    }
}
