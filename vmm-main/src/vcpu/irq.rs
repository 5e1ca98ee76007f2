// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Interrupts into the software GIC: lines of devices in this process, eventfds of devices in others.

use super::doorbell::Doorbell;
use super::gate::Gate;
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

/// All wires of a machine, and the bell that ends the wait for them.
#[derive(Debug)]
pub struct Wires {
    wires: Vec<Wire>,
    bell: Doorbell,
}

impl Wires {
    /// These wires; fails only where the host has no eventfd left.
    pub fn new(wires: Vec<Wire>) -> Result<Self, Errno> {
        Ok(Self { wires, bell: Doorbell::new()? })
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
        }
    }
}
