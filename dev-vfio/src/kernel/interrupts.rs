// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The interrupts of a real device: MSI-X or INTx, for the kernel connects one kind at a time.
//!
//! Connected is what the guest has enabled: its vectors while MSI-X is, else its pin. The eventfds are made once and stay
//! what they are, whether connected or not, so that whoever listens to one has to be told nothing. INTx masks itself when it
//! signals. What a vector has signalled and nobody has taken when MSI-X is disabled is gone, as PCI has it.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipc::vfio_user::device::{IrqInfo, PCI_INTX_IRQ, PCI_MSIX_IRQ};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::error::{KernelError, plain, refused};
use super::sys::cdev;

/// What is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Nothing,
    Intx,
    Msix,
}

/// A bound device's.
#[derive(Debug)]
pub struct Interrupts {
    cdev: Arc<OwnedFd>,
    vectors: Arc<[OwnedFd]>,
    intx: Option<Arc<OwnedFd>>,
    connected: Mutex<Kind>,
}

impl Interrupts {
    /// None yet. An earlier life of this process may have left some connected, to eventfds that are gone.
    pub fn none(cdev: Arc<OwnedFd>) -> Interrupts {
        for index in [PCI_INTX_IRQ, PCI_MSIX_IRQ] {
            // Refused for a kind that is not connected.
            let _ = cdev::set_irqs(cdev.as_fd(), index, 0, &[]);
        }
        Interrupts { cdev, vectors: Arc::new([]), intx: None, connected: Mutex::new(Kind::Nothing) }
    }

    /// How many vectors the device has, and whether it has a pin that masks itself.
    pub fn count(cdev: &OwnedFd) -> (u32, bool) {
        let info = |index| cdev::irq_info(cdev.as_fd(), index).ok();
        let flags = IrqInfo::EVENTFD | IrqInfo::MASKABLE | IrqInfo::AUTOMASKED;
        let pin = |info: IrqInfo| info.count.get() > 0 && info.flags.get() & flags == flags;
        (info(PCI_MSIX_IRQ).map_or(0, |info| info.count.get()), info(PCI_INTX_IRQ).is_some_and(pin))
    }

    /// Takes the eventfds, and tries both kinds, so that a host that has no room is found out before a guest needs it. Out
    /// of reset INTx is enabled. Comes back with why there is no INTx, if it was wanted.
    ///
    /// # Errors
    /// If the vectors cannot be connected, or there would be no interrupt at all.
    pub fn offer(
        &mut self,
        vectors: &Arc<[OwnedFd]>,
        intx: Option<&Arc<OwnedFd>>,
    ) -> Result<Option<KernelError>, KernelError> {
        self.vectors = Arc::clone(vectors);
        self.intx = intx.cloned();
        self.switch(true)?;
        match self.switch(false) {
            Err(error) if !vectors.is_empty() => {
                self.intx = None;
                Ok(Some(error))
            }
            other => other.map(|_| None),
        }
    }

    /// Connects the vectors, or the pin, whichever of them there are. True: that was a change.
    ///
    /// # Errors
    /// The kernel's; then nothing is connected.
    pub fn switch(&self, msix: bool) -> Result<bool, KernelError> {
        let wanted = match &self.intx {
            _ if msix && !self.vectors.is_empty() => Kind::Msix,
            Some(_) => Kind::Intx,
            None => Kind::Nothing,
        };
        let mut connected = self.connected();
        if *connected == wanted {
            return Ok(false);
        }
        match std::mem::replace(&mut *connected, Kind::Nothing) {
            Kind::Nothing => {}
            Kind::Intx => self.set(PCI_INTX_IRQ, &[])?,
            Kind::Msix => {
                self.set(PCI_MSIX_IRQ, &[])?;
                self.drain();
            }
        }
        match wanted {
            Kind::Nothing => {}
            Kind::Intx => self.set(PCI_INTX_IRQ, self.intx.as_deref().as_slice())?,
            Kind::Msix => self.set(PCI_MSIX_IRQ, &self.vectors.iter().collect::<Vec<_>>())?,
        }
        *connected = wanted;
        Ok(true)
    }

    /// Lets the pin speak again. One that is not connected is not masked.
    ///
    /// # Errors
    /// The kernel's.
    pub fn unmask_intx(&self) -> Result<(), KernelError> {
        match *self.connected() {
            Kind::Intx => cdev::unmask_irq(self.cdev.as_fd(), PCI_INTX_IRQ).map_err(refused(CALL, plain)),
            Kind::Nothing | Kind::Msix => Ok(()),
        }
    }

    /// Whether a vector has signalled and nobody has taken that. Looks, and takes nothing.
    pub fn waits(&self, index: usize) -> bool {
        const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
        self.vectors.get(index).is_some_and(|eventfd| {
            let mut fd = [PollFd::new(eventfd, PollFlags::IN)];
            poll(&mut fd, Some(&NOW)).is_ok_and(|ready| ready > 0)
        })
    }

    fn set(&self, index: u32, eventfds: &[&OwnedFd]) -> Result<(), KernelError> {
        let fds: Vec<_> = eventfds.iter().map(AsFd::as_fd).collect();
        cdev::set_irqs(self.cdev.as_fd(), index, 0, &fds).map_err(refused(CALL, plain))
    }

    fn drain(&self) {
        for eventfd in self.vectors.iter() {
            let _ = rustix::io::read(eventfd, &mut [0; 8]);
        }
    }

    fn connected(&self) -> MutexGuard<'_, Kind> {
        // True at any time, whatever panics: it is set after the fact.
        self.connected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const CALL: &str = "VFIO_DEVICE_SET_IRQS";

#[cfg(test)]
mod tests {
    use rustix::event::{EventfdFlags, eventfd};

    use super::*;

    #[test]
    fn signal_that_nobody_has_taken_is_seen_without_being_taken() {
        let null = Arc::new(OwnedFd::from(std::fs::File::open("/dev/null").unwrap()));
        let new = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        let mut interrupts = Interrupts::none(Arc::clone(&null));
        assert_eq!(Interrupts::count(&null), (0, false));
        let vectors: Arc<[OwnedFd]> = Arc::new([new(), new()]);
        let refused = interrupts.offer(&vectors, None).unwrap_err().to_string();
        assert!(refused.starts_with("VFIO_DEVICE_SET_IRQS is refused by the kernel"), "{refused}");
        interrupts.unmask_intx().unwrap();
        rustix::io::write(&vectors[1], &1_u64.to_ne_bytes()).unwrap();
        for _ in 0..2 {
            assert_eq!([0, 1, 2].map(|index| interrupts.waits(index)), [false, true, false]);
        }
        interrupts.drain();
        assert!(!interrupts.waits(1));
    }
}
