// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The threads of a device process, each blocking on one peer: the guest, the device, its interrupts, the vSMMU.
//!
//! They end with the process. None waits for another but through the locks of [`Function`], which are never held
//! while a peer is waited for. A vCPU process that breaks the ring's rules ends the process; a vSMMU
//! that goes away leaves the stream attached to what it was and is no reason to stop.

use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
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

/// The sources, and whether the thread may take from them.
#[derive(Debug)]
pub struct Signals {
    sources: InterruptSources,
    /// True: what comes stays where it is. Held while what came is dealt with.
    parked: Mutex<bool>,
    changed: Condvar,
}

/// The sources at which something waits.
#[derive(Debug, Default)]
struct Waiting {
    vectors: Vec<usize>,
    intx_end: bool,
    intx: bool,
}

/// Starts the back end's own thread, one for the device's interrupts if it could be opened, and one for the vSMMU.
///
/// # Errors
/// If the kernel gives no thread.
pub fn start_helpers<B: Backend>(
    function: &Arc<Function<B>>,
    signals: Option<&Arc<Signals>>,
    ring: &RingThread,
) -> io::Result<()> {
    B::start_thread(function)?;
    if let Some(signals) = signals {
        let (theirs, signals, ring) = (Arc::clone(function), Arc::clone(signals), ring.notes());
        spawn("irq", move || watch(&theirs, &signals, &ring))?;
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

/// Turns eventfds and the doorbell into signals, but while the function holds still.
fn watch<B: Backend>(function: &Function<B>, signals: &Signals, ring: &Notes) {
    while function.failure().is_none() {
        let Ok(waiting) = signals.look(function, &LOOK_TIMESPEC) else { return };
        let Some(_turn) = signals.turn() else { continue };
        // The end of an interrupt goes behind what the guest has posted before: a write that tells the device that its
        // interrupt was dealt with is in the ring by now, and without it the device would signal once more for nothing.
        signals.take(function, &waiting, || ring.leave(note::INTX_ENDED));
    }
}

impl Signals {
    /// Not parked.
    pub fn new(sources: InterruptSources) -> Signals {
        Signals { sources, parked: Mutex::new(false), changed: Condvar::new() }
    }

    /// The device is stopped, and the guest: deals with what waits, so that it is in the function's state, and takes nothing
    /// more. The ring is empty, and the gate still open.
    pub fn park<B: Backend>(&self, function: &Function<B>) {
        let mut parked = self.parked();
        if let Ok(waiting) = self.look(function, &Timespec { tv_sec: 0, tv_nsec: 0 }) {
            self.take(function, &waiting, || function.intx_ended());
        }
        *parked = true;
    }

    /// Has the thread go on.
    pub fn unpark(&self) {
        *self.parked() = false;
        self.changed.notify_all();
    }

    /// How many vectors have a signal that nobody has taken, and how many changes of the pin there are.
    pub fn waiting<B: Backend>(&self, function: &Function<B>) -> (u64, u64) {
        let waiting = self.look(function, &Timespec { tv_sec: 0, tv_nsec: 0 }).unwrap_or_default();
        let vectors = u64::try_from(waiting.vectors.len()).unwrap_or(u64::MAX);
        (vectors, u64::from(waiting.intx) + u64::from(waiting.intx_end))
    }

    /// The right to take what came. None: the function holds still.
    fn turn(&self) -> Option<MutexGuard<'_, bool>> {
        let waited = self.changed.wait_timeout_while(self.parked(), LOOK_SPAN, |parked| *parked);
        let parked = waited.unwrap_or_else(PoisonError::into_inner).0;
        Some(parked).filter(|parked| !**parked)
    }

    fn parked(&self) -> MutexGuard<'_, bool> {
        // One word: it is whole at any time.
        self.parked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a source at most so long.
    fn look<B: Backend>(&self, function: &Function<B>, span: &Timespec) -> Result<Waiting, Errno> {
        let InterruptSources { eventfds: Eventfds { vectors, intx }, intx_end } = &self.sources;
        // One that the vCPU process gives up comes back here, at the next turn.
        let ours: Vec<_> =
            vectors.iter().enumerate().filter(|(index, _)| !function.link.takes(*index)).collect();
        let all = ours.iter().map(|(_, vector)| vector.as_fd()).chain([intx_end.as_fd()]);
        let all = all.chain(intx.as_deref().map(AsFd::as_fd));
        let mut fds: Vec<_> = all.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        match poll(&mut fds, Some(span)) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Waiting::default()),
            Err(errno) => return Err(errno),
        }
        let is_ready = |at: usize| fds.get(at).is_some_and(|fd| fd.revents().contains(PollFlags::IN));
        let ready = ours.iter().enumerate().filter(|(at, _)| is_ready(*at));
        Ok(Waiting {
            vectors: ready.map(|(_, (index, _))| *index).collect(),
            intx_end: is_ready(ours.len()),
            intx: is_ready(ours.len() + 1),
        })
    }

    /// Deals with what came. The device's server holds the eventfds too, and can do with them what it likes: they are read
    /// without waiting.
    fn take<B: Backend>(&self, function: &Function<B>, waiting: &Waiting, ended: impl FnOnce()) {
        let InterruptSources { eventfds: Eventfds { vectors, intx }, intx_end } = &self.sources;
        for index in &waiting.vectors {
            if vectors.get(*index).is_some_and(doorbell::take_eventfd) {
                function.signal(*index);
            }
        }
        // The end first: what the device says after it was unmasked is a new interrupt.
        if waiting.intx_end && intx_end.take() {
            ended();
        }
        if waiting.intx && intx.as_deref().is_some_and(doorbell::take_eventfd) {
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
