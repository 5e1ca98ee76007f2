// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How much waiting for one device's answers is tolerated before the device is given up.
//!
//! A CMD_SYNC waits for every device, so a slow one slows all others. What counts is therefore not a single answer but
//! the share of time that is spent waiting for this device: waiting adds to a debt, which is paid off slowly at other
//! times. While the whole VM was stopped (host suspend, SIGSTOP) the device was too: one check adds at most one check
//! interval.

use std::time::{Duration, Instant};

/// Interval between checks while requests are unanswered.
pub const TURN_SPAN: Duration = Duration::from_secs(1);
/// The debt at which a device is given up.
pub const DEBT_MAX: Duration = Duration::from_secs(5);
/// An answer within this costs nothing: devices answer in microseconds, and hosts are busy.
const FREE_SPAN: Duration = Duration::from_millis(250);
/// A debt is paid off in this many times the time that was waited.
const PAID_OFF_IN: u32 = 4;

/// The debt of one device.
#[derive(Debug)]
pub struct ResponseBudget {
    debt: Duration,
    looked: Instant,
}

impl ResponseBudget {
    /// Without debt.
    pub const fn new(now: Instant) -> Self {
        Self { debt: Duration::ZERO, looked: now }
    }

    /// Whether the debt has reached its limit. `waits_since` is when the oldest request was sent that is unanswered, or
    /// was until now.
    pub fn is_exhausted(&mut self, now: Instant, waits_since: Option<Instant>) -> bool {
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

    /// How many rounds of this length pass until it is exhausted, if ever; each begins with a request and ends with a
    /// check.
    fn turns(span: Duration, answered: bool) -> Option<u32> {
        let start = Instant::now();
        let mut budget = ResponseBudget::new(start);
        let mut now = start;
        (1..1000).find(|_| {
            let given = if answered { now } else { start };
            now += span;
            budget.is_exhausted(now, Some(given))
        })
    }

    #[test]
    fn budget_is_exhausted_by_silence_and_not_by_a_device_that_answers() {
        assert_eq!(turns(TURN_SPAN, false), Some(5));
        assert_eq!(turns(Duration::from_millis(200), true), None);
    }

    #[test]
    fn budget_is_exhausted_by_a_device_that_answers_late_each_time() {
        assert_eq!(turns(Duration::from_millis(500), true), Some(10));
    }

    #[test]
    fn budget_counts_no_time_between_missed_checks() {
        let hour = Duration::from_secs(3600);
        let start = Instant::now();
        let mut budget = ResponseBudget::new(start);
        assert!(!budget.is_exhausted(start + hour, Some(start)), "the machine was stopped");
        assert!(budget.debt <= TURN_SPAN);
        assert!(!budget.is_exhausted(start + hour + TURN_SPAN, None));
        assert!(budget.debt < TURN_SPAN, "some of it is paid off");
    }
}
