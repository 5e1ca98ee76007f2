// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The vCPU process's end of the guest console: a stream socket to the coordinator.
//!
//! Output: vCPU threads put bytes into a bounded buffer, one thread writes it out; a guest that prints faster than
//! its reader blocks on the buffer, so no byte is lost and memory is bounded. Input: bytes are read from the socket
//! only as the UART's FIFO has room. While the machine is paused no byte is moved, so that the saved state is
//! complete: undelivered output is saved with the UART.

use super::gate::Gate;
use super::uart::Uart;
use super::waker::Waker;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Bytes of output that may wait for the coordinator: a screenful of kernel log, no more.
pub const OUTPUT_LEN_MAX: usize = 64 * 1024;
/// Poll timeout: the thread must notice pause and quit without being woken.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Delay after a write, to batch output: one wake-up per line, not per character.
const GATHER_INTERVAL: Duration = Duration::from_millis(1);

/// The buffer between the UART and the console thread.
#[derive(Debug)]
pub struct Console {
    output: Mutex<VecDeque<u8>>,
    drained: Condvar,
    /// Wakes the console thread when output is queued or input room appears.
    wake: Waker,
}

impl Console {
    /// An empty console. Fails only if the host has no eventfd left.
    pub fn new() -> Result<Arc<Self>, Errno> {
        Ok(Arc::new(Self { output: Mutex::default(), drained: Condvar::new(), wake: Waker::new()? }))
    }

    fn output(&self) -> MutexGuard<'_, VecDeque<u8>> {
        self.output.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues guest output. Blocks while the buffer is full and the machine runs; during a pause bytes exceed the
    /// bound instead, so that a pause never waits for a reader.
    pub fn push(&self, bytes: &[u8], gate: &Gate) {
        let mut output = self.output();
        while output.len() >= OUTPUT_LEN_MAX && gate.is_running() {
            let wait = self.drained.wait_timeout(output, POLL_INTERVAL);
            output = wait.unwrap_or_else(PoisonError::into_inner).0;
        }
        let was_empty = output.is_empty();
        output.extend(bytes);
        drop(output);
        if was_empty {
            self.wake();
        }
    }

    /// Wakes the console thread: output is queued, or the UART has room for input.
    pub fn wake(&self) {
        self.wake.wake();
    }

    /// Undelivered output, for the saved state.
    pub fn undelivered(&self) -> Vec<u8> {
        self.output().iter().copied().collect()
    }

    /// Puts restored output in front.
    pub fn restore(&self, bytes: &[u8]) {
        let mut output = self.output();
        for byte in bytes.iter().rev() {
            output.push_front(*byte);
        }
    }

    /// The console thread: runs until the machine quits or the coordinator closes the socket.
    pub fn serve(&self, socket: &OwnedFd, uart: &Uart, gate: &Gate) {
        let mut gather = false;
        while gate.wait_running() {
            let has_output = !self.output().is_empty();
            let mut interest = PollFlags::empty();
            interest.set(PollFlags::OUT, has_output);
            interest.set(PollFlags::IN, uart.input_room() > 0);
            let timeout = if gather { GATHER_INTERVAL } else { POLL_INTERVAL };
            // While output is batched, wake-ups carry no news.
            let wake_interest = if gather { PollFlags::empty() } else { PollFlags::IN };
            let mut fds = [PollFd::new(socket, interest), PollFd::new(&self.wake, wake_interest)];
            let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(timeout.subsec_nanos()) };
            if poll(&mut fds, Some(&timeout)).is_err_and(|errno| errno != Errno::INTR) {
                return;
            }
            let [ready, woken] = fds.map(|fd| fd.revents());
            if woken.contains(PollFlags::IN) {
                self.wake.clear();
            }
            if ready.intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL) {
                return;
            }
            if ready.contains(PollFlags::IN) && !self.receive(socket, uart) {
                return;
            }
            gather = ready.contains(PollFlags::OUT) && self.send(socket);
        }
    }

    /// Writes what the socket takes; true if something was written.
    fn send(&self, socket: &OwnedFd) -> bool {
        let mut output = self.output();
        let (front, _) = output.as_slices();
        let Ok(sent) = send(socket, front, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) else {
            return false;
        };
        let sent = sent.min(output.len());
        output.drain(..sent);
        drop(output);
        self.drained.notify_all();
        sent > 0
    }

    /// Flushes the guest's last output: writes until the buffer is empty, the reader is gone, or `limit` has passed.
    /// For a machine that ends; undelivered output of a saved one is in its state.
    pub fn flush(&self, socket: &OwnedFd, limit: Duration) {
        let begun = Instant::now();
        while !self.output().is_empty() && begun.elapsed() < limit {
            let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(POLL_INTERVAL.subsec_nanos()) };
            let mut fds = [PollFd::new(socket, PollFlags::OUT)];
            if poll(&mut fds, Some(&timeout)).is_err_and(|errno| errno != Errno::INTR) {
                return;
            }
            let [ready] = fds.map(|fd| fd.revents());
            if ready.intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL) {
                return;
            }
            self.send(socket);
        }
    }

    /// Moves as much input as the UART has room for; false at end of stream.
    fn receive(&self, socket: &OwnedFd, uart: &Uart) -> bool {
        let mut bytes = [0; 64];
        let (room, _) = bytes.split_at_mut(uart.input_room().min(64));
        match recv(socket, &mut *room, RecvFlags::DONTWAIT) {
            Ok((0, _)) => false,
            Ok((count, _)) => {
                uart.input(room.get(..count).unwrap_or_default());
                true
            }
            Err(errno) => errno == Errno::AGAIN || errno == Errno::INTR,
        }
    }
}
