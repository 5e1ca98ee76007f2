// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How long the guest's commands wait for one device before it is given up.
//!
//! A CMD_SYNC waits for every device, so a slow one slows all others. What counts is therefore not a single answer but how
//! much of the time the guest waits for this device: waiting is a debt, which is paid off slowly while it does not.
//! A machine that was stopped as a whole (suspended, or by its shell) has not been waiting: one look counts a turn at most.

use std::time::{Duration, Instant};

/// How often to look while orders are unanswered.
pub const TURN_SPAN: Duration = Duration::from_secs(1);
/// The debt at which a device is given up.
pub const DEBT_MAX: Duration = Duration::from_secs(5);
/// An answer within this costs nothing: devices answer in microseconds, and hosts are busy.
const FREE_SPAN: Duration = Duration::from_millis(250);
/// How much longer than it has let wait a device works well until that is forgotten.
const PAID_OFF_IN: u32 = 4;

/// The patience with one device.
#[derive(Debug)]
pub struct Patience {
    debt: Duration,
    looked: Instant,
}

impl Patience {
    /// All of it.
    pub const fn new(now: Instant) -> Self {
        Self { debt: Duration::ZERO, looked: now }
    }

    /// Whether it is over. `waits_since` is when the oldest order was given that is unanswered, or was until now.
    pub fn is_over(&mut self, now: Instant, waits_since: Option<Instant>) -> bool {
        let span = now.saturating_duration_since(self.looked).min(TURN_SPAN);
        self.looked = now;
        let waited = waits_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        self.debt = if waited > FREE_SPAN {
            self.debt.saturating_add(span.min(waited))
        } else {
            self.debt.saturating_sub(span / PAID_OFF_IN)
        };
        self.debt >= DEBT_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many turns of this length pass until it is over, if it ever is; each begins with an order and ends with a look.
    fn turns(span: Duration, answered: bool) -> Option<u32> {
        let start = Instant::now();
        let mut patience = Patience::new(start);
        let mut now = start;
        (1..1000).find(|_| {
            let given = if answered { now } else { start };
            now += span;
            patience.is_over(now, Some(given))
        })
    }

    #[test]
    fn patience_with_silence_ends_and_with_a_device_that_works_it_does_not() {
        assert_eq!(turns(TURN_SPAN, false), Some(5));
        assert_eq!(turns(Duration::from_millis(200), true), None);
    }

    #[test]
    fn patience_with_a_device_that_answers_late_each_time_ends_as_well() {
        assert_eq!(turns(Duration::from_millis(500), true), Some(10));
    }

    #[test]
    fn patience_counts_no_time_in_which_nobody_looked() {
        let hour = Duration::from_secs(3600);
        let start = Instant::now();
        let mut patience = Patience::new(start);
        assert!(!patience.is_over(start + hour, Some(start)), "the machine was stopped");
        assert!(patience.debt <= TURN_SPAN);
        assert!(!patience.is_over(start + hour + TURN_SPAN, None));
        assert!(patience.debt < TURN_SPAN, "some of it is paid off");
    }
}
