// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The interrupt thread: polls the doorbells of all devices in other processes, and the eventfds for ends of level
//! interrupts.
//!
//! It never waits for a device: neither end of a doorbell can block the other, and each turn polls every doorbell
//! once, however often it rings.

use super::board::Board;
use super::controller::InterruptController;
use super::end_kicks::EndKicks;
use super::intx::Pins;
use crate::gate::Gate;
use crate::waker::Waker;
use ipc::doorbell::Doorbell;
use ipc::protocol::control::Failure;
use ipc::protocol::inspect::Inspect;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Poll timeout; the waker ends it earlier.
const POLL_INTERVAL: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// Poll timeout while vCPUs are to be kicked.
const KICK_INTERVAL: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000 };

/// A device's doorbell and the interrupt it stands for.
#[derive(Debug)]
pub struct Wire {
    /// Rung by the device.
    pub doorbell: Doorbell,
    /// INTID of a shared peripheral interrupt.
    pub intid: u32,
}

/// All interrupt sources in other processes, and the waker of the thread.
pub struct InterruptThread {
    controller: Arc<dyn InterruptController>,
    wires: Vec<Wire>,
    boards: Vec<Board>,
    pins: Arc<Pins>,
    waker: Waker,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Counters {
    /// Pins that were asserted.
    rose: AtomicU64,
    /// Ends of level interrupts.
    fell: AtomicU64,
    /// Kicks of all vCPUs for a line that stayed high.
    end_kicks: AtomicU64,
}

impl InterruptThread {
    /// These wires, boards and pins.
    pub fn new(
        controller: Arc<dyn InterruptController>,
        wires: Vec<Wire>,
        boards: Vec<Board>,
        pins: Arc<Pins>,
    ) -> Result<Self, Failure> {
        let waker =
            Waker::new().map_err(|errno| Failure::new("create the interrupt thread's waker", errno))?;
        Ok(Self { controller, wires, boards, pins, waker, counters: Counters::default() })
    }

    /// Signals everything pending from devices at the interrupt controller, whether its doorbell was rung or not,
    /// while the thread is parked: before a paused machine is saved, so that all of it is in the controller's state,
    /// and before the guest resumes.
    pub fn drain(&self) {
        for wire in self.wires.iter().filter(|wire| wire.doorbell.take()) {
            self.controller.pulse(wire.intid);
        }
        for board in &self.boards {
            let _ = board.doorbell.take();
            board.deliver(&*self.controller);
        }
        for pin in self.pins.iter().filter(|pin| pin.raised.take()) {
            count(&self.counters.rose);
            self.pins.raise(pin);
        }
    }

    /// Pending MSIs on the boards.
    pub fn waiting_messages(&self) -> u64 {
        self.boards.iter().map(|board| u64::from(board.board.pending())).sum()
    }

    /// Unread doorbells of wires and pins.
    pub fn waiting_wires(&self) -> u64 {
        let wires = self.wires.iter().map(|wire| &wire.doorbell);
        let all = wires.chain(self.pins.iter().map(|pin| &pin.raised));
        all.map(|doorbell| u64::from(doorbell.is_rung())).sum()
    }

    /// Counters for `inspect` and tests.
    pub fn inspect(&self, inspect: &mut Inspect) {
        let Counters { rose, fell, end_kicks } = &self.counters;
        for (name, counter) in [("rose", rose), ("fell", fell), ("end-kicks", end_kicks)] {
            inspect.counter(format!("intx.{name}"), counter.load(Ordering::Relaxed));
        }
        inspect.counter("messages.waiting", self.waiting_messages());
        inspect.counter("wires.waiting", self.waiting_wires());
        if !self.controller.resampled().is_empty() {
            inspect
                .text("intx.ends", if self.controller.loses_ends() { "lost by KVM" } else { "told by KVM" });
        }
    }

    /// Wakes the thread to check the gate.
    pub fn wake(&self) {
        self.waker.wake();
    }

    /// Ends of level interrupts: lowers the lines and has functions that still assert their pins raise them again.
    fn take_falls(&self, kicks: &mut EndKicks) {
        for line in self.controller.resampled() {
            if rustix::io::read(&line.fell, &mut [0; 8]).is_ok() {
                count(&self.counters.fell);
                kicks.end(line.intid);
                self.pins.ended(line.intid);
            }
        }
    }

    /// Handles doorbells. While the guest is paused they stay unread, so that a signal waits for the process that
    /// runs the guest next.
    pub fn serve(&self, gate: &Gate) {
        let lines = self.controller.resampled();
        let loses_ends = self.controller.loses_ends();
        let mut kicks = EndKicks::default();
        while gate.wait_running() {
            let mut fds: Vec<_> =
                self.wires.iter().map(|wire| PollFd::new(&wire.doorbell, PollFlags::IN)).collect();
            fds.extend(self.boards.iter().map(|board| PollFd::new(&board.doorbell, PollFlags::IN)));
            fds.extend(self.pins.iter().map(|pin| PollFd::new(&pin.raised, PollFlags::IN)));
            fds.extend(lines.iter().map(|line| PollFd::new(&line.fell, PollFlags::IN)));
            fds.push(PollFd::new(&self.waker, PollFlags::IN));
            let interval = if kicks.is_empty() { POLL_INTERVAL } else { KICK_INTERVAL };
            if poll(&mut fds, Some(&interval)).is_err_and(|errno| errno != Errno::INTR) {
                return;
            }
            self.waker.clear();
            for (wire, fd) in self.wires.iter().zip(&fds) {
                if fd.revents().contains(PollFlags::IN) && wire.doorbell.take() {
                    self.controller.pulse(wire.intid);
                }
            }
            for (board, fd) in self.boards.iter().zip(fds.iter().skip(self.wires.len())) {
                if fd.revents().contains(PollFlags::IN) && board.doorbell.take() {
                    board.deliver(&*self.controller);
                }
            }
            let pins = fds.iter().skip(self.wires.len() + self.boards.len());
            for (pin, fd) in self.pins.iter().zip(pins) {
                if fd.revents().contains(PollFlags::IN) && pin.raised.take() {
                    // Drained first: an old end of interrupt must not lower the line that is raised now.
                    self.take_falls(&mut kicks);
                    count(&self.counters.rose);
                    self.pins.raise(pin);
                    if loses_ends && lines.iter().any(|line| line.intid == pin.intid) {
                        kicks.begin(pin.intid);
                    }
                }
            }
            self.take_falls(&mut kicks);
            if kicks.are_due(Instant::now()) {
                count(&self.counters.end_kicks);
                self.controller.kick_vcpus();
            }
        }
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests;
