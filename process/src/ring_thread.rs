// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The ring thread: answers the guest's accesses in the order of the MMIO ring, and does the work that they start.
//!
//! The control thread sets its mode ([`RingThread::set_mode`]) and waits until it is in force. Before `Paused` is in
//! force the ring has been drained and the work finished or stopped; from then on accesses are still answered, but
//! start no work, so that the device writes no more guest memory. Other threads post it notes, which it handles once
//! it has answered all accesses that were in the ring before. A vCPU process that violates the ring's protocol ends
//! the thread; `on_violation` is called with the violation, and the next change of mode fails with it.

use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ipc::deadline::Deadline;
use ipc::error::Violation;
use ipc::shm::ring::{Access, Interrupt, Responder, ResponderError, Token};

/// What is behind the ring. All calls come from the thread.
pub trait RingDevice: Send + Sync + 'static {
    /// The next access is the one with this number in the ring, which a life before may have begun.
    fn taken(&self, sequence: u64);
    /// Carries out an access and returns the value of a read.
    fn access(&self, access: Access) -> u64;
    /// That access is out of the ring: if this process dies from now on, its next life does not find it there.
    fn answered(&self);
    /// Does one step of the work that accesses have started. Called in mode `Running`, and before `Paused` comes into
    /// force until it returns [`Step::Idle`].
    fn step(&self) -> Step;
    /// The ring was found empty after these notes were posted: the bits of [`Notes::post`], 0 if there are none.
    fn emptied(&self, notes: u32);
}

/// What a step leaves to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// There is more work.
    More,
    /// There is none, or none that can be done before an interrupt is raised.
    Idle,
}

/// The thread's mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Has not begun: the mode it starts in. Accesses wait: a next life that does not come to be must have answered
    /// none.
    Parked,
    /// Answers accesses and works.
    Running,
    /// Answers accesses only.
    Paused,
    /// The thread has ended.
    Ended,
}

/// Why a mode did not come into force.
#[derive(Debug, thiserror::Error)]
pub enum ModeError {
    /// The ring is closed.
    #[error("the MMIO ring is closed: {0}")]
    Violation(Violation),
    /// The thread did not get there within its span.
    #[error("the ring thread did not become {mode:?} within {} s", span.as_secs())]
    Late {
        /// What it was to become.
        mode: Mode,
        /// How long it was waited for.
        span: Duration,
    },
}

/// A handle to the thread. Dropping it detaches the thread.
#[derive(Debug)]
pub struct RingThread {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    span: Duration,
}

/// Posts notes to the thread from other threads.
#[derive(Clone, Debug)]
pub struct Notes(Arc<Shared>);

#[derive(Debug)]
struct Requested {
    mode: Mode,
    /// Number of the last request, so that one for the mode already in force is waited for as well.
    number: u64,
    /// Number of the last request whose mode is in force.
    in_force: u64,
    ended: bool,
    violation: Option<Violation>,
}

#[derive(Debug)]
struct Shared {
    requested: Mutex<Requested>,
    progress: Condvar,
    /// A mode was set: what a parked thread waits for.
    set: Condvar,
    notes: AtomicU32,
    /// How many turns the thread has taken: each begins with a look for a change of mode and for notes.
    turns: AtomicU64,
    interrupt: Interrupt,
}

