// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Rate limit for the log lines of one source: a burst, and a low sustained rate.
//!
//! A source is a process by name, or a place in the coordinator's code. Its limit outlives connections, guest resets
//! and generations of processes, since whoever can cause those must not get a new burst by each. A source that never
//! stops writes 14 MiB a day, at a line of 1 KiB every [`REFILL`].

use std::time::{Duration, Instant};

/// The interval at which the bucket gains a line.
const REFILL: Duration = Duration::from_secs(6);

/// A token bucket of lines.
#[derive(Debug, Clone)]
pub struct LogLimit {
    burst: u32,
    left: u32,
    /// Until when it has been refilled.
    filled: Option<Instant>,
}

impl LogLimit {
    /// A full bucket of `burst` lines.
    pub const fn new(burst: u32) -> Self {
        Self { burst, left: burst, filled: None }
    }

    /// Takes a line from the bucket at `now`; false if it is empty.
    pub fn allows(&mut self, now: Instant) -> bool {
        let filled = self.filled.get_or_insert(now);
        let passed = now.saturating_duration_since(*filled);
        let lines = u32::try_from(passed.as_nanos() / REFILL.as_nanos()).unwrap_or(u32::MAX);
        self.left = self.left.saturating_add(lines).min(self.burst);
        *filled = if self.left == self.burst {
            now
        } else {
            filled.checked_add(REFILL.saturating_mul(lines)).unwrap_or(now)
        };
        let allowed = self.left > 0;
        self.left = self.left.saturating_sub(1);
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burst_is_followed_by_little_for_ever() {
        let mut limit = LogLimit::new(100);
        let start = Instant::now();
        assert_eq!((0..1000).filter(|_| limit.allows(start)).count(), 100);
        // A line every 10 ms for an hour.
        let later = |n: u32| start + Duration::from_millis(10) * n;
        assert_eq!((0..360_000).filter(|n| limit.allows(later(*n))).count(), 599);
        // Quiet for an hour: a burst again, and no more than one.
        let next_day = start + Duration::from_secs(86_400);
        assert_eq!((0..1000).filter(|_| limit.allows(next_day)).count(), 100);
        // A clock that does not move forward allows nothing.
        assert!(!limit.allows(start));
    }
}
