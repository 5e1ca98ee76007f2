// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Interrupts on their way to the controller: lines of devices in this process, doorbells of devices in others.
//!
//! One thread hears the doorbells of all devices, so nothing that it does may wait for one of them: neither end of a
//! doorbell can make the other wait, and each turn looks at every one once, however often it rings.

use super::gate::Gate;
use super::intx::Pins;
use super::nudges::Nudges;
use super::remote::RemoteMsi;
use super::waker::Waker;
use ipc::doorbell::Doorbell;
use ipc::protocol::control::Failure;
use ipc::protocol::inspect::Inspect;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// How long the thread sleeps at most; the waker ends it earlier.
const POLL_INTERVAL: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// And while vCPUs are to be called out of the guest.
const NUDGE_INTERVAL: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000 };

/// An interrupt controller, as devices reach it.
pub trait Interrupts: Send + Sync + 'static {
    /// Makes an edge-triggered shared peripheral interrupt pending once.
    fn pulse(&self, intid: u32);

    /// Raises the wire of a level-triggered shared peripheral interrupt, or lowers it.
    fn set_level(&self, intid: u32, high: bool);

    /// Signals an MSI of the device to the ITS. One that no table maps is ignored, as an ITS does.
    fn signal_msi(&self, device_id: u32, event_id: u32);

    /// The lines of pins whose fall it tells by an eventfd. None: it calls [`Pins::ended`] itself.
    fn lines(&self) -> &[Line];

    /// Makes every vCPU leave the guest for a moment. From any thread.
    fn nudge(&self);
}

/// The shared peripheral interrupt of a device in this process.
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

    /// Makes it pending once: for one that is edge-triggered.
    pub fn pulse(&self) {
        self.controller.pulse(self.intid);
    }

    /// Raises its wire, or lowers it: for one that is level-triggered.
    pub fn set_level(&self, high: bool) {
        self.controller.set_level(self.intid, high);
    }
}

/// A device's doorbell and the interrupt it stands for.
#[derive(Debug)]
pub struct Wire {
    /// The device rings it.
    pub doorbell: Doorbell,
    /// INTID of a shared peripheral interrupt.
    pub intid: u32,
}

/// An interrupt line that pins share, of a controller that hears of an interrupt's end from the host.
#[derive(Debug)]
pub struct Line {
    /// Says that the guest has ended the interrupt, and that the line fell; non-blocking, and no other process's.
    pub fell: OwnedFd,
    /// INTID of a shared peripheral interrupt.
    pub intid: u32,
}

/// All interrupts from other processes, and what ends the wait for them.
pub struct Wires {
    controller: Arc<dyn Interrupts>,
    wires: Vec<Wire>,
    msis: Vec<RemoteMsi>,
    pins: Arc<Pins>,
    waker: Waker,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Counters {
    /// Pins that were asserted.
    rose: AtomicU64,
    /// Lines that fell because the guest ended an interrupt.
    fell: AtomicU64,
    /// Calls of vCPUs out of the guest because a line had not.
    nudges: AtomicU64,
}

impl Wires {
    /// These wires, messages and pins.
    pub fn new(
        controller: Arc<dyn Interrupts>,
        wires: Vec<Wire>,
        msis: Vec<RemoteMsi>,
        pins: Arc<Pins>,
    ) -> Result<Self, Failure> {
        let waker =
            Waker::new().map_err(|errno| Failure::new("make what wakes the interrupt thread", errno))?;
        Ok(Self { controller, wires, msis, pins, waker, counters: Counters::default() })
    }

    /// Brings what devices have signalled to the interrupt controller: before a paused machine is saved.
    pub fn deliver_msis(&self) {
        self.msis.iter().for_each(|msi| self.deliver(msi));
    }

    fn deliver(&self, msi: &RemoteMsi) {
        msi.board.take(|event| self.controller.signal_msi(msi.device_id, event));
    }

    /// Counters for people and tests.
    pub fn inspect(&self, inspect: &mut Inspect) {
        let Counters { rose, fell, nudges } = &self.counters;
        for (name, counter) in [("rose", rose), ("fell", fell), ("nudges", nudges)] {
            inspect.counter(format!("intx.{name}"), counter.load(Ordering::Relaxed));
        }
    }

    /// Makes the thread look at the gate.
    pub fn wake(&self) {
        self.waker.wake();
    }

    /// Lines that fell: who still holds them up is asked to say so again.
    fn take_falls(&self, nudges: &mut Nudges) {
        for line in self.controller.lines() {
            if rustix::io::read(&line.fell, &mut [0; 8]).is_ok() {
                count(&self.counters.fell);
                nudges.end(line.intid);
                self.pins.ended(line.intid);
            }
        }
    }

    /// The interrupt thread: what the doorbells say, the controller hears. While the machine is paused they are left
    /// alone, so that a signal waits for whoever runs the guest next.
    pub fn serve(&self, gate: &Gate) {
        let lines = self.controller.lines();
        let mut nudges = Nudges::default();
        while gate.wait_running() {
            let mut fds: Vec<_> =
                self.wires.iter().map(|wire| PollFd::new(&wire.doorbell, PollFlags::IN)).collect();
            fds.extend(self.msis.iter().map(|msi| PollFd::new(&msi.doorbell, PollFlags::IN)));
            fds.extend(self.pins.iter().map(|pin| PollFd::new(&pin.raised, PollFlags::IN)));
            fds.extend(lines.iter().map(|line| PollFd::new(&line.fell, PollFlags::IN)));
            fds.push(PollFd::new(&self.waker, PollFlags::IN));
            let interval = if nudges.is_empty() { POLL_INTERVAL } else { NUDGE_INTERVAL };
            if poll(&mut fds, Some(&interval)).is_err_and(|errno| errno != Errno::INTR) {
                return;
            }
            self.waker.clear();
            for (wire, fd) in self.wires.iter().zip(&fds) {
                if fd.revents().contains(PollFlags::IN) && wire.doorbell.take() {
                    self.controller.pulse(wire.intid);
                }
            }
            for (msi, fd) in self.msis.iter().zip(fds.iter().skip(self.wires.len())) {
                if fd.revents().contains(PollFlags::IN) && msi.doorbell.take() {
                    self.deliver(msi);
                }
            }
            let pins = fds.iter().skip(self.wires.len() + self.msis.len());
            for (pin, fd) in self.pins.iter().zip(pins) {
                if fd.revents().contains(PollFlags::IN) && pin.raised.take() {
                    // A fall from before must not be taken for one of the line as it rises now.
                    self.take_falls(&mut nudges);
                    count(&self.counters.rose);
                    self.pins.raise(pin);
                    if lines.iter().any(|line| line.intid == pin.intid) {
                        nudges.begin(pin.intid);
                    }
                }
            }
            self.take_falls(&mut nudges);
            if nudges.are_due(Instant::now()) {
                count(&self.counters.nudges);
                self.controller.nudge();
            }
        }
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