/// A mutex whose holder never panics while it holds it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RingThread {
    /// Starts the thread in mode `Parked`. A change of mode may take `span`; `on_violation` is called by the thread
    /// before it ends, if the ring had to be closed.
    ///
    /// # Errors
    /// If the thread cannot be created.
    pub fn start(
        device: Arc<impl RingDevice>,
        responder: Responder,
        span: Duration,
        on_violation: impl FnOnce(&Violation) + Send + 'static,
    ) -> io::Result<Self> {
        let requested =
            Requested { mode: Mode::Parked, number: 0, in_force: 0, ended: false, violation: None };
        let shared = Arc::new(Shared {
            requested: Mutex::new(requested),
            progress: Condvar::new(),
            set: Condvar::new(),
            notes: AtomicU32::new(0),
            turns: AtomicU64::new(0),
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

    /// A handle to post notes with.
    pub fn notes(&self) -> Notes {
        Notes(Arc::clone(&self.shared))
    }

    /// How many turns the thread has taken, and has it take another one: if it makes progress, it will have taken more
    /// by the next call. None while it is parked, and once it has ended. Waits for nobody.
    pub fn turns(&self) -> Option<u64> {
        let is_serving = {
            let requested = lock(&self.shared.requested);
            matches!(requested.mode, Mode::Running | Mode::Paused) && !requested.ended
        };
        let turns = is_serving.then(|| self.shared.turns.load(Ordering::Relaxed));
        self.shared.interrupt.raise();
        turns
    }

    /// Sets mode `Running` without waiting until it is in force.
    pub fn go(&self) {
        let mut requested = lock(&self.shared.requested);
        self.shared.request(&mut requested, Mode::Running);
    }

    /// Sets the mode and waits until it is in force. If it is in force already, what has arrived since is handled
    /// first: a second pause drains the ring again.
    ///
    /// # Errors
    /// If it is not in force within the span given at the start, or the ring is closed.
    pub fn set_mode(&self, mode: Mode) -> Result<(), ModeError> {
        let until = Instant::now() + self.span;
        let mut requested = lock(&self.shared.requested);
        self.shared.request(&mut requested, mode);
        let number = requested.number;
        while requested.in_force < number {
            if requested.ended {
                return match &requested.violation {
                    Some(violation) => Err(ModeError::Violation(violation.clone())),
                    None => Ok(()),
                };
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                // The caller has given the pause up: it must not come into force later.
                requested.mode = Mode::Running;
                return Err(ModeError::Late { mode, span: self.span });
            }
            let waited = self.shared.progress.wait_timeout(requested, left);
            requested = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }

    /// Ends the thread and joins it; a thread that does not end within its span is detached.
    pub fn end(&mut self) {
        if self.set_mode(Mode::Ended).is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

impl Notes {
    /// Posts these bits of a note.
    pub fn post(&self, note: u32) {
        self.0.notes.fetch_or(note, Ordering::AcqRel);
        self.0.interrupt.raise();
    }

    /// Wakes the thread to look for work.
    pub fn wake(&self) {
        self.0.interrupt.raise();
    }
}

impl Shared {
    fn run(&self, device: &impl RingDevice, mut responder: Responder) -> Result<(), Violation> {
        let end = self.serve(device, &mut responder);
        let mut requested = lock(&self.requested);
        requested.ended = true;
        requested.violation = end.as_ref().err().cloned();
        self.progress.notify_all();
        end
    }

    fn serve(&self, device: &impl RingDevice, responder: &mut Responder) -> Result<(), Violation> {
        let mut notes = 0;
        loop {
            // Cleared before mode and notes are read: whatever comes after that raises it again.
            self.interrupt.take();
            self.turns.fetch_add(1, Ordering::Relaxed);
            notes |= self.notes.swap(0, Ordering::AcqRel);
            let (mode, number) = {
                let requested = lock(&self.requested);
                (requested.mode, requested.number)
            };
            match mode {
                Mode::Ended => return Ok(()),
                Mode::Parked => {
                    let requested = lock(&self.requested);
                    let waited = self.set.wait_while(requested, |requested| requested.number == number);
                    drop(waited.unwrap_or_else(PoisonError::into_inner));
                }
                Mode::Running => {
                    self.set_in_force(number);
                    self.answer(device, responder, mode, &mut notes)?;
                }
                Mode::Paused => {
                    // The caller may give the pause up and set another mode before the ring is empty.
                    if self.empty(device, responder)? {
                        device.emptied(std::mem::take(&mut notes));
                        while device.step() == Step::More {}
                        self.set_in_force(number);
                        self.answer(device, responder, Mode::Paused, &mut notes)?;
                    }
                }
            }
        }
    }

    fn request(&self, requested: &mut Requested, mode: Mode) {
        requested.mode = mode;
        requested.number += 1;
        self.interrupt.raise();
        self.set.notify_all();
    }

    fn set_in_force(&self, number: u64) {
        lock(&self.requested).in_force = number;
        self.progress.notify_all();
    }

    /// Answers what is in the ring until it is empty. False: it was interrupted before, since a vCPU process that goes
    /// on posting accesses while its vCPUs should be paused would keep it here for ever.
    fn empty(&self, device: &impl RingDevice, responder: &mut Responder) -> Result<bool, Violation> {
        while answer_one(device, responder)? {
            if self.interrupt.is_raised() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Answers accesses until it is interrupted. Work is done between accesses, a step at a time.
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
                Ok(token) => carry_out(device, token),
                Err(ResponderError::Stopped(_)) => {}
                Err(ResponderError::Violation(violation)) => return Err(violation),
            }
        }
        Ok(())
    }
}

/// Answers the next access, if there is one; whether there was.
fn answer_one(device: &impl RingDevice, responder: &mut Responder) -> Result<bool, Violation> {
    match responder.try_next() {
        Ok(Some(token)) => {
            carry_out(device, token);
            Ok(true)
        }
        Ok(None) | Err(ResponderError::Stopped(_)) => Ok(false),
        Err(ResponderError::Violation(violation)) => Err(violation),
    }
}

fn carry_out(device: &impl RingDevice, token: Token<'_>) {
    device.taken(token.sequence());
    let value = device.access(token.access());
    token.complete(value);
    device.answered();
}

#[cfg(test)]
mod tests;
