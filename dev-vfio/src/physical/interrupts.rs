// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The interrupts of a physical device: MSI-X or INTx by [`Connected`], with the kernel's calls. Its INTx masks itself
//! when it signals.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use ipc::vfio_user::device::{IrqInfo, PCI_INTX_IRQ, PCI_MSIX_IRQ};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::error::{KernelError, plain, refused};
use super::sys::cdev;
use crate::backend::Eventfds;
use crate::connected::Connected;
use crate::pci::intx::Pin;

/// A bound device's.
#[derive(Debug)]
pub struct Interrupts {
    cdev: Arc<OwnedFd>,
    connected: Connected,
    /// An earlier life's are connected still.
    are_left: AtomicBool,
}

impl Interrupts {
    /// With none connected. An earlier life of this process may have left some on eventfds that are gone.
    pub fn none(cdev: Arc<OwnedFd>) -> Interrupts {
        disconnect(&cdev);
        Interrupts { cdev, connected: Connected::default(), are_left: AtomicBool::new(false) }
    }

    /// With those connected that an earlier life of this process has left, until the first [`Self::switch`].
    pub fn left(cdev: Arc<OwnedFd>) -> Interrupts {
        Interrupts { cdev, connected: Connected::default(), are_left: AtomicBool::new(true) }
    }

    /// How many vectors the device has, and its INTx if that is automasked.
    pub fn count(cdev: &OwnedFd) -> (u32, Option<Pin>) {
        let info = |index| cdev::irq_info(cdev.as_fd(), index).ok();
        let flags = IrqInfo::EVENTFD | IrqInfo::MASKABLE | IrqInfo::AUTOMASKED;
        let is_pin = |info: &IrqInfo| info.count.get() > 0 && info.flags.get() & flags == flags;
        let pin = info(PCI_INTX_IRQ).filter(is_pin).map(|_| Pin { automasked: true });
        (info(PCI_MSIX_IRQ).map_or(0, |info| info.count.get()), pin)
    }

    /// Takes the eventfds and tries both kinds, so that a host without enough vectors is detected before a guest
    /// needs them. Returns why there is no INTx, if the device has a pin.
    ///
    /// # Errors
    /// If the vectors cannot be connected, or there would be no interrupt at all.
    pub fn offer(&mut self, eventfds: &Eventfds) -> Result<Option<KernelError>, KernelError> {
        let cdev = &self.cdev;
        self.connected.offer(eventfds, |index, eventfds| set(cdev, index, eventfds))
    }

    /// Takes the eventfds of a restored device, and connects none yet.
    pub fn adopt(&mut self, eventfds: &Eventfds) {
        self.connected.adopt(eventfds);
    }

    /// Connects what was connected once more: a next life may have connected its own eventfds meanwhile.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn reconnect(&self) -> Result<(), KernelError> {
        // Refused for a kind that is not connected.
        let set_or_not = |index, eventfds: &[&OwnedFd]| match set(&self.cdev, index, eventfds) {
            Err(_) if eventfds.is_empty() => Ok(()),
            other => other,
        };
        self.connected.reconnect(set_or_not)
    }

    /// Connects the vectors or the pin, as far as the device has them. Returns whether that changed anything.
    ///
    /// # Errors
    /// If the kernel refuses; then nothing is connected.
    pub fn switch(&self, msix: bool) -> Result<bool, KernelError> {
        let switch = || self.connected.switch(msix, |index, eventfds| set(&self.cdev, index, eventfds));
        if !self.are_left.swap(false, Relaxed) {
            return switch();
        }
        // Those of the same kind go over from the eventfds of the life before to these, and are not disabled.
        let switched = switch().or_else(|_| {
            disconnect(&self.cdev);
            switch()
        })?;
        // What was signalled to a life that could not read it any more: once more than is true, for each of them.
        self.connected.signal_all();
        Ok(switched)
    }

    /// Unmasks INTx. While it is not connected it is not masked.
    ///
    /// # Errors
    /// If the kernel refuses the call.
    pub fn unmask_intx(&self) -> Result<(), KernelError> {
        if !self.connected.is_intx() {
            return Ok(());
        }
        cdev::unmask_irq(self.cdev.as_fd(), PCI_INTX_IRQ).map_err(refused(CALL, plain))
    }

    /// Whether the vector's eventfd has a signal pending. Polls without reading it.
    pub fn is_pending(&self, index: usize) -> bool {
        const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
        self.connected.vector(index).is_some_and(|eventfd| {
            let mut fd = [PollFd::new(eventfd, PollFlags::IN)];
            poll(&mut fd, Some(&NOW)).is_ok_and(|ready| ready > 0)
        })
    }
}

fn disconnect(cdev: &OwnedFd) {
    for index in [PCI_INTX_IRQ, PCI_MSIX_IRQ] {
        // Refused for a kind that is not connected.
        let _ = cdev::set_irqs(cdev.as_fd(), index, 0, &[]);
    }
}

fn set(cdev: &OwnedFd, index: u32, eventfds: &[&OwnedFd]) -> Result<(), KernelError> {
    let fds: Vec<_> = eventfds.iter().map(AsFd::as_fd).collect();
    cdev::set_irqs(cdev.as_fd(), index, 0, &fds).map_err(refused(CALL, plain))
}

const CALL: &str = "VFIO_DEVICE_SET_IRQS";

#[cfg(test)]
mod tests {
    use rustix::event::{EventfdFlags, eventfd};

    use super::*;

    #[test]
    fn signal_that_waits_is_seen_without_being_taken() {
        let null = Arc::new(OwnedFd::from(std::fs::File::open("/dev/null").unwrap()));
        let new = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        let mut interrupts = Interrupts::none(Arc::clone(&null));
        assert_eq!(Interrupts::count(&null), (0, None));
        let vectors: Arc<[OwnedFd]> = Arc::new([new(), new()]);
        let eventfds = Eventfds { vectors: Arc::clone(&vectors), intx: None };
        let refused = interrupts.offer(&eventfds).unwrap_err().to_string();
        assert!(refused.starts_with("VFIO_DEVICE_SET_IRQS is refused by the kernel"), "{refused}");
        interrupts.unmask_intx().unwrap();
        rustix::io::write(&vectors[1], &1_u64.to_ne_bytes()).unwrap();
        for _ in 0..2 {
            assert_eq!([0, 1, 2].map(|index| interrupts.is_pending(index)), [false, true, false]);
        }
    }
}
