// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How long to look at doorbells in memory before going to sleep.
//!
//! Two sides that both look for a shorter time than the other takes to wake up put each other to sleep with every exchange,
//! for as long as they have something to do. What waking takes is the host's to say: so the span grows when news came just
//! after looking had ended, and shrinks when it came much later. Beyond the shortest span the processor is offered to others
//! between two looks: the other side may be the one that waits for it.

use std::time::{Duration, Instant};

/// The shortest span: what it costs both to sleep and to be woken.
const SPAN_MIN: Duration = Duration::from_micros(10);

/// The longest: what waking a processor that sleeps takes on a slow host, twice.
const SPAN_MAX: Duration = Duration::from_micros(200);

/// What to do where there is nothing to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Look on, and keep the processor.
    Look,
    /// Look on, and offer the processor to others.
    Yield,
    /// Have the host say when there is something.
    Sleep,
}

/// See the module.
#[derive(Debug)]
pub struct Patience {
    span: Duration,
    /// Since when there has been nothing to see.
    nothing_since: Option<Instant>,
    /// Since when nobody has looked.
    asleep_since: Option<Instant>,
}

impl Default for Patience {
    fn default() -> Self {
        Self { span: SPAN_MIN, nothing_since: None, asleep_since: None }
    }
}

impl Patience {
    /// There was something to see.
    pub fn news(&mut self) {
        self.nothing_since = None;
        if let Some(since) = self.asleep_since.take() {
            self.missed(since.elapsed());
        }
    }

    fn missed(&mut self, slept: Duration) {
        self.span = if slept < SPAN_MAX { self.span * 2 } else { self.span / 2 };
        self.span = self.span.clamp(SPAN_MIN, SPAN_MAX);
    }

    /// There was nothing to see.
    pub fn nothing(&mut self, now: Instant) -> Next {
        let since = *self.nothing_since.get_or_insert(now);
        match now.saturating_duration_since(since) {
            looked if looked >= self.span => Next::Sleep,
            looked if looked >= SPAN_MIN => Next::Yield,
            _ => Next::Look,
        }
    }

    /// Nobody looks from now on, until the host says that there is something.
    pub fn sleep(&mut self, now: Instant) {
        self.nothing_since = None;
        self.asleep_since = Some(now);
    }
}

#[cfg(test)]
mod tests;
