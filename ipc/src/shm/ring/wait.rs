// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Waiting, for all three who wait in a ring: spin for the budget, then sleep, until a look succeeds.

use std::time::{Duration, Instant};

use super::Stop;
use super::interrupt::{Interrupt, Sleeper, WaitSlot};
use super::layout::Shared;
use crate::deadline::Deadline;
use crate::shm::region::View;
use crate::shm::sync::Ordering::{Acquire, Relaxed, SeqCst};
use crate::shm::sync::fence;

/// How many looks are made between two looks at the clock, which costs about as much as they do.
const LOOKS_PER_CLOCK: u32 = 32;

/// Who waits, for how long, and where it sleeps.
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
    /// `look` comes first: what is there already is taken even if the interrupt is raised or the deadline has passed.
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
            // Not before the first looks: an answer that is on its way comes sooner than the clock.
            let start = *start.get_or_insert_with(Instant::now);
            if start.elapsed() >= self.spin || self.interrupt.is_raised() {
                return None;
            }
        }
    }

    /// Says that this thread sleeps, looks once more, and sleeps. Returns what the last looks found.
    fn sleep<T>(&self, look: &mut impl FnMut() -> Option<T>) -> Option<T> {
        let word = self.slot.word(self.shared)?;
        self.interrupt.tuck_in(Sleeper { shared: self.shared.clone(), slot: self.slot });
        // Swaps, where stores would do: they cost nothing beside the system call to come, and the model checker knows
        // the order of two threads' writes to one word only if each has read the other's.
        let expected = match self.slot {
            WaitSlot::Responder | WaitSlot::Lane(_) => {
                word.swap(1, Relaxed);
                1
            }
            // Several threads may sleep here: a flag that each sets and the waker clears would be set again by
            // one who does not sleep after all, over the head of one who is just about to.
            WaitSlot::Freed => {
                let before = word.load(Acquire);
                self.shared.progress.0.wanted.swap(1, Relaxed);
                before
            }
        };
        // Pairs with the fence between publishing and looking for sleepers: one of the two sees the other.
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
