// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which of a device's interrupts are connected: its MSI-X vectors or its INTx, one kind at a time.
//!
//! The kernel connects one kind at a time, and so does every server built on libvfio-user: there the kinds share one
//! table of eventfds, and the kind that is connected last silently replaces the other. Connected is what the guest
//! has enabled. The eventfds are made once and stay what they are, connected or not, so that a poller of one need not
//! be told of a change. A signal that is unread when MSI-X is disabled is dropped, as PCI specifies.

use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ipc::doorbell::take_eventfd;
use ipc::vfio_user::device::{PCI_INTX_IRQ, PCI_MSIX_IRQ};

use crate::backend::Eventfds;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Kind {
    #[default]
    Nothing,
    Intx,
    Msix,
}

/// A device's eventfds, and which are connected.
#[derive(Debug, Default)]
pub struct Connected {
    eventfds: Eventfds,
    kind: Mutex<Kind>,
}

impl Connected {
    /// Takes the eventfds and tries both kinds, so that a device that refuses one is detected before a guest needs
    /// it. Out of reset INTx is enabled. Returns why there is no INTx, if the device has a pin. `set` connects the
    /// interrupts of an index to eventfds, or disconnects them if there are none.
    ///
    /// # Errors
    /// If the vectors cannot be connected, or there would be no interrupt at all.
    pub fn offer<E>(
        &mut self,
        eventfds: &Eventfds,
        set: impl Fn(u32, &[&OwnedFd]) -> Result<(), E>,
    ) -> Result<Option<E>, E> {
        self.eventfds = eventfds.clone();
        self.switch(true, &set)?;
        match self.switch(false, &set) {
            Err(error) if !eventfds.vectors.is_empty() => {
                self.eventfds.intx = None;
                Ok(Some(error))
            }
            other => other.map(|_| None),
        }
    }

    /// Takes the eventfds without connecting any.
    pub fn adopt(&mut self, eventfds: &Eventfds) {
        self.eventfds = eventfds.clone();
    }

    /// Connects the vectors or the pin, as far as the device has them. Returns whether that changed anything.
    ///
    /// # Errors
    /// Why it is refused; then nothing is connected.
    pub fn switch<E>(&self, msix: bool, set: impl Fn(u32, &[&OwnedFd]) -> Result<(), E>) -> Result<bool, E> {
        let wanted = match &self.eventfds.intx {
            _ if msix && !self.eventfds.vectors.is_empty() => Kind::Msix,
            Some(_) => Kind::Intx,
            None => Kind::Nothing,
        };
        let mut kind = self.kind();
        if *kind == wanted {
            return Ok(false);
        }
        match std::mem::take(&mut *kind) {
            Kind::Nothing => {}
            Kind::Intx => set(PCI_INTX_IRQ, &[])?,
            Kind::Msix => {
                set(PCI_MSIX_IRQ, &[])?;
                self.drain();
            }
        }
        match wanted {
            Kind::Nothing => {}
            Kind::Intx => set(PCI_INTX_IRQ, self.eventfds.intx.as_deref().as_slice())?,
            Kind::Msix => set(PCI_MSIX_IRQ, &self.eventfds.vectors.iter().collect::<Vec<_>>())?,
        }
        *kind = wanted;
        Ok(true)
    }

    /// Connects the current kind once more: another process may have connected its own eventfds, of either kind,
    /// meanwhile.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn reconnect<E>(&self, set: impl Fn(u32, &[&OwnedFd]) -> Result<(), E>) -> Result<(), E> {
        let kind = self.kind();
        set(PCI_INTX_IRQ, &[])?;
        set(PCI_MSIX_IRQ, &[])?;
        match *kind {
            Kind::Nothing => Ok(()),
            Kind::Intx => set(PCI_INTX_IRQ, self.eventfds.intx.as_deref().as_slice()),
            Kind::Msix => set(PCI_MSIX_IRQ, &self.eventfds.vectors.iter().collect::<Vec<_>>()),
        }
    }

    /// Signals each of the connected kind, as the device would.
    pub fn signal_all(&self) {
        let Eventfds { vectors, intx } = &self.eventfds;
        let (vectors, intx) = match *self.kind() {
            Kind::Nothing => return,
            Kind::Intx => (None, intx.as_deref()),
            Kind::Msix => (Some(vectors.iter()), None),
        };
        for eventfd in vectors.into_iter().flatten().chain(intx) {
            // Full: it is signalled.
            let _ = rustix::io::write(eventfd, &1_u64.to_ne_bytes());
        }
    }

    /// Whether INTx is the connected kind. While it is not, it is never masked.
    pub fn is_intx(&self) -> bool {
        *self.kind() == Kind::Intx
    }

    /// A vector's eventfd.
    pub fn vector(&self, index: usize) -> Option<&OwnedFd> {
        self.eventfds.vectors.get(index)
    }

    fn drain(&self) {
        for eventfd in self.eventfds.vectors.iter() {
            // The server, or the vCPU process, may hold it too.
            let _ = take_eventfd(eventfd);
        }
    }

    fn kind(&self) -> MutexGuard<'_, Kind> {
        // Set only after the kernel or server has confirmed, so it is right even if the holder panicked.
        self.kind.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
