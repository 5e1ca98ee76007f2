// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The threads of a device process, each blocking on one peer: the guest, the device, its interrupts, the vSMMU.
//!
//! They end with the process. None waits for another but through the locks of [`Function`], which are never held
//! while a peer is waited for. A vCPU process that breaks the ring's rules ends the process; a vSMMU
//! that goes away leaves the stream attached to what it was and is no reason to stop.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use ipc::doorbell::{self, Doorbell};
use ipc::shm::ring::Access;
use process::ring_thread::{Notes, RingDevice, RingThread, Step};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::backend::{Backend, Eventfds};
use crate::function::Function;

/// How long the helpers sleep at most: they look whether the device has failed.
pub const LOOK_SPAN: Duration = Duration::from_millis(500);
pub const LOOK_TIMESPEC: Timespec = Timespec { tv_sec: 0, tv_nsec: 500_000_000 };

/// What the interrupt thread waits for.
#[derive(Debug)]
pub struct InterruptSources {
    /// The device's signals; a vector is listened to here where the vCPU process does not.
    pub eventfds: Eventfds,
    /// The guest has ended an interrupt on the pin's line.
    pub intx_end: Doorbell,
}

/// Starts the back end's own thread, one for the device's interrupts if it could be opened, and one for the vSMMU.
///
/// # Errors
/// If the kernel gives no thread.
pub fn start_helpers<B: Backend>(
    function: &Arc<Function<B>>,
    sources: Option<InterruptSources>,
    ring: &RingThread,
) -> io::Result<()> {
    B::start_thread(function)?;
    if let Some(sources) = sources {
        let (theirs, ring) = (Arc::clone(function), ring.notes());
        spawn("irq", move || watch(&theirs, &sources, &ring))?;
    }
    let theirs = Arc::clone(function);
    spawn("stage1", move || {
        let end = theirs.stage1.greet();
        let end = end.and_then(|()| {
            loop {
                theirs.serve_stage1()?;
            }
        });
        let Err(error): Result<(), _> = end else { return };
        ipc::log::warn!("{}: stage-1 channel closed by the vSMMU process: {error}", theirs.name);
    })
}

/// Starts a thread of the process's.
pub fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.to_owned()).spawn(body).map(drop)
}

/// Turns eventfds and the doorbell into signals. The device's server holds the eventfds too, and can do with them what it likes:
/// they are read without waiting.
fn watch<B: Backend>(function: &Function<B>, sources: &InterruptSources, ring: &Notes) {
    let InterruptSources { eventfds: Eventfds { vectors, intx }, intx_end } = sources;
    while function.failure().is_none() {
        // One that the vCPU process gives up comes back here, at the next turn.
        let ours: Vec<_> =
            vectors.iter().enumerate().filter(|(index, _)| !function.link.takes(*index)).collect();
        let all = ours.iter().map(|(_, vector)| vector.as_fd()).chain([intx_end.as_fd()]);
        let all = all.chain(intx.as_deref().map(AsFd::as_fd));
        let mut fds: Vec<_> = all.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        if poll(&mut fds, Some(&LOOK_TIMESPEC)).is_err_and(|errno| errno != Errno::INTR) {
            return;
        }
        let ready: Vec<bool> = fds.iter().map(|fd| fd.revents().contains(PollFlags::IN)).collect();
        let is_ready = |index: usize| ready.get(index) == Some(&true);
        for (at, (index, vector)) in ours.iter().enumerate() {
            if is_ready(at) && doorbell::take_eventfd(vector) {
                function.signal(*index);
            }
        }
        // The end first: what the device says after it was unmasked is a new interrupt.
        if is_ready(ours.len()) && intx_end.take() {
            // The end of an interrupt goes behind what the guest has posted before: a write that tells the device that its
            // interrupt was dealt with is in the ring by now, and without it the device would signal once more for nothing.
            ring.leave(note::INTX_ENDED);
        }
        if is_ready(ours.len() + 1) && intx.as_deref().is_some_and(doorbell::take_eventfd) {
            function.signal_intx();
        }
    }
}

/// Bits of the notes to the ring's thread.
mod note {
    /// The guest has ended an interrupt on the pin's line.
    pub const INTX_ENDED: u32 = 1;
}

impl<B: Backend> RingDevice for Function<B> {
    fn access(&self, access: Access) -> u64 {
        Function::access(self, access)
    }

    /// What accesses make ready is done with them, or by the device.
    fn step(&self) -> Step {
        Step::Idle
    }

    fn emptied(&self, notes: u32) {
        self.flush_posts();
        if notes & note::INTX_ENDED != 0 {
            self.intx_ended();
        }
    }
}
