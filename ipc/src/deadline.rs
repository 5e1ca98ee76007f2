// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Deadlines. Every wait of this crate takes one: no process waits for another without end.
//!
//! A point in time and not a span, so that it can be passed down through calls and retries without growing.

use std::time::{Duration, Instant};

use rustix::time::Timespec;

/// A point in time on the monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// The longest span of a deadline, a day. Longer ones are cut, so that no sum overflows.
    pub const SPAN_MAX: Duration = Duration::from_secs(24 * 60 * 60);

    /// `span` from now.
    #[must_use]
    pub fn after(span: Duration) -> Self {
        let now = Instant::now();
        Self(now.checked_add(span.min(Self::SPAN_MAX)).unwrap_or(now))
    }

    /// Now: the call does not wait.
    #[must_use]
    pub fn now() -> Self {
        Self(Instant::now())
    }

    /// The point in time.
    #[must_use]
    pub const fn instant(self) -> Instant {
        self.0
    }

    /// The time left; zero if it has passed.
    #[must_use]
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Whether it has passed.
    #[must_use]
    pub fn has_passed(self) -> bool {
        self.remaining().is_zero()
    }

    /// The time left, as system calls take it.
    pub(crate) fn timespec(self) -> Timespec {
        // At most a day: it always converts.
        Timespec::try_from(self.remaining()).unwrap_or(Timespec { tv_sec: 0, tv_nsec: 0 })
    }
}
