// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The threads of a device process, each blocking on one peer: the guest, the device, its interrupts, the vSMMU.
//!
//! They end with the process. None waits for another but through the locks of [`Function`], which are never held
//! while a peer is waited for. A vCPU process that breaks the ring's rules ends the process; a vSMMU
//! that goes away leaves the stream attached to what it was and is no reason to stop.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use ipc::deadline::Deadline;
use ipc::doorbell::{self, Doorbell};
use ipc::error::Violation;
use ipc::protocol::budget;
use ipc::shm::ring::{Interrupt, Responder, ResponderError};
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
        let (theirs, ring) = (Arc::clone(function), Arc::clone(&ring.shared));
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
fn watch<B: Backend>(function: &Function<B>, sources: &InterruptSources, ring: &Drain) {
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
        if function.pin_rests() {
            ring.note(&ring.pin_rests);
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
            ring.note(&ring.ended);
        }
        if is_ready(ours.len() + 1) && intx.as_deref().is_some_and(doorbell::take_eventfd) {
            function.signal_intx();
        }
    }
}

/// The thread that answers the guest.
#[derive(Debug)]
pub struct RingThread {
    shared: Arc<Drain>,
}

#[derive(Debug, Default)]
struct Drain {
    orders: Mutex<Orders>,
    progress: Condvar,
    /// The guest has ended an interrupt on the pin's line.
    ended: AtomicBool,
    /// The pin has been quiet for a while.
    pin_rests: AtomicBool,
    interrupt: Interrupt,
}

#[derive(Debug, Default)]
struct Orders {
    wanted: u64,
    done: u64,
}

impl RingThread {
    /// Starts it.
    ///
    /// # Errors
    /// If the kernel gives no thread.
    pub fn start<B: Backend>(
        function: Arc<Function<B>>,
        responder: Responder,
        on_violation: impl FnOnce(Violation) + Send + 'static,
    ) -> io::Result<RingThread> {
        let shared = Arc::<Drain>::default();
        let theirs = Arc::clone(&shared);
        spawn("ring", move || {
            let Err(violation) = theirs.serve(&function, responder);
            on_violation(violation);
        })?;
        Ok(RingThread { shared })
    }

    /// Waits until every request that is in the ring now has been handled. False if that takes too long.
    pub fn drain(&self) -> bool {
        let until = Instant::now() + budget::vfio::DRAIN;
        let mut orders = self.shared.orders.lock().unwrap_or_else(PoisonError::into_inner);
        orders.wanted += 1;
        let wanted = orders.wanted;
        self.shared.interrupt.raise();
        while orders.done < wanted {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.shared.progress.wait_timeout(orders, left);
            orders = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

impl Drain {
    /// Something for the thread to do when it has emptied the ring.
    fn note(&self, what: &AtomicBool) {
        what.store(true, Ordering::Release);
        self.interrupt.raise();
    }

    fn serve<B: Backend>(
        &self,
        function: &Function<B>,
        mut responder: Responder,
    ) -> Result<core::convert::Infallible, Violation> {
        loop {
            self.interrupt.take();
            let wanted = self.orders.lock().unwrap_or_else(PoisonError::into_inner).wanted;
            let ended = self.ended.swap(false, Ordering::Acquire);
            loop {
                match responder.try_next() {
                    Ok(Some(token)) => {
                        let value = function.access(token.access());
                        token.complete(value);
                    }
                    Ok(None) | Err(ResponderError::Stopped(_)) => break,
                    Err(ResponderError::Violation(violation)) => return Err(violation),
                }
            }
            function.flush_posts();
            if ended {
                function.intx_ended();
            }
            if self.pin_rests.swap(false, Ordering::Acquire) {
                function.show_windows();
            }
            self.orders.lock().unwrap_or_else(PoisonError::into_inner).done = wanted;
            self.progress.notify_all();
            match responder.next(&self.interrupt, Deadline::after(Deadline::SPAN_MAX)) {
                Ok(token) => {
                    let value = function.access(token.access());
                    token.complete(value);
                }
                Err(ResponderError::Stopped(_)) => {}
                Err(ResponderError::Violation(violation)) => return Err(violation),
            }
        }
    }
}
