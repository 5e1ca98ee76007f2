// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Whether a process makes progress: a question in every beat, and what became of the one before. No I/O and no clock.
//!
//! The control thread answers ([`Request::Heartbeat`](ipc::protocol::control::Request::Heartbeat)), with the number of
//! turns that the ring thread has taken, which is woken for another one by each question. So an answer says that the
//! one thread makes progress, and a number that has grown says it of the other: a thread that is stopped, waits for
//! ever or runs in circles shows, whether the guest waits for it at the moment or not. Questions are not asked while a
//! request is open: the control thread is at work then, and the request has a deadline of its own.
//!
//! What counts are beats, [`BEATS`] in a deadline, and not time: a beat that comes late says that the coordinator did
//! not run itself, and everything is counted anew.

use std::time::Duration;

use ipc::hello::Role;
use ipc::protocol::budget;
use tokio::time::Instant;

use crate::coordinator::own_time::LATE;

/// How many beats a deadline has. In the first one the process may have answered yet.
const BEATS: u32 = 5;

/// The heartbeat of one process.
#[derive(Debug)]
pub struct Heartbeat {
    interval: Duration,
    /// When the next beat is due.
    due: Instant,
    /// A question is not answered yet.
    is_open: bool,
    /// Beats in a row at which the question was still open.
    missed: u32,
    /// Turns of the ring thread by the last answer.
    turns: Option<u64>,
    /// Answers in a row with that number.
    stalled: u32,
    /// How many of these the ring thread may need for one access.
    stalled_max: u32,
    deadline: Duration,
}

/// What a beat is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beat {
    /// The process is asked.
    Ask,
    /// It is not asked.
    Rest,
    /// It hangs.
    Hung(Hang),
}

/// How a process hangs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Hang {
    /// Its control thread does not answer.
    #[error("it hangs: it is stopped or busy, and has answered no heartbeat for {} s", .0.as_secs_f32())]
    Silent(Duration),
    /// Its ring thread does not make progress.
    #[error("it hangs: it answers heartbeats, but its ring thread has made no progress for {} s", .0.as_secs_f32())]
    Stalled(Duration),
}

impl Heartbeat {
    /// Of a process of this role, which is to make progress within `deadline`.
    pub fn new(role: Role, deadline: Duration, now: Instant) -> Self {
        let interval = deadline / BEATS;
        let access = budget::turn(role).as_millis().div_ceil(interval.as_millis().max(1));
        Self {
            interval,
            due: now + interval,
            is_open: false,
            missed: 0,
            turns: None,
            stalled: 0,
            stalled_max: u32::try_from(access).unwrap_or(u32::MAX).saturating_add(BEATS - 1),
            deadline,
        }
    }

    /// When the next beat is due.
    pub const fn due(&self) -> Instant {
        self.due
    }

    /// A beat, which was due and is made now. `is_busy`: a request is open.
    pub fn beat(&mut self, now: Instant, is_busy: bool) -> Beat {
        let is_late = now.saturating_duration_since(self.due) > LATE;
        self.due = now + self.interval;
        if is_late || is_busy {
            self.begin_anew();
        }
        if self.is_open {
            self.missed = self.missed.saturating_add(u32::from(!is_late && !is_busy));
            return if self.missed < BEATS - 1 {
                Beat::Rest
            } else {
                Beat::Hung(Hang::Silent(self.deadline))
            };
        }
        if is_busy {
            return Beat::Rest;
        }
        self.is_open = true;
        Beat::Ask
    }

    /// The question was answered.
    ///
    /// # Errors
    /// If the ring thread hangs.
    pub fn answered(&mut self, turns: Option<u64>) -> Result<(), Hang> {
        self.is_open = false;
        self.missed = 0;
        let is_stalled = turns.is_some() && turns == self.turns;
        self.turns = turns;
        self.stalled = if is_stalled { self.stalled.saturating_add(1) } else { 0 };
        if self.stalled < self.stalled_max {
            return Ok(());
        }
        Err(Hang::Stalled(self.interval * self.stalled.saturating_add(1)))
    }

    const fn begin_anew(&mut self) {
        (self.missed, self.turns, self.stalled) = (0, None, 0);
    }
}

#[cfg(test)]
mod tests;
