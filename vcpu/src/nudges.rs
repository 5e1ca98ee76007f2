// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Calling vCPUs out of the guest while an interrupt line is high.
//!
//! KVM (Linux 7.3 does) may hear of an interrupt's end only if the vCPU left the guest between taking and ending it; until
//! then the line stays high and it brings the interrupt again, for nobody, until the guest gives the line up. So vCPUs are
//! called while a line is high: one of the first calls falls into the guest's handler. Bounded: a guest that has the interrupt
//! masked ends it in its own time.

use std::time::{Duration, Instant};

/// How long until vCPUs are called again.
const NUDGE_AFTER: Duration = Duration::from_micros(50);

/// How often they are called for one interrupt.
const NUDGES_MAX: u32 = 200;

/// Lines that are high, and what is left of the patience with them.
#[derive(Debug, Default)]
pub struct Nudges {
    /// INTIDs, and how often they may still call.
    high: Vec<(u32, u32)>,
    last: Option<Instant>,
}

impl Nudges {
    /// Whether no line is high that vCPUs are called for.
    pub fn is_empty(&self) -> bool {
        self.high.is_empty()
    }

    /// The line has risen, or is high for one more reason.
    pub fn begin(&mut self, intid: u32) {
        self.end(intid);
        self.high.push((intid, NUDGES_MAX));
    }

    /// The line fell.
    pub fn end(&mut self, intid: u32) {
        self.high.retain(|(high, _)| *high != intid);
    }

    /// Whether vCPUs are to be called now.
    pub fn are_due(&mut self, now: Instant) -> bool {
        let early = self.last.is_some_and(|last| now.saturating_duration_since(last) < NUDGE_AFTER);
        if self.high.is_empty() || early {
            return false;
        }
        self.last = Some(now);
        self.high.iter_mut().for_each(|(_, left)| *left = left.saturating_sub(1));
        self.high.retain(|(_, left)| *left > 0);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nudges_come_at_intervals_while_a_line_is_high_and_end_with_it() {
        let mut nudges = Nudges::default();
        let start = Instant::now();
        assert!(nudges.is_empty() && !nudges.are_due(start));
        nudges.begin(41);
        nudges.begin(42);
        assert!(nudges.are_due(start));
        assert!(!nudges.are_due(start + NUDGE_AFTER / 2), "it is too early");
        nudges.end(41);
        assert!(nudges.are_due(start + NUDGE_AFTER), "the other line is high");
        nudges.end(42);
        assert!(nudges.is_empty() && !nudges.are_due(start + NUDGE_AFTER * 2));
    }

    #[test]
    fn nudges_for_a_line_that_stays_high_are_bounded_and_begin_anew_when_it_rises_again() {
        let mut nudges = Nudges::default();
        let mut now = Instant::now();
        nudges.begin(41);
        for _ in 0..NUDGES_MAX {
            assert!(nudges.are_due(now));
            now += NUDGE_AFTER;
        }
        assert!(nudges.is_empty() && !nudges.are_due(now));
        nudges.begin(41);
        assert!(nudges.are_due(now));
    }
}
