// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The thread that answers the guest: accesses from an MMIO ring, in their order, and the work that they make ready.
//!
//! The control thread gives it orders ([`RingThread::order`]) and waits until one is followed. To follow a pause it has
//! emptied the ring and finished or stopped the work, and goes on answering what still arrives without beginning any:
//! nothing of the guest's memory changes any more because of it. Other threads leave it notes, which are dealt with
//! when every access that the guest had made before has been. A vCPU process that breaks the ring's rules ends the
//! thread; the reason is handed to `on_violation` and to the control thread's next order.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ipc::deadline::Deadline;
use ipc::error::Violation;
use ipc::shm::ring::{Access, Interrupt, Responder, ResponderError};

/// What is behind the ring. All calls come from the thread.
pub trait RingDevice: Send + Sync + 'static {
    /// Carries out an access; the value that a read returns.
    fn access(&self, access: Access) -> u64;
    /// Does a step of the work that accesses have made ready. Not called while paused, but to finish before the pause
    /// is followed.
    fn step(&self) -> Step;
    /// The ring has been empty since `notes` were left: bits of [`Notes::leave`], 0 if there are none.
    fn emptied(&self, notes: u32);
}

/// What a step left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// There is more work.
    More,
    /// There is none, or none that can be done before an interrupt is raised.
    Idle,
}

/// What the thread does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Answers, and has not begun to work: so it is started.
    Parked,
    /// Answers and works.
    Running,
    /// Answers only.
    Paused,
    /// Has ended.
    Ended,
}

/// Why an order was not followed.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// The ring is closed.
    #[error("the MMIO ring is closed: {0}")]
    Violation(Violation),
    /// The thread is busy with something.
    #[error("the ring thread did not become {wanted:?} in time")]
    Late {
        /// What was ordered.
        wanted: Mode,
    },
}

/// A handle on the thread. Dropping it leaves the thread to the end of the process.
#[derive(Debug)]
pub struct RingThread {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    span: Duration,
}

/// What other threads leave notes with.
#[derive(Clone, Debug)]
pub struct Notes(Arc<Shared>);

#[derive(Debug)]
struct Orders {
    wanted: Mode,
    /// Counts orders, so that a repeated one is followed anew.
    given: u64,
    /// The last order that was followed.
    followed: u64,
    ended: bool,
    violation: Option<Violation>,
}

#[derive(Debug)]
struct Shared {
    orders: Mutex<Orders>,
    progress: Condvar,
    notes: AtomicU32,
    interrupt: Interrupt,
}

