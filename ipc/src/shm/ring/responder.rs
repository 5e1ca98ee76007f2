// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The device process' side of a ring.

use std::time::Duration;

use super::interrupt::{Interrupt, WaitSlot};
use super::layout::{Apart, Shared};
use super::wait::Waiter;
use super::{Access, ResponderError, Stop};
use crate::deadline::Deadline;
use crate::error::Violation;
#[cfg(not(loom))]
use crate::shm::region::Region;
use crate::shm::region::View;
use crate::shm::sync::Ordering::{Acquire, Relaxed, Release, SeqCst};
use crate::shm::sync::fence;

/// The answering side; the coordinator ensures that at most one is alive per ring.
pub struct Responder {
    shared: View<Shared>,
    spin: Duration,
    /// How many requests were completed: the next one's sequence is one more.
    completed: u64,
    violation: Option<Violation>,
}

/// A request taken from the ring and not completed yet. If it is dropped without [`Token::complete`] it stays first in
/// the queue, and [`Responder::next`] returns it again.
#[derive(Debug)]
#[must_use = "a request that is not completed blocks the ring"]
pub struct Token<'a> {
    responder: &'a mut Responder,
    access: Access,
    lane: u16,
}

impl Responder {
    /// The answering side of the ring in `region`. [`Responder::next`] returns first what an earlier life of the
    /// process left unfinished.
    ///
    /// # Errors
    /// A violation if it is not a ring of this version.
    #[cfg(not(loom))]
    pub fn attach(region: &Region, generation: u32, spin: Duration) -> Result<Self, crate::error::Error> {
        Ok(Self::over(super::layout::attach(region)?, generation, spin))
    }

    pub(super) fn over(shared: View<Shared>, generation: u32, spin: Duration) -> Self {
        shared.identity.0.responder_generation.store(generation.into(), Relaxed);
        let completed = shared.progress.0.completed.load(Acquire);
        let mut responder = Self { shared, spin, completed, violation: None };
        responder.take_over();
        responder
    }

    /// Finishes a completion that the last life may have died in: counts a request that was answered already, and wakes
    /// waiters.
    fn take_over(&mut self) {
        let sequence = self.completed.wrapping_add(1);
        if let Some((access, lane)) = self.look(sequence).and_then(Result::ok)
            && access.op.is_awaited()
            && self.shared.lane(lane).is_some_and(|lane| lane.answered.load(Relaxed) == sequence)
        {
            self.count();
        }
        fence(SeqCst);
        // Whatever the words say: the last life may have cleared the flag and died before it woke the sleeper.
        for Apart(lane) in &self.shared.lanes {
            lane.sleeps.swap(0, Relaxed);
            lane.sleeps.wake_all();
        }
        let progress = &self.shared.progress.0;
        progress.wanted.swap(0, Relaxed);
        progress.freed.bump();
        progress.freed.wake_all();
    }

