// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The threads of a device process, each blocking on one peer: the guest, the device, its interrupts, the vSMMU.
//!
//! They end with the process. They block each other only by the locks of [`Function`], which are never held while
//! waiting for a peer. A vCPU process that breaks the ring's rules ends the process; if the vSMMU goes away the
//! stream stays attached as it is and the threads go on.

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
use crate::opening::Windows;
use crate::stage1_link::Stage1Channel;

/// Poll timeout of the helper threads, to check whether the device has failed.
pub const LOOK_SPAN: Duration = Duration::from_millis(500);
pub const LOOK_TIMESPEC: Timespec = Timespec { tv_sec: 0, tv_nsec: 500_000_000 };

/// What the interrupt thread waits for.
#[derive(Debug)]
pub struct InterruptSources {
    /// The device's eventfds; a vector is polled here unless it has an irqfd in the vCPU process.
    pub eventfds: Eventfds,
    /// The guest ended an interrupt on the pin's line.
    pub intx_end: Doorbell,
}

/// The sources, and whether the thread may read them.
#[derive(Debug)]
pub struct Signals {
    sources: InterruptSources,
    /// True: signals stay unread. Held while signals are handled.
    parked: Mutex<bool>,
    changed: Condvar,
}

/// The sources that are readable.
#[derive(Debug, Default)]
struct Waiting {
    vectors: Vec<usize>,
    intx_end: bool,
    intx: bool,
}

/// Starts the back end's own thread, one for the device's interrupts if it could be opened, and one for the vSMMU.
///
/// # Errors
/// If the thread cannot be started.
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
    function.stage1.current().map_or(Ok(()), |channel| follow(function, channel))
}

/// Starts the thread that listens to one life of the vSMMU, until that is over.
///
/// # Errors
/// If the kernel gives no thread: then nobody listens.
pub fn follow<B: Backend>(function: &Arc<Function<B>>, channel: Stage1Channel) -> io::Result<()> {
    let (theirs, listened) = (Arc::clone(function), Arc::clone(&channel));
    let spawned = spawn("stage1", move || {
        let end = theirs.stage1.greet(&listened).and_then(|()| {
            loop {
                theirs.serve_stage1(&listened)?;
            }
        });
        let Err(error): Result<(), _> = end else { return };
        let what = "stage-1 channel closed by the vSMMU process";
        if theirs.stage1.close(&listened) {
            ipc::log::info!("{}: {what}, of which there is another life: {error}", theirs.name);
        } else {
            ipc::log::warn!("{}: {what}: {error}", theirs.name);
        }
    });
    if spawned.is_err() {
        function.stage1.close(&channel);
    }
    spawned
}

/// Starts the thread that tells the vCPU process of a revived function's vectors and windows, once that greets: until
/// then the guest has those of the life before, and signals are brought from here.
///
/// # Errors
/// If the thread cannot be started.
pub fn introduce<B: Backend>(
    function: &Arc<Function<B>>,
    signals: &Arc<Signals>,
    windows: Windows,
) -> io::Result<()> {
    let (function, signals) = (Arc::clone(function), Arc::clone(signals));
    spawn("introduce", move || {
        while !function.link.wait_greeted(LOOK_SPAN) {
            if function.failure().is_some() {
                return;
            }
        }
        function.introduce(&signals.sources.eventfds, &windows);
    })
}

/// Starts a thread of the process.
pub fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.to_owned()).spawn(body).map(drop)
}

/// Turns eventfds and the doorbell into interrupts, except while parked.
fn watch<B: Backend>(function: &Function<B>, signals: &Signals, ring: &Notes) {
    while function.failure().is_none() {
        let Ok(waiting) = signals.look(function, &LOOK_TIMESPEC) else { return };
        let Some(_turn) = signals.turn() else { continue };
        // The end of an interrupt is handled after the guest's earlier posted writes: the write that acknowledges the
        // interrupt at the device is in the ring by now, and unmasking before it would make the device signal once
        // more.
        signals.take(function, &waiting, || ring.post(note::INTX_ENDED));
    }
}

impl Signals {
    /// Not parked.
    pub fn new(sources: InterruptSources) -> Signals {
        Signals { sources, parked: Mutex::new(false), changed: Condvar::new() }
    }

    /// Device and guest are stopped: handles pending signals, so that they are in the function's state, and reads
    /// none from then on. The ring is empty, and the gate still open.
    pub fn park<B: Backend>(&self, function: &Function<B>) {
        let mut parked = self.parked();
        if let Ok(waiting) = self.look(function, &Timespec { tv_sec: 0, tv_nsec: 0 }) {
            self.take(function, &waiting, || function.intx_ended());
        }
        *parked = true;
    }

    /// Unparks the thread.
    pub fn unpark(&self) {
        *self.parked() = false;
        self.changed.notify_all();
    }

    /// How many vectors have an unread signal, and how many unread changes of the pin there are.
    pub fn waiting<B: Backend>(&self, function: &Function<B>) -> (u64, u64) {
        let waiting = self.look(function, &Timespec { tv_sec: 0, tv_nsec: 0 }).unwrap_or_default();
        let vectors = u64::try_from(waiting.vectors.len()).unwrap_or(u64::MAX);
        (vectors, u64::from(waiting.intx) + u64::from(waiting.intx_end))
    }

    /// Permission to read signals. None while parked.
    fn turn(&self) -> Option<MutexGuard<'_, bool>> {
        let waited = self.changed.wait_timeout_while(self.parked(), LOOK_SPAN, |parked| *parked);
        let parked = waited.unwrap_or_else(PoisonError::into_inner).0;
        Some(parked).filter(|parked| !**parked)
    }

    fn parked(&self) -> MutexGuard<'_, bool> {
        // A single word: a poisoned lock is harmless.
        self.parked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Polls the sources, at most for this long.
    fn look<B: Backend>(&self, function: &Function<B>, span: &Timespec) -> Result<Waiting, Errno> {
        let InterruptSources { eventfds: Eventfds { vectors, intx }, intx_end } = &self.sources;
        // A vector that the vCPU process gives up is polled here from the next turn on.
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

    /// Handles readable sources. The device's server holds the eventfds too and may have drained them: they are read
    /// without blocking.
    fn take<B: Backend>(&self, function: &Function<B>, waiting: &Waiting, ended: impl FnOnce()) {
        let InterruptSources { eventfds: Eventfds { vectors, intx }, intx_end } = &self.sources;
        for index in &waiting.vectors {
            if vectors.get(*index).is_some_and(doorbell::take_eventfd) {
                function.signal(*index);
            }
        }
        // The end first: a signal after unmasking is a new interrupt.
        if waiting.intx_end && intx_end.take() {
            ended();
        }
        if waiting.intx && intx.as_deref().is_some_and(doorbell::take_eventfd) {
            function.signal_intx();
        }
    }
}

/// Note bits for the ring's thread.
mod note {
    /// The guest ended an interrupt on the pin's line.
    pub const INTX_ENDED: u32 = 1;
}

impl<B: Backend> RingDevice for Function<B> {
    fn taken(&self, sequence: u64) {
        if let Some(device) = self.opened() {
            device.taken(sequence);
        }
    }

    fn access(&self, access: Access) -> u64 {
        Function::access(self, access)
    }

    fn answered(&self) {
        // Also if the device has failed at that access.
        if let Some(device) = self.opened() {
            device.answered();
        }
    }

    /// Accesses leave no work behind: they are done at once, or by the device.
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
