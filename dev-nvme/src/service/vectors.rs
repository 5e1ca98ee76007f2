// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Interrupt vectors: an eventfd each, when the client has connected one.
//!
//! A vector that is raised while no eventfd is connected, or while it is masked, stays pending and is signalled when
//! that changes: an interrupt may come twice, never not at all.

use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;

use crate::engine::Interrupts;
use crate::pci::VECTORS;

#[derive(Debug, Default)]
struct Vector {
    eventfd: Option<OwnedFd>,
    masked: bool,
    pending: bool,
}

impl Vector {
    fn signal_if_pending(&mut self) {
        let Some(eventfd) = self.eventfd.as_ref().filter(|_| self.pending && !self.masked) else { return };
        self.pending = false;
        signal(eventfd);
    }
}

/// The vectors of a session.
#[derive(Debug)]
pub struct Vectors {
    vectors: Vec<Mutex<Vector>>,
}

impl Default for Vectors {
    fn default() -> Self {
        Self { vectors: (0..VECTORS).map(|_| Mutex::default()).collect() }
    }
}

impl Vectors {
    /// Does something with each vector of a range; the number is counted from the range's beginning.
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
            act(number, &mut VectorRef(&mut vector));
        }
        Ok(())
    }
}

/// A vector, held.
pub struct VectorRef<'a>(&'a mut Vector);

impl VectorRef<'_> {
    /// Connects an eventfd, or none.
    pub fn connect(&mut self, eventfd: Option<OwnedFd>) {
        self.0.eventfd = eventfd;
        self.0.signal_if_pending();
    }

    /// Masks or unmasks.
    pub fn mask(&mut self, masked: bool) {
        self.0.masked = masked;
        self.0.signal_if_pending();
    }

    /// Raises it.
    pub fn raise(&mut self) {
        self.0.pending = true;
        self.0.signal_if_pending();
    }
}

impl Interrupts for Vectors {
    fn raise(&self, vector: u16) {
        // The controller has no vector beyond the table's.
        let _ = self.each(vector.into(), 1, |_, vector| vector.raise());
    }
}

fn signal(eventfd: &OwnedFd) {
    // A full counter is a signal that is pending already; another failure is the client's, who chose the fd.
    let _ = rustix::io::write(eventfd, &1u64.to_ne_bytes());
}