    /// Waits for the next request.
    ///
    /// # Errors
    /// `Stopped` if none came; a violation, from then on, if a request is invalid.
    pub fn next(&mut self, interrupt: &Interrupt, deadline: Deadline) -> Result<Token<'_>, ResponderError> {
        self.check()?;
        let sequence = self.completed.wrapping_add(1);
        let slot = WaitSlot::Responder;
        let waiter = Waiter { shared: &self.shared, slot, spin: self.spin, interrupt, deadline };
        let found = waiter.until(|| self.look(sequence))?;
        self.token(found)
    }

    /// The next request if there is one, without waiting: to drain a ring before a save.
    ///
    /// # Errors
    /// A violation, as for [`Responder::next`].
    pub fn try_next(&mut self) -> Result<Option<Token<'_>>, ResponderError> {
        self.check()?;
        match self.look(self.completed.wrapping_add(1)) {
            Some(found) => self.token(found).map(Some),
            None => Ok(None),
        }
    }

    /// Answers requests with `handler` until the wait for one ends. For a post the value has no meaning.
    ///
    /// # Errors
    /// A violation, as for [`Responder::next`].
    pub fn serve(
        &mut self,
        interrupt: &Interrupt,
        deadline: Deadline,
        mut handler: impl FnMut(Access) -> u64,
    ) -> Result<Stop, Violation> {
        loop {
            // A guest that makes accesses without end must not keep the thread from its other work.
            if interrupt.is_raised() {
                return Ok(Stop::Interrupted);
            }
            match self.next(interrupt, deadline) {
                Ok(token) => {
                    let value = handler(token.access());
                    token.complete(value);
                }
                Err(ResponderError::Stopped(stop)) => return Ok(stop),
                Err(ResponderError::Violation(violation)) => return Err(violation),
            }
        }
    }

    fn check(&self) -> Result<(), ResponderError> {
        self.violation.clone().map_or(Ok(()), |violation| Err(violation.into()))
    }

    fn look(&self, sequence: u64) -> Option<Result<(Access, u16), Violation>> {
        let slot = self.shared.slot(sequence)?;
        slot.holds(sequence).then(|| slot.read())
    }

    fn token(&mut self, found: Result<(Access, u16), Violation>) -> Result<Token<'_>, ResponderError> {
        match found {
            Ok((access, lane)) => Ok(Token { responder: self, access, lane }),
            Err(violation) => {
                self.violation = Some(violation.clone());
                Err(violation.into())
            }
        }
    }

    /// Answers, counts, wakes: `take_over` handles a death between two of these.
    fn complete(&mut self, access: Access, lane: u16, value: u64) {
        self.answer(access, lane, value);
        self.count();
        self.wake(access, lane);
    }

    fn answer(&self, access: Access, lane: u16, value: u64) {
        if access.op.is_awaited()
            && let Some(lane) = self.shared.lane(lane)
        {
            lane.value.store(super::truncate(value, access.size), Relaxed);
            lane.answered.store(self.completed.wrapping_add(1), Release);
        }
    }

    /// Removes the request from the queue. Last: if this process dies before, the request is found again.
    fn count(&mut self) {
        self.completed = self.completed.wrapping_add(1);
        self.shared.progress.0.completed.store(self.completed, Release);
    }

    fn wake(&self, access: Access, lane: u16) {
        // Pairs with the fence of a requester that is about to sleep.
        fence(SeqCst);
        if access.op.is_awaited() {
            self.wake_lane(lane);
        }
        self.wake_wanting();
    }

    fn wake_lane(&self, lane: u16) {
        let Some(lane) = self.shared.lane(lane) else { return };
        if lane.sleeps.load(Relaxed) != 0 && lane.sleeps.swap(0, Relaxed) != 0 {
            lane.sleeps.wake_all();
        }
    }

    fn wake_wanting(&self) {
        let progress = &self.shared.progress.0;
        if progress.wanted.load(Relaxed) != 0 && progress.wanted.swap(0, Relaxed) != 0 {
            progress.freed.bump();
            progress.freed.wake_all();
        }
    }
}

impl Token<'_> {
    /// What was requested, validated.
    #[must_use]
    pub const fn access(&self) -> Access {
        self.access
    }

    /// Its number among all requests of the ring, from 1 on: that of no other, in any life of the responder.
    #[must_use]
    pub const fn sequence(&self) -> u64 {
        self.responder.completed.wrapping_add(1)
    }

    /// Answers, and removes the request from the ring. For a write or a post the value has no meaning.
    pub fn complete(self, value: u64) {
        let Self { responder, access, lane } = self;
        responder.complete(access, lane, value);
    }

    /// Completes as far as a process got that died in the middle: 1 step answers, 2 count too, 3 take the words
    /// back that say who sleeps, and wake nobody.
    #[cfg(loom)]
    pub fn die_after(self, steps: usize, value: u64) {
        let Self { responder, access, lane } = self;
        if steps >= 1 {
            responder.answer(access, lane, value);
        }
        if steps >= 2 {
            responder.count();
        }
        if steps >= 3 {
            fence(SeqCst);
            responder.shared.progress.0.wanted.swap(0, Relaxed);
            if let Some(lane) = responder.shared.lane(lane) {
                lane.sleeps.swap(0, Relaxed);
            }
        }
    }
}

impl core::fmt::Debug for Responder {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Responder").field("completed", &self.completed).finish_non_exhaustive()
    }
}
