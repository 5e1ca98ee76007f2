// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! MSI-X vectors of physical devices: the eventfds that the host signals, for an interrupt controller that listens by itself.
//!
//! A function's process hands each over once, and says what its signal means whenever that changes. What it may say is
//! which event of its own function it is: the device's number comes from the system table. A vector without a meaning is not
//! listened to, and a signal waits in its eventfd; so it is, too, while the machine is paused. With a controller that
//! cannot listen none is taken, and the function's process brings the messages itself, over its board.

use ipc::protocol::control::Failure;
use ipc::protocol::function_link::VECTORS_MAX;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, Weak};

/// One vector.
#[derive(Debug)]
pub struct Vector {
    /// Counts the device's signals. Whose file it is only the host finds out.
    pub eventfd: OwnedFd,
    /// What its messages are signalled with.
    pub device_id: u32,
    /// Its number among those of its function.
    index: u16,
    /// What a signal means now.
    pub event: Option<u32>,
}

/// An interrupt controller that listens to vectors by itself.
pub trait Listener: Send + Sync {
    /// What the vector at `place` of the list means has changed; `before` is what it was.
    fn route(&self, vectors: &[Vector], place: usize, before: Option<u32>) -> Result<(), Failure>;
}

/// All vectors. Made before the interrupt controller is.
#[derive(Default)]
pub struct Vectors {
    /// Whether the controller that will be made listens.
    listens: bool,
    listener: OnceLock<Weak<dyn Listener>>,
    /// In the order in which they came; none is ever taken away, so that a place stands for one vector.
    list: Mutex<Vec<Vector>>,
}

impl std::fmt::Debug for Vectors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vectors")
            .field("listens", &self.listens)
            .field("list", &self.list)
            .finish_non_exhaustive()
    }
}

impl Vectors {
    /// None yet; `listens` says whether the controller can take any.
    pub fn new(listens: bool) -> Self {
        Self { listens, ..Self::default() }
    }

    /// All of them. To be locked before the listener's own state, never after.
    pub fn list(&self) -> MutexGuard<'_, Vec<Vector>> {
        // Whole at any time: each change is one push or one assignment.
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wires them up, once.
    pub fn connect(&self, listener: Weak<dyn Listener>) {
        let _ = self.listener.set(listener);
    }

    /// Adds one, which means nothing yet. The error is for whoever asked.
    pub fn add(&self, device_id: u32, index: u16, eventfd: OwnedFd) -> Result<(), String> {
        if !self.listens {
            return Err("software CPUs do not listen to eventfds".to_owned());
        }
        if index >= VECTORS_MAX {
            return Err(format!("vector {index}: a function has {VECTORS_MAX} of them"));
        }
        let mut list = self.list();
        if list.iter().any(|vector| (vector.device_id, vector.index) == (device_id, index)) {
            return Err(format!("vector {index} is there already"));
        }
        list.push(Vector { eventfd, device_id, index, event: None });
        Ok(())
    }

    /// Changes what a signal means. After an error it means nothing.
    pub fn route(&self, device_id: u32, index: u16, event: Option<u32>) -> Result<(), String> {
        let mut list = self.list();
        let mut all = list.iter_mut().enumerate();
        let found = all.find(|(_, vector)| (vector.device_id, vector.index) == (device_id, index));
        let (place, vector) = found.ok_or_else(|| format!("there is no vector {index}"))?;
        let before = std::mem::replace(&mut vector.event, event);
        let Some(listener) = self.listener.get().and_then(Weak::upgrade) else { return Ok(()) };
        if before == event {
            return Ok(());
        }
        listener.route(&list, place, before).map_err(|Failure { what, why }| {
            if let Some(vector) = list.get_mut(place) {
                vector.event = None;
            }
            format!("the host cannot {what}: {why}")
        })
    }
}

#[cfg(test)]
mod tests;
