// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Interrupts on their way to the controller: lines of devices in this process, eventfds of devices in others.

use super::doorbell::Doorbell;
use super::gate::Gate;
use super::intx::Pins;
use super::remote::RemoteMsi;
use ipc::protocol::control::Failure;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// How long the thread sleeps at most; the bell ends it earlier.
const POLL_INTERVAL: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// An interrupt controller, as devices reach it.
pub trait Interrupts: Send + Sync + 'static {
    /// Makes an edge-triggered shared peripheral interrupt pending once.
    fn pulse(&self, intid: u32);

    /// Raises the wire of a level-triggered shared peripheral interrupt, or lowers it.
    fn set_level(&self, intid: u32, high: bool);

    /// Signals an MSI of the device to the ITS. One that no table maps is ignored, as an ITS does.
    fn signal_msi(&self, device_id: u32, event_id: u32);

    /// Takes those wires that the controller listens to by itself while the machine runs; gives back the others.
    fn adopt(&self, wires: Vec<Wire>) -> Result<Vec<Wire>, Failure>;

    /// Whether it listens to the machine's pins by itself while the machine runs.
    fn has_pins(&self) -> bool;
}

/// An edge-triggered shared peripheral interrupt.
#[derive(Clone)]
pub struct Spi {
    controller: Arc<dyn Interrupts>,
    intid: u32,
}

impl std::fmt::Debug for Spi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spi").field("intid", &self.intid).finish_non_exhaustive()
    }
}

impl Spi {
    /// The interrupt with this INTID.
    pub fn new(controller: Arc<dyn Interrupts>, intid: u32) -> Self {
        Self { controller, intid }
    }

    /// Makes it pending once.
    pub fn pulse(&self) {
        self.controller.pulse(self.intid);
    }
}

/// A device's eventfd and the interrupt it stands for.
#[derive(Debug)]
pub struct Wire {
    /// Counts the device's signals; non-blocking.
    pub eventfd: OwnedFd,
    /// INTID of a shared peripheral interrupt.
    pub intid: u32,
}

/// All interrupts from other processes, and the bell that ends the wait for them.
pub struct Wires {
    controller: Arc<dyn Interrupts>,
    wires: Vec<Wire>,
    msis: Vec<RemoteMsi>,
    pins: Arc<Pins>,
    bell: Doorbell,
}

impl Wires {
    /// These wires and pins, but those that the controller takes.
    pub fn new(
        controller: Arc<dyn Interrupts>,
        wires: Vec<Wire>,
        msis: Vec<RemoteMsi>,
        pins: Arc<Pins>,
    ) -> Result<Self, Failure> {
        let wires = controller.adopt(wires)?;
        let pins = if controller.has_pins() { Arc::default() } else { pins };
        let bell = Doorbell::new().map_err(|errno| Failure::new("make the interrupts' bell", errno))?;
        Ok(Self { controller, wires, msis, pins, bell })
    }

    /// Brings what devices have signalled to the interrupt controller: before a paused machine is saved.
    pub fn deliver_msis(&self) {
        self.msis.iter().for_each(|msi| self.deliver(msi));
    }

    fn deliver(&self, msi: &RemoteMsi) {
        msi.board.take(|event| self.controller.signal_msi(msi.device_id, event));
    }

    /// Makes the thread look at the gate.
    pub fn wake(&self) {
        self.bell.ring();
    }

    /// The interrupt thread: what the eventfds say, the controller hears. While the machine is paused they are left
    /// unread, so that a signal waits for whoever runs the guest next.
    pub fn serve(&self, gate: &Gate) {
        while gate.wait_running() {
            let mut fds: Vec<_> =
                self.wires.iter().map(|wire| PollFd::new(&wire.eventfd, PollFlags::IN)).collect();
            fds.extend(self.msis.iter().map(|msi| PollFd::new(&msi.doorbell, PollFlags::IN)));
            fds.extend(self.pins.iter().map(|pin| PollFd::new(&pin.raised, PollFlags::IN)));
            fds.push(PollFd::new(&self.bell, PollFlags::IN));
            if poll(&mut fds, Some(&POLL_INTERVAL)).is_err_and(|errno| errno != Errno::INTR) {
                return;
            }
            self.bell.answer();
            for (wire, fd) in self.wires.iter().zip(&fds) {
                // An eventfd that another process has read dry meanwhile says EAGAIN: no signal.
                if fd.revents().contains(PollFlags::IN)
                    && rustix::io::read(&wire.eventfd, &mut [0; 8]).is_ok()
                {
                    self.controller.pulse(wire.intid);
                }
            }
            for (msi, fd) in self.msis.iter().zip(fds.iter().skip(self.wires.len())) {
                if fd.revents().contains(PollFlags::IN)
                    && rustix::io::read(&msi.doorbell, &mut [0; 8]).is_ok()
                {
                    self.deliver(msi);
                }
            }
            let pins = fds.iter().skip(self.wires.len() + self.msis.len());
            for (pin, fd) in self.pins.iter().zip(pins) {
                if fd.revents().contains(PollFlags::IN) && rustix::io::read(&pin.raised, &mut [0; 8]).is_ok()
                {
                    self.pins.raise(pin);
                }
            }
        }
    }
}
