// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! When to kick vCPUs for a controller that loses the end of a level interrupt.
//!
//! KVM (of Linux 7.3) misses the end unless the vCPU left the guest between acknowledging and ending the interrupt;
//! the line then stays high, and the guest gets spurious interrupts until it disables the line. So vCPUs are kicked
//! out of the guest while a line is high: one of the first kicks falls into the guest's handler. The number of kicks
//! is bounded, since a guest may keep the interrupt masked.

use std::time::{Duration, Instant};

/// Interval between kicks.
const KICK_AFTER: Duration = Duration::from_micros(50);

/// Kicks per interrupt.
const KICKS_MAX: u32 = 200;

/// Lines that are high, with the kicks left for each.
#[derive(Debug, Default)]
pub struct EndKicks {
    /// INTIDs, and the kicks that are left.
    high: Vec<(u32, u32)>,
    last: Option<Instant>,
}

impl EndKicks {
    /// Whether no line is high that vCPUs are kicked for.
    pub fn is_empty(&self) -> bool {
        self.high.is_empty()
    }

    /// The line was raised, or is held high by one more function.
    pub fn begin(&mut self, intid: u32) {
        self.end(intid);
        self.high.push((intid, KICKS_MAX));
    }

    /// The line was lowered.
    pub fn end(&mut self, intid: u32) {
        self.high.retain(|(high, _)| *high != intid);
    }

    /// Whether vCPUs are to be kicked now.
    pub fn are_due(&mut self, now: Instant) -> bool {
        let early = self.last.is_some_and(|last| now.saturating_duration_since(last) < KICK_AFTER);
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
    fn kicks_come_at_intervals_while_a_line_is_high_and_end_with_it() {
        let mut kicks = EndKicks::default();
        let start = Instant::now();
        assert!(kicks.is_empty() && !kicks.are_due(start));
        kicks.begin(41);
        kicks.begin(42);
        assert!(kicks.are_due(start));
        assert!(!kicks.are_due(start + KICK_AFTER / 2), "it is too early");
        kicks.end(41);
        assert!(kicks.are_due(start + KICK_AFTER), "the other line is high");
        kicks.end(42);
        assert!(kicks.is_empty() && !kicks.are_due(start + KICK_AFTER * 2));
    }

    #[test]
    fn kicks_for_a_line_that_stays_high_are_bounded_and_begin_anew_when_it_rises_again() {
        let mut kicks = EndKicks::default();
        let mut now = Instant::now();
        kicks.begin(41);
        for _ in 0..KICKS_MAX {
            assert!(kicks.are_due(now));
            now += KICK_AFTER;
        }
        assert!(kicks.is_empty() && !kicks.are_due(now));
        kicks.begin(41);
        assert!(kicks.are_due(now));
    }
}
