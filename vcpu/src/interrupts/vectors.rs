// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! MSI-X vectors of physical devices: the eventfds that VFIO signals, for an interrupt controller with irqfds.
//!
//! A function's process hands each eventfd over once, and sets its route (an EventID) whenever that changes; the
//! DeviceID comes from the system table. If it dies, its vectors stay as they are, and the eventfds of its next life
//! take their places one by one, without a route: which of them have one now only that life knows, for the guest may
//! have masked some meanwhile. A vector without a route is off its irqfd, so that a signal waits in the eventfd; so are
//! all while the machine is paused. A controller without irqfds takes none, and the function's process delivers the
//! MSIs over its board.

use ipc::protocol::control::Failure;
use ipc::protocol::function_link::VECTORS_MAX;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, Weak};

/// An MSI-X vector of a physical device, signalled by the kernel.
#[derive(Debug)]
pub struct Vector {
    /// The eventfd. Whether it is one the host checks at KVM_IRQFD.
    pub eventfd: OwnedFd,
    /// The DeviceID of its messages.
    pub device_id: u32,
    /// Its index in the function's MSI-X table.
    index: u16,
    /// The life of the function's process that has handed it over.
    life: u32,
    /// Its route: the EventID, or none.
    pub event: Option<u32>,
}

/// An interrupt controller with irqfds.
pub trait Listener: Send + Sync {
    /// The route of the vector at `place` of the list has changed; `before` is the old one.
    fn route(&self, vectors: &[Vector], place: usize, before: Option<u32>) -> Result<(), Failure>;
}

/// All vectors. Made before the interrupt controller is.
#[derive(Default)]
pub struct Vectors {
    /// Whether the controller that will be made has irqfds.
    listens: bool,
    listener: OnceLock<Weak<dyn Listener>>,
    /// In order of arrival; none is ever removed, so that an index identifies a vector.
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
    /// None yet; `listens` says whether the controller has irqfds.
    pub fn new(listens: bool) -> Self {
        Self { listens, ..Self::default() }
    }

    /// All vectors. To be locked before the controller's own state, never after.
    pub fn list(&self) -> MutexGuard<'_, Vec<Vector>> {
        // Each change is one push or one assignment, so a poisoned lock is harmless.
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connects the controller, once.
    pub fn connect(&self, listener: Weak<dyn Listener>) {
        let _ = self.listener.set(listener);
    }

    /// Adds one of this life's, or puts it in the place of an earlier life's; in either case without a route. The error
    /// is the answer to the function's process.
    pub fn add(&self, device_id: u32, index: u16, life: u32, eventfd: OwnedFd) -> Result<(), String> {
        if !self.listens {
            return Err("software CPUs have no irqfds".to_owned());
        }
        if index >= VECTORS_MAX {
            return Err(format!("vector {index}: a function has {VECTORS_MAX} of them"));
        }
        let mut list = self.list();
        let Some(place) = place_of(&list, device_id, index) else {
            list.push(Vector { eventfd, device_id, index, life, event: None });
            return Ok(());
        };
        if list.get(place).is_none_or(|vector| vector.life == life) {
            return Err(format!("vector {index} is there already"));
        }
        // Off the irqfd of the eventfd before.
        self.set(&mut list, place, None)?;
        if let Some(vector) = list.get_mut(place) {
            (vector.eventfd, vector.life) = (eventfd, life);
        }
        Ok(())
    }

    /// Changes a vector's route. After an error it has none.
    pub fn route(&self, device_id: u32, index: u16, event: Option<u32>) -> Result<(), String> {
        let mut list = self.list();
        let place = place_of(&list, device_id, index).ok_or_else(|| format!("there is no vector {index}"))?;
        self.set(&mut list, place, event)
    }

    fn set(&self, list: &mut [Vector], place: usize, event: Option<u32>) -> Result<(), String> {
        let Some(vector) = list.get_mut(place) else { return Ok(()) };
        let before = std::mem::replace(&mut vector.event, event);
        let Some(listener) = self.listener.get().and_then(Weak::upgrade) else { return Ok(()) };
        if before == event {
            return Ok(());
        }
        listener.route(list, place, before).map_err(|Failure { what, why }| {
            if let Some(vector) = list.get_mut(place) {
                vector.event = None;
            }
            format!("the host cannot {what}: {why}")
        })
    }
}

fn place_of(list: &[Vector], device_id: u32, index: u16) -> Option<usize> {
    list.iter().position(|vector| (vector.device_id, vector.index) == (device_id, index))
}

#[cfg(test)]
mod tests;
