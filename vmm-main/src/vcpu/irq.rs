// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Interrupts into the software GIC: lines of devices in this process, eventfds of devices in others.

use super::doorbell::Doorbell;
use super::gate::Gate;
use super::intx::Pins;
use super::remote::RemoteMsi;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use soft_cpu::gic::Gic;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// How long the thread sleeps at most; the bell ends it earlier.
const POLL_INTERVAL: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// An edge-triggered shared peripheral interrupt.
#[derive(Clone)]
pub struct Spi {
    gic: Arc<Gic>,
    intid: u32,
}

impl std::fmt::Debug for Spi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spi").field("intid", &self.intid).finish_non_exhaustive()
    }
}

impl Spi {
    /// The interrupt with this INTID.
    pub fn new(gic: Arc<Gic>, intid: u32) -> Self {
        Self { gic, intid }
    }

    /// Makes it pending once.
    pub fn pulse(&self) {
        self.gic.pulse(self.intid);
    }
}

/// A device's eventfd and the interrupt it stands for.
#[derive(Debug)]
pub struct Wire {
    /// Counts the device's signals.
    pub eventfd: OwnedFd,
    /// Where it ends.
    pub spi: Spi,
}

/// The MSIs of one PCI function.
pub struct Msi {
    /// Where they come in.
    pub source: RemoteMsi,
    /// Where they go.
    pub gic: Arc<Gic>,
}

impl Msi {
    /// Signals what is pending.
    pub fn deliver(&self) {
        let RemoteMsi { board, device_id, .. } = &self.source;
        board.take(|event| {
            // An event that no device table maps is ignored, as the ITS does.
            let _ = self.gic.signal_msi(*device_id, event);
        });
    }
}

impl std::fmt::Debug for Msi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Msi").field("source", &self.source).finish_non_exhaustive()
    }
}

/// All interrupts from other processes, and the bell that ends the wait for them.
#[derive(Debug)]
pub struct Wires {
    wires: Vec<Wire>,
    msis: Vec<Msi>,
    pins: Arc<Pins>,
    bell: Doorbell,
}

impl Wires {
    /// These wires; fails only where the host has no eventfd left.
    pub fn new(wires: Vec<Wire>, msis: Vec<Msi>, pins: Arc<Pins>) -> Result<Self, Errno> {
        Ok(Self { wires, msis, pins, bell: Doorbell::new()? })
    }

    /// Brings what devices have signalled to the interrupt controller: before a paused machine is saved.
    pub fn deliver_msis(&self) {
        self.msis.iter().for_each(Msi::deliver);
    }

    /// Makes the thread look at the gate.
    pub fn wake(&self) {
        self.bell.ring();
    }

    /// The interrupt thread: what the eventfds say, the GIC hears. While the machine is paused they are left
    /// unread, so that a signal waits for whoever runs the guest next.
    pub fn serve(&self, gate: &Gate) {
        while gate.wait_running() {
            let mut fds: Vec<_> =
                self.wires.iter().map(|wire| PollFd::new(&wire.eventfd, PollFlags::IN)).collect();
            fds.extend(self.msis.iter().map(|msi| PollFd::new(&msi.source.doorbell, PollFlags::IN)));
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
                    wire.spi.pulse();
                }
            }
            for (msi, fd) in self.msis.iter().zip(fds.iter().skip(self.wires.len())) {
                if fd.revents().contains(PollFlags::IN)
                    && rustix::io::read(&msi.source.doorbell, &mut [0; 8]).is_ok()
                {
                    msi.deliver();
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
