// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Jobs: the units of work for the engine, and the controller's state changes when one is done.
//!
//! Held-back completions go first, then commands of the admin queue, then those of the others in turn, and a shutdown
//! when no job is in flight any more. A result of an old epoch is dropped; only the count of jobs in flight changes.

use super::{Controller, Outcome, Watched, get, get_mut, set};
use crate::journal::Slot;
use crate::queue::{Completed, Posting, QUEUES_MAX, SubmissionQueue, entry_address};
use crate::spec::command::COMMAND_LEN;
use crate::spec::registers::SHST_COMPLETE;
use crate::spec::status::Status;

/// The most commands that one job fetches: enough to amortise its overhead.
pub const BATCH_MAX: u32 = 16;

/// Identifies the epoch and queue of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The Submission Queue.
    pub sqid: u16,
    pub(super) epoch: u64,
}

/// Work that needs DMA or the medium.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Job {
    /// Read `count` commands at `iova`, call [`Controller::fetched`], execute them.
    Fetch {
        /// To be passed to the completing call.
        ticket: Ticket,
        /// Where the commands are.
        iova: u64,
        /// How many.
        count: u32,
    },
    /// Write a completion that was held back.
    Post {
        /// To be passed to the completing call.
        ticket: Ticket,
        /// The completion.
        posting: Posting,
    },
    /// Poll shadow doorbells, then call [`Controller::looked`].
    Look {
        /// To be passed to the completing call.
        ticket: Ticket,
        /// The doorbells to poll.
        watched: Vec<Watched>,
    },
    /// Flush the medium, then call [`Controller::shut_down`].
    Shutdown {
        /// To be passed to the completing call.
        ticket: Ticket,
    },
}

/// The ticket of a job that has no Submission Queue.
pub(super) const NO_QUEUE: u16 = u16::MAX;

impl Controller {
    /// Whether [`Controller::next_job`] would give one.
    #[must_use]
    pub fn has_job(&self) -> bool {
        self.can_work()
            && (self.shutdown_wanted
                || self.can_look()
                || self.completion.iter().flatten().any(|cq| !cq.held.is_empty() && !cq.is_full())
                || self.submission.iter().flatten().any(|sq| self.can_fetch(sq)))
    }

    fn can_work(&self) -> bool {
        let csts = self.registers.csts;
        !self.paused && !self.resetting && !csts.cfs() && (csts.rdy() || self.shutdown_wanted)
    }

    fn can_fetch(&self, sq: &SubmissionQueue) -> bool {
        let room = get(&self.completion, sq.cqid).is_some_and(|cq| cq.held.is_empty());
        room && !sq.fetching && sq.deletion.is_none() && sq.waiting() > 0 && self.registers.cc.shn() == 0
    }

    /// Takes the next job: at most `batch` consecutive commands, or none of the I/O queues.
    pub fn next_job(&mut self, batch: u32) -> Option<Job> {
        if !self.can_work() {
            return None;
        }
        let job = self.release_job().or_else(|| self.fetch_job(batch));
        let job = job.or_else(|| self.look_job()).or_else(|| self.shutdown_job())?;
        self.in_flight += 1;
        Some(job)
    }

    fn release_job(&mut self) -> Option<Job> {
        let (submission, epoch) = (&self.submission, self.epoch);
        let head = |sqid| get(submission, sqid).map_or(0, |sq| sq.head);
        let mut queues = (0..).zip(&mut self.completion);
        let (cqid, posting) = queues.find_map(|(cqid, cq)| Some((cqid, cq.as_mut()?.release(head)?)))?;
        self.assigned(cqid, &posting);
        Some(Job::Post { ticket: Ticket { sqid: NO_QUEUE, epoch }, posting })
    }

