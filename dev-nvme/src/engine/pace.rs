// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a helping thread takes on: how many commands at once, and whether it writes itself.
//!
//! The thread has a connection to serve. So it takes as many commands as a short turn has room for, by what the last ones
//! took; and once a write made it wait, writes are the workers' for many times as long. What has to be read from the disk
//! is theirs anyway: of a read the kernel tells beforehand.

use std::time::{Duration, Instant};

use crate::controller::BATCH_MAX;

/// How long a turn is to be: as long as a register access may well wait.
const TURN: Duration = Duration::from_micros(100);

/// The most that one turn counts for, so that a single long one is soon forgotten.
const COUNTED_MAX: Duration = Duration::from_millis(1);

/// A turn's weight in the average: a quarter.
const WEIGHT: u32 = 4;

/// A write that waited is no harm below this much, and what copying takes.
const HARMLESS: Duration = Duration::from_micros(250);

/// What copying a KiB takes, at the least speed that is expected.
const COPY_KIB: Duration = Duration::from_micros(1);

/// For how many times as long as it waited the thread does not write: it waits for a sixteenth of its time at the most.
const WAITED_COST: u32 = 16;

/// However long a write took, one is tried again after this.
const DEFERRED_MAX: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug, Default)]
pub struct Pace {
    /// What a command took, on average.
    command: Duration,
    /// Writes are left to the workers until then.
    no_writes_until: Option<Instant>,
}

impl Pace {
    /// How many commands have room in a turn.
    pub fn batch(&self) -> u32 {
        let count = TURN.as_nanos().checked_div(self.command.as_nanos()).unwrap_or(BATCH_MAX.into());
        u32::try_from(count).unwrap_or(BATCH_MAX).clamp(1, BATCH_MAX)
    }

    /// A turn of `count` commands is over.
    pub fn took(&mut self, span: Duration, count: u32) {
        let command = span.min(COUNTED_MAX) / count.max(1);
        self.command = (self.command * (WEIGHT - 1) + command) / WEIGHT;
    }

    /// Whether the thread may write.
    pub fn may_write(&self, now: Instant) -> bool {
        self.no_writes_until.is_none_or(|until| now >= until)
    }

    /// A write made the thread wait, for most of this span. Called only of those that [`is_long`].
    pub fn waited(&mut self, now: Instant, span: Duration) {
        self.no_writes_until = now.checked_add(span.saturating_mul(WAITED_COST).min(DEFERRED_MAX));
    }
}

/// Whether a write of so many bytes took longer than one that waits for nothing.
pub fn is_long(span: Duration, len: u64) -> bool {
    span > HARMLESS + COPY_KIB * u32::try_from(len >> 10).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
