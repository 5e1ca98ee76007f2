// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Adaptive polling: how long to poll shadow doorbells before sleeping until a register write.
//!
//! If two sides both poll for a shorter time than the other takes to wake up, every exchange puts both to sleep, for as
//! long as they have work. The wake-up latency depends on the host: so the polling span grows when a change came just
//! after polling had ended, and shrinks when it came much later. Beyond the shortest span the processor is yielded
//! between two polls: the other side may be waiting for it.

use std::time::{Duration, Instant};

/// The shortest span: the cost of sleeping and waking up for both sides.
const SPAN_MIN: Duration = Duration::from_micros(10);

/// The longest: twice the wake-up latency of an idle processor on a slow host.
const SPAN_MAX: Duration = Duration::from_micros(200);

/// What to do when no doorbell has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Poll on, busy-waiting.
    Spin,
    /// Poll on, yielding the processor.
    Yield,
    /// Arm the doorbells and sleep until a register write.
    Sleep,
}

/// The current polling span, adapted to the wake-up latency.
#[derive(Debug)]
pub struct AdaptivePoll {
    span: Duration,
    /// Since when no doorbell has changed.
    idle_since: Option<Instant>,
    /// Since when polling has stopped.
    asleep_since: Option<Instant>,
}

impl Default for AdaptivePoll {
    fn default() -> Self {
        Self { span: SPAN_MIN, idle_since: None, asleep_since: None }
    }
}

impl AdaptivePoll {
    /// A doorbell has changed.
    pub fn found(&mut self) {
        self.idle_since = None;
        if let Some(since) = self.asleep_since.take() {
            self.slept(since.elapsed());
        }
    }

    fn slept(&mut self, span: Duration) {
        self.span = if span < SPAN_MAX { self.span * 2 } else { self.span / 2 };
        self.span = self.span.clamp(SPAN_MIN, SPAN_MAX);
    }

    /// No doorbell has changed: what to do next.
    pub fn idle(&mut self, now: Instant) -> Next {
        let since = *self.idle_since.get_or_insert(now);
        match now.saturating_duration_since(since) {
            polled if polled >= self.span => Next::Sleep,
            polled if polled >= SPAN_MIN => Next::Yield,
            _ => Next::Spin,
        }
    }

    /// Polling stops until a register write.
    pub fn sleep(&mut self, now: Instant) {
        self.idle_since = None;
        self.asleep_since = Some(now);
    }
}

#[cfg(test)]
mod tests;
