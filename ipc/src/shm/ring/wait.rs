// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Waiting in a ring, for an answer, a request or a free slot: spin for the budget, then sleep, until a check succeeds.

use std::time::{Duration, Instant};

use super::Stop;
use super::interrupt::{Interrupt, Sleeper, WaitSlot};
use super::layout::Shared;
use crate::deadline::Deadline;
use crate::shm::region::View;
use crate::shm::sync::Ordering::{Acquire, Relaxed, SeqCst};
use crate::shm::sync::fence;

/// How many checks are made between two readings of the clock, which costs about as much as they do.
const LOOKS_PER_CLOCK: u32 = 32;

/// A waiter: for how long, and the word that it sleeps on.
pub(super) struct Waiter<'a> {
    pub(super) shared: &'a View<Shared>,
    pub(super) slot: WaitSlot,
    pub(super) spin: Duration,
    pub(super) interrupt: &'a Interrupt,
    pub(super) deadline: Deadline,
}

impl Waiter<'_> {
    /// Waits until `look` finds something.
    ///
    /// `look` is called first: what is there already is taken even if the interrupt is raised or the deadline has
    /// passed.
    pub(super) fn until<T>(&self, mut look: impl FnMut() -> Option<T>) -> Result<T, Stop> {
        if let Some(found) = look() {
            return Ok(found);
        }
        if !self.spin.is_zero()
            && let Some(found) = self.spin(&mut look)
        {
            return Ok(found);
        }
        loop {
            if self.interrupt.is_raised() {
                return Err(Stop::Interrupted);
            }
            if self.deadline.has_passed() {
                return Err(Stop::DeadlinePassed);
            }
            if let Some(found) = self.sleep(&mut look) {
                return Ok(found);
            }
        }
    }

    fn spin<T>(&self, look: &mut impl FnMut() -> Option<T>) -> Option<T> {
        let mut start = None;
        loop {
            for _ in 0..LOOKS_PER_CLOCK {
                if let Some(found) = look() {
                    return Some(found);
                }
                core::hint::spin_loop();
            }
            // Not before the first checks: an answer that is about to come is faster than reading the clock.
            let start = *start.get_or_insert_with(Instant::now);
            if start.elapsed() >= self.spin || self.interrupt.is_raised() {
                return None;
            }
        }
    }

    /// Sets the flag, checks once more, and sleeps. Returns what the last checks found.
    fn sleep<T>(&self, look: &mut impl FnMut() -> Option<T>) -> Option<T> {
        let word = self.slot.word(self.shared)?;
        self.interrupt.tuck_in(Sleeper { shared: self.shared.clone(), slot: self.slot });
        // Swaps where stores would do: their cost is small beside the system call, and the model checker orders two
        // threads' writes to one word only if each has read the other's.
        let expected = match self.slot {
            WaitSlot::Responder | WaitSlot::Lane(_) => {
                word.swap(1, Relaxed);
                1
            }
            // Several threads may sleep here, so they sleep on a counter. A flag that the waker has cleared could be
            // set again by another thread, and one that is about to sleep on it would miss the wake-up.
            WaitSlot::Freed => {
                let before = word.load(Acquire);
                self.shared.progress.0.wanted.swap(1, Relaxed);
                before
            }
        };
        // Pairs with the fence between publishing and checking for sleepers: one of the two sees the other.
        fence(SeqCst);
        let mut found = look();
        if found.is_none() && !self.interrupt.is_raised() {
            word.wait(expected, self.deadline);
            found = look();
        }
        if !matches!(self.slot, WaitSlot::Freed) {
            word.swap(0, Relaxed);
        }
        self.interrupt.get_up();
        found
    }
}