    /// Commands of the admin queue first, then of the others in turn.
    fn fetch_job(&mut self, batch: u32) -> Option<Job> {
        let first = self.last_served % QUEUES_MAX;
        let turn = (0..QUEUES_MAX).map(|step| (first + step) % QUEUES_MAX + 1);
        let ready = |sqid: &u16| {
            let has_room = *sqid == 0 || batch > 0;
            has_room && get(&self.submission, *sqid).is_some_and(|sq| self.can_fetch(sq))
        };
        let sqid = core::iter::once(0).chain(turn).find(ready)?;
        let epoch = self.epoch;
        let sq = get_mut(&mut self.submission, sqid)?;
        // Each command of the admin queue is a step of its own for the next life.
        let batch = if sqid == 0 { 1 } else { batch };
        let count = sq.contiguous().min(batch.clamp(1, BATCH_MAX));
        sq.fetching = true;
        sq.jobs += 1;
        let iova = entry_address(sq.base, sq.head, COMMAND_LEN);
        if sqid != 0 {
            self.last_served = sqid;
        }
        Some(Job::Fetch { ticket: Ticket { sqid, epoch }, iova, count })
    }

    fn shutdown_job(&mut self) -> Option<Job> {
        // A shutdown comes after all commands submitted before it.
        if !self.shutdown_wanted || self.in_flight > 0 {
            return None;
        }
        self.shutdown_wanted = false;
        self.unkept.control = true;
        Some(Job::Shutdown { ticket: Ticket { sqid: NO_QUEUE, epoch: self.epoch } })
    }

    /// The entries of a fetch were read, or could not be. Returns whether the commands are to be executed. Those of the
    /// admin queue have been, by [`Controller::take_admin`].
    pub fn fetched(&mut self, ticket: Ticket, count: u32, readable: bool) -> bool {
        if ticket.epoch != self.epoch {
            return false;
        }
        if !readable {
            self.fail();
            return false;
        }
        let Some(sq) = get_mut(&mut self.submission, ticket.sqid) else { return false };
        sq.fetching = false;
        sq.advance(count);
        true
    }

    /// The command of the admin queue that was read has been executed: it is fetched. False: there was a reset.
    pub fn take_admin(&mut self, ticket: Ticket) -> bool {
        self.unkept.control = true;
        self.fetched(ticket, 1, true)
    }

    /// A command is done. Returns the completion to write, if the queue has room now.
    pub fn complete(
        &mut self,
        ticket: Ticket,
        cid: u16,
        outcome: &Outcome,
        slot: Option<Slot>,
    ) -> Option<Posting> {
        if ticket.epoch != self.epoch {
            return None;
        }
        self.counters.moved(outcome.moved, self.identity.block_shift);
        if !outcome.status.is_success() {
            self.errors.add(ticket.sqid, cid, outcome);
            self.unkept.control = true;
        }
        let completed = Completed { dw0: outcome.dw0, sqid: ticket.sqid, cid, status: outcome.status, slot };
        let sq = get(&self.submission, ticket.sqid)?;
        let (cqid, head) = (sq.cqid, sq.head);
        let posting = get_mut(&mut self.completion, cqid)?.place(completed, head);
        posting.iter().for_each(|posting| self.assigned(cqid, posting));
        posting
    }

    /// Splits a command off as a job of its own, to be finished separately.
    pub fn split(&mut self, ticket: Ticket) {
        self.in_flight += 1;
        if ticket.epoch == self.epoch
            && let Some(sq) = get_mut(&mut self.submission, ticket.sqid)
        {
            sq.jobs += 1;
        }
    }

    /// A completion could not be written.
    pub fn post_failed(&mut self, ticket: Ticket) {
        if ticket.epoch == self.epoch {
            self.fail();
        }
    }

    /// The medium was flushed for a shutdown.
    pub fn shut_down(&mut self, ticket: Ticket, flushed: bool) {
        if ticket.epoch != self.epoch {
            return;
        }
        self.unkept.control = true;
        if flushed {
            self.registers.csts.set_shst(SHST_COMPLETE);
        } else {
            self.fail();
        }
    }

    /// A job has ended: it does no DMA any more.
    pub fn finish(&mut self, ticket: Ticket) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if ticket.epoch == self.epoch {
            let mut deleted = None;
            if let Some(sq) = get_mut(&mut self.submission, ticket.sqid) {
                sq.jobs = sq.jobs.saturating_sub(1);
                deleted = sq.deletion.filter(|_| sq.jobs == 0);
            }
            if let Some(cid) = deleted {
                self.delete_submission_queue(ticket.sqid, cid);
            }
        }
        self.end_reset_if_idle();
    }

    pub(super) fn delete_submission_queue(&mut self, sqid: u16, cid: u16) {
        set(&mut self.submission, sqid, None);
        self.hold_admin(cid, Status::SUCCESS, 0);
    }
}
