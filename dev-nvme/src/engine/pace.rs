// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How much work the helping thread does: how many commands per job, and whether it makes writes itself.
//!
//! The thread has a connection to serve. So it takes as many commands as fit a short turn, by the time the last ones
//! took; and once a write blocked it, writes are deferred to workers for many times as long. Reads that would block
//! are deferred anyway, since the kernel reports those in advance.

use std::time::{Duration, Instant};

use crate::controller::BATCH_MAX;

/// The target length of a turn: an acceptable delay of a register access.
const TURN: Duration = Duration::from_micros(100);

/// The most that one turn counts for, so that a single long one has little weight.
const COUNTED_MAX: Duration = Duration::from_millis(1);

/// A turn's weight in the average: a quarter.
const WEIGHT: u32 = 4;

/// A blocked write is tolerated up to this, plus the time for copying.
const HARMLESS: Duration = Duration::from_micros(250);

/// Time for copying a KiB, at the lowest expected speed.
const COPY_KIB: Duration = Duration::from_micros(1);

/// Factor from time blocked to time without writes: the thread is blocked for a sixteenth of its time at most.
const WAITED_COST: u32 = 16;

/// The longest time without writes.
const DEFERRED_MAX: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug, Default)]
pub struct Pace {
    /// Average time of a command.
    command: Duration,
    /// Writes are deferred to workers until then.
    no_writes_until: Option<Instant>,
}

impl Pace {
    /// How many commands fit a turn.
    pub fn batch(&self) -> u32 {
        let count = TURN.as_nanos().checked_div(self.command.as_nanos()).unwrap_or(BATCH_MAX.into());
        u32::try_from(count).unwrap_or(BATCH_MAX).clamp(1, BATCH_MAX)
    }

    /// Records a turn of `count` commands.
    pub fn took(&mut self, span: Duration, count: u32) {
        let command = span.min(COUNTED_MAX) / count.max(1);
        self.command = (self.command * (WEIGHT - 1) + command) / WEIGHT;
    }

    /// Whether the thread may make writes.
    pub fn may_write(&self, now: Instant) -> bool {
        self.no_writes_until.is_none_or(|until| now >= until)
    }

    /// Records a write that blocked the thread, for most of this span. Only for those that [`is_long`].
    pub fn waited(&mut self, now: Instant, span: Duration) {
        self.no_writes_until = now.checked_add(span.saturating_mul(WAITED_COST).min(DEFERRED_MAX));
    }
}

/// Whether a write of this length took longer than one that does not block.
pub fn is_long(span: Duration, len: u64) -> bool {
    span > HARMLESS + COPY_KIB * u32::try_from(len >> 10).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
