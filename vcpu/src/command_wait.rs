// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How long the commands of a guest have waited in its SMMU's queue: no thread, and no clock of its own.
//!
//! One look remembers what waits; the commands of that look are consumed at a later one, or have waited for the time
//! between. A command that comes in between is remembered when they are consumed at the latest, and has waited as long
//! as they then: none waits longer than twice [`WAIT_MAX`] before it is overdue.

use std::time::Duration;

use ipc::shm::command_queue::Waiting;

/// When commands are overdue. Twice that is half of what drivers wait for a CMD_SYNC (Linux: 1 s); an SMMU on a busy
/// host answers in milliseconds.
pub const WAIT_MAX: Duration = Duration::from_millis(250);

/// The commands that were seen first of those that wait.
#[derive(Debug, Default)]
pub struct CommandWait {
    oldest: Option<Waiting>,
    waited: Duration,
}

/// What a look has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Nothing waits.
    Idle,
    /// Others wait than at the look before: their time begins.
    Begun,
    /// The same ones wait.
    Waiting,
    /// They have waited for too long.
    Overdue,
}

impl CommandWait {
    /// Whether the last look has shown nothing.
    pub const fn is_idle(&self) -> bool {
        self.oldest.is_none()
    }

    /// What waits now, `elapsed` after the look before.
    pub fn look(&mut self, now: Option<Waiting>, elapsed: Duration) -> Look {
        let same = self.oldest.zip(now).is_some_and(|(oldest, now)| !oldest.are_consumed_at(&now));
        if same {
            self.waited = self.waited.saturating_add(elapsed);
            return if self.waited < WAIT_MAX { Look::Waiting } else { Look::Overdue };
        }
        (self.oldest, self.waited) = (now, Duration::ZERO);
        if now.is_some() { Look::Begun } else { Look::Idle }
    }
}

#[cfg(test)]
mod tests;
