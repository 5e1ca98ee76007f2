// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Interrupt vectors: an eventfd each, when the client has connected one.
//!
//! A vector that is raised while no eventfd is connected, or while it is masked, stays pending and is signalled when
//! that changes: an interrupt may come twice, never not at all. A client can fill the counter of its eventfd, and so
//! block the thread that signals it: only threads of its own session, and [`Vectors::drain`] unblocks them.

use std::sync::{Arc, Mutex, PoisonError};

use ipc::eventfd::PeerEventfd;
use rustix::io::Errno;

use crate::engine::Interrupts;
use crate::pci::VECTORS;

#[derive(Debug, Default)]
struct Vector {
    eventfd: Option<Arc<PeerEventfd>>,
    masked: bool,
    pending: bool,
}

impl Vector {
    fn signal_if_pending(&mut self) {
        let Some(eventfd) = self.eventfd.as_ref().filter(|_| self.pending && !self.masked) else { return };
        self.pending = false;
        eventfd.signal();
    }
}

/// The vectors of a session.
#[derive(Debug)]
pub struct Vectors {
    vectors: Vec<Mutex<Vector>>,
    /// The same eventfds, accessible while a blocked thread holds a vector's lock.
    eventfds: Mutex<Vec<Option<Arc<PeerEventfd>>>>,
}

impl Default for Vectors {
    fn default() -> Self {
        Self {
            vectors: (0..VECTORS).map(|_| Mutex::default()).collect(),
            eventfds: Mutex::new(vec![None; VECTORS.into()]),
        }
    }
}

impl Vectors {
    /// Calls `f` for each vector of a range, with its index in the range.
    ///
    /// # Errors
    /// `EINVAL` if the range has vectors that do not exist; nothing is done then.
    pub fn each(
        &self,
        start: u32,
        count: u32,
        mut act: impl FnMut(usize, &mut VectorRef<'_>),
    ) -> Result<(), Errno> {
        let first = usize::try_from(start).map_err(|_| Errno::INVAL)?;
        let len = usize::try_from(count).map_err(|_| Errno::INVAL)?;
        let end = first.checked_add(len).ok_or(Errno::INVAL)?;
        for (number, vector) in self.vectors.get(first..end).ok_or(Errno::INVAL)?.iter().enumerate() {
            let mut vector = vector.lock().unwrap_or_else(PoisonError::into_inner);
            act(number, &mut VectorRef { vector: &mut vector, vectors: self, index: first + number });
        }
        Ok(())
    }

    /// Drains the eventfds, which unblocks threads waiting to signal. Never blocks. For the end of a session: the
    /// client loses the counts.
    pub fn drain(&self) {
        let eventfds = self.eventfds.lock().unwrap_or_else(PoisonError::into_inner).clone();
        eventfds.iter().flatten().for_each(|eventfd| eventfd.drain());
    }
}

/// A vector, locked.
pub struct VectorRef<'a> {
    vector: &'a mut Vector,
    vectors: &'a Vectors,
    index: usize,
}

impl VectorRef<'_> {
    /// Connects an eventfd, or none.
    pub fn connect(&mut self, eventfd: Option<PeerEventfd>) {
        let eventfd = eventfd.map(Arc::new);
        let mut eventfds = self.vectors.eventfds.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = eventfds.get_mut(self.index) {
            slot.clone_from(&eventfd);
        }
        drop(eventfds);
        self.vector.eventfd = eventfd;
        self.vector.signal_if_pending();
    }

    /// Masks or unmasks.
    pub fn mask(&mut self, masked: bool) {
        self.vector.masked = masked;
        self.vector.signal_if_pending();
    }

    /// Makes the vector pending, and signals it unless it is masked.
    pub fn raise(&mut self) {
        self.vector.pending = true;
        self.vector.signal_if_pending();
    }
}

impl Interrupts for Vectors {
    fn raise(&self, vector: u16) {
        // The controller has no vector beyond the table's.
        let _ = self.each(vector.into(), 1, |_, vector| vector.raise());
    }
}