/// A mutex whose holder never panics while it holds it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RingThread {
    /// Starts the thread, parked. An order may take `span`; `on_violation` is called on the thread, last, if the ring
    /// had to be closed.
    ///
    /// # Errors
    /// If the kernel gives no thread.
    pub fn start(
        device: Arc<impl RingDevice>,
        responder: Responder,
        span: Duration,
        on_violation: impl FnOnce(&Violation) + Send + 'static,
    ) -> io::Result<Self> {
        let orders = Orders { wanted: Mode::Parked, given: 0, followed: 0, ended: false, violation: None };
        let shared = Arc::new(Shared {
            orders: Mutex::new(orders),
            progress: Condvar::new(),
            notes: AtomicU32::new(0),
            interrupt: Interrupt::new(),
        });
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("ring".to_owned()).spawn(move || {
            if let Err(violation) = theirs.run(&*device, responder) {
                on_violation(&violation);
            }
        })?;
        Ok(Self { shared, thread: Some(thread), span })
    }

    /// Where other threads leave notes.
    pub fn notes(&self) -> Notes {
        Notes(Arc::clone(&self.shared))
    }

    /// Lets it begin, or go on. Waits for nothing.
    pub fn go(&self) {
        let mut orders = lock(&self.shared.orders);
        orders.wanted = Mode::Running;
        orders.given += 1;
        self.shared.interrupt.raise();
    }

    /// Orders a mode and waits until the thread has followed: also if it is in that mode already, so that what
    /// arrived meanwhile is dealt with.
    ///
    /// # Errors
    /// If it has not followed in time, or the ring is closed.
    pub fn order(&self, mode: Mode) -> Result<(), OrderError> {
        let until = Instant::now() + self.span;
        let mut orders = lock(&self.shared.orders);
        orders.wanted = mode;
        orders.given += 1;
        let order = orders.given;
        self.shared.interrupt.raise();
        while orders.followed < order {
            if orders.ended {
                return match &orders.violation {
                    Some(violation) => Err(OrderError::Violation(violation.clone())),
                    None => Ok(()),
                };
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                // A pause that came too late would only surprise whoever has given it up.
                orders.wanted = Mode::Running;
                return Err(OrderError::Late { wanted: mode });
            }
            let waited = self.shared.progress.wait_timeout(orders, left);
            orders = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }

    /// Ends the thread and waits for it; one that is late is left to the end of the process.
    pub fn end(&mut self) {
        // An ended thread has nothing left to order.
        if self.order(Mode::Ended).is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

impl Notes {
    /// Leaves a note, of these bits.
    pub fn leave(&self, note: u32) {
        self.0.notes.fetch_or(note, Ordering::AcqRel);
        self.0.interrupt.raise();
    }

    /// Has the device look for work.
    pub fn wake(&self) {
        self.0.interrupt.raise();
    }
}

impl Shared {
    fn run(&self, device: &impl RingDevice, mut responder: Responder) -> Result<(), Violation> {
        let end = self.serve(device, &mut responder);
        let mut orders = lock(&self.orders);
        orders.ended = true;
        orders.violation = end.as_ref().err().cloned();
        self.progress.notify_all();
        end
    }

    fn serve(&self, device: &impl RingDevice, responder: &mut Responder) -> Result<(), Violation> {
        let mut notes = 0;
        loop {
            // Taken back before order and notes are read: what comes later raises it again.
            self.interrupt.take();
            notes |= self.notes.swap(0, Ordering::AcqRel);
            let (wanted, order) = {
                let orders = lock(&self.orders);
                (orders.wanted, orders.given)
            };
            match wanted {
                Mode::Ended => return Ok(()),
                Mode::Parked | Mode::Running => {
                    self.follow(order);
                    self.answer(device, responder, wanted, &mut notes)?;
                }
                Mode::Paused => {
                    // Another order may come before the ring is empty, from who has given this one up.
                    if self.empty(device, responder)? {
                        device.emptied(std::mem::take(&mut notes));
                        while device.step() == Step::More {}
                        self.follow(order);
                        self.answer(device, responder, Mode::Paused, &mut notes)?;
                    }
                }
            }
        }
    }

    fn follow(&self, order: u64) {
        lock(&self.orders).followed = order;
        self.progress.notify_all();
    }

    /// Answers what is in the ring. The vCPUs are paused: there is an end. Says whether it got there: a vCPU process
    /// that goes on asking is waited for only until the control thread gives up.
    fn empty(&self, device: &impl RingDevice, responder: &mut Responder) -> Result<bool, Violation> {
        while answer_one(device, responder)? {
            if self.interrupt.is_raised() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Answers until there is something new to look at. Work is done between accesses, a step at a time.
    fn answer(
        &self,
        device: &impl RingDevice,
        responder: &mut Responder,
        mode: Mode,
        notes: &mut u32,
    ) -> Result<(), Violation> {
        let step = || if mode == Mode::Running { device.step() } else { Step::Idle };
        while !self.interrupt.is_raised() {
            if answer_one(device, responder)? {
                step();
                continue;
            }
            device.emptied(std::mem::take(notes));
            let deadline = match step() {
                Step::More => Deadline::now(),
                Step::Idle => Deadline::after(Deadline::SPAN_MAX),
            };
            match responder.next(&self.interrupt, deadline) {
                Ok(token) => {
                    let value = device.access(token.access());
                    token.complete(value);
                }
                Err(ResponderError::Stopped(_)) => {}
                Err(ResponderError::Violation(violation)) => return Err(violation),
            }
        }
        Ok(())
    }
}

/// Answers the next access if there is one.
fn answer_one(device: &impl RingDevice, responder: &mut Responder) -> Result<bool, Violation> {
    match responder.try_next() {
        Ok(Some(token)) => {
            let value = device.access(token.access());
            token.complete(value);
            Ok(true)
        }
        Ok(None) | Err(ResponderError::Stopped(_)) => Ok(false),
        Err(ResponderError::Violation(violation)) => Err(violation),
    }
}

#[cfg(test)]
mod tests;
