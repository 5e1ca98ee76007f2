// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! When a precopy is good enough: after each round, from what is still owed and how fast it goes.
//!
//! The estimate of the downtime is what is owed over the measured rate, with what the switchover itself takes. A guest
//! that dirties pages faster than they are sent never gets there: its CPUs are slowed down if that was asked for, and
//! after the last round allowed the migration ends one way or the other, as the limits say.

use std::time::Duration;

/// What the user allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limits {
    /// How long the guest may stand still.
    pub downtime: Duration,
    /// How many rounds are sent while it runs.
    pub rounds_max: u32,
    /// What happens after them, if the estimate is above the downtime.
    pub otherwise: Otherwise,
    /// Its CPUs may be slowed down.
    pub throttle: bool,
}

/// What becomes of a precopy that does not converge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Otherwise {
    /// The guest moves, and stands still for longer.
    SwitchOver,
    /// It stays.
    GiveUp,
}

/// How a round went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Round {
    /// Bytes that it brought over, packed or not.
    pub carried_len: u64,
    /// How long that took.
    pub took: Duration,
    /// Bytes of pages that are owed now.
    pub owed_len: u64,
    /// How long the switchover takes besides, as far as is known.
    pub overhead: Duration,
}

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Another round.
    NextRound,
    /// Another round, with CPUs that lose so many percent of their time.
    Throttle(u8),
    /// It is good enough.
    SwitchOver,
    /// It never will be.
    GiveUp(String),
}

/// The state of a precopy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Convergence {
    limits: Limits,
    throttled: u8,
    /// What was owed a round ago.
    owed_len: u64,
}

/// By how much CPUs are slowed down at a time, and at most.
const THROTTLE_STEP: u8 = 20;
const THROTTLE_MAX: u8 = 99;

impl Round {
    /// How long the guest would stand still if it were paused now.
    pub fn downtime(&self) -> Duration {
        // A round without bytes says nothing about the rate: what is owed is assumed to take as long as that round did.
        let nanos = u128::from(self.owed_len).saturating_mul(self.took.as_nanos())
            / u128::from(self.carried_len.max(1));
        let pages = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        pages.saturating_add(self.overhead)
    }
}

impl Convergence {
    /// Before the first round.
    pub const fn new(limits: Limits) -> Self {
        Self { limits, throttled: 0, owed_len: u64::MAX }
    }

    /// What comes after a round, the `count`-th.
    pub fn after(&mut self, count: u32, round: Round) -> Decision {
        let estimate = round.downtime();
        if estimate <= self.limits.downtime {
            return Decision::SwitchOver;
        }
        if count >= self.limits.rounds_max {
            return match self.limits.otherwise {
                Otherwise::SwitchOver => Decision::SwitchOver,
                Otherwise::GiveUp => Decision::GiveUp(format!(
                    "after {count} rounds the guest would stand still for {} ms, {} ms are allowed: it dirties {} MiB in the time \
                     that {} MiB are sent; allow more by --downtime-limit, {}, or move it paused",
                    estimate.as_millis(),
                    self.limits.downtime.as_millis(),
                    round.owed_len >> 20,
                    round.carried_len >> 20,
                    if self.limits.throttle {
                        "more rounds by --max-rounds"
                    } else {
                        "slow it down by --throttle"
                    },
                )),
            };
        }
        let shrinks = round.owed_len < self.owed_len / 4 * 3;
        self.owed_len = round.owed_len;
        if shrinks || !self.limits.throttle || self.throttled >= THROTTLE_MAX {
            return Decision::NextRound;
        }
        self.throttled = self.throttled.saturating_add(THROTTLE_STEP).min(THROTTLE_MAX);
        Decision::Throttle(self.throttled)
    }
}

#[cfg(test)]
mod tests;
