// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a job does: fetches commands, executes them, and posts their completions.
//!
//! An I/O command that would block is deferred, a job of its own. A command of the admin queue is executed in one step
//! with its completion. Where the host is gone, nothing fails: the next life executes again what has no completion.

use std::sync::PoisonError;
use std::time::Instant;

use zerocopy::FromBytes;

use super::batch::{self, Batch};
use super::{Deferred, Engine, Host, Shared, Task};
use crate::controller::{AdminOutcome, BATCH_MAX, Job, Outcome, Ticket};
use crate::dma::HostMemory;
use crate::io::{Buffer, Executed, Io};
use crate::journal::Slot;
use crate::prp;
use crate::queue::Posting;
use crate::spec::command::{COMMAND_LEN, Command};
use crate::spec::status::Status;

/// The raw commands of one job.
const BATCH_LEN_MAX: usize = BATCH_MAX as usize * COMMAND_LEN;

/// An executed command.
pub(super) struct Done {
    pub cid: u16,
    pub slot: Option<Slot>,
    pub executed: Executed,
}

impl Engine {
    /// `helps`: called by the helping thread, which will soon call again.
    pub(super) fn execute(&self, job: Job, buffer: &mut Buffer, helps: bool) -> Ticket {
        let host = self.host.read().unwrap_or_else(PoisonError::into_inner).clone();
        match job {
            Job::Fetch { ticket, iova, count: _ } if ticket.sqid == 0 => {
                host.raise_posted(self.fetch_admin(&host, ticket, iova));
                ticket
            }
            Job::Fetch { ticket, iova, count } => {
                self.fetch(&host, ticket, iova, count, buffer);
                ticket
            }
            Job::Post { ticket, posting } => {
                host.raise_posted(self.post(&host, ticket, &[posting]));
                ticket
            }
            Job::Look { ticket, watched } => {
                self.look(&host, ticket, watched, helps);
                ticket
            }
            Job::Shutdown { ticket } => {
                let flushed = self.media.flush().is_ok();
                self.with(|controller| controller.shut_down(ticket, flushed));
                ticket
            }
        }
    }

    fn fetch(&self, host: &Host, ticket: Ticket, iova: u64, count: u32, buffer: &mut Buffer) {
        let mut bytes = [0; BATCH_LEN_MAX];
        let bytes = bytes.get_mut(..usize::try_from(count).unwrap_or(0) * COMMAND_LEN).unwrap_or_default();
        let readable = host.memory.read(iova, bytes).is_ok();
        let since = Instant::now();
        let commands = <[Command]>::ref_from_bytes(bytes).unwrap_or_default();
        let (mut batch, slots) = {
            let mut shared = self.lock();
            if !readable && shared.has_lost(host) {
                return;
            }
            let first = shared.controller.fetched_count(ticket.sqid);
            let is_ours = shared.controller.fetched(ticket, count, readable);
            let slots = if is_ours { shared.add(ticket.sqid, first, commands) } else { Vec::new() };
            if !is_ours {
                return self.unlock(shared);
            }
            let (write_cache, may_write) = (shared.controller.write_cache(), shared.pace.may_write(since));
            // Now another thread may fetch the entries after them.
            self.unlock(shared);
            (Batch::new(self, host, ticket, write_cache, may_write, since), slots)
        };
        for (command, slot) in commands.iter().zip(slots) {
            batch.io(command, slot, buffer);
        }
        let span = batch.end().saturating_duration_since(since);
        self.lock().pace.took(span, count);
    }

    /// Reads a command of the admin queue and executes it in one step: what it changes, that it is fetched and its
    /// completion are kept together. Returns the vector to raise.
    fn fetch_admin(&self, host: &Host, ticket: Ticket, iova: u64) -> Option<u16> {
        let mut bytes = [0; COMMAND_LEN];
        let readable = host.memory.read(iova, &mut bytes).is_ok();
        let command: Command = zerocopy::transmute!(bytes);
        let mut shared = self.lock();
        if !shared.controller.is_current(ticket) || !readable && shared.has_lost(host) {
            return None;
        }
        if !readable {
            shared.controller.fetched(ticket, 1, false);
            self.unlock(shared);
            return None;
        }
        let outcome = match shared.controller.admin(&command) {
            AdminOutcome::Held => {
                shared.controller.take_admin(ticket);
                self.unlock(shared);
                return None;
            }
            AdminOutcome::Done(outcome) => outcome,
            AdminOutcome::Data(data) => {
                self.unlock(shared);
                let moved = to_host(&*host.memory, &command, &data);
                shared = self.lock();
                if moved.is_err() && shared.has_lost(host) {
                    return None;
                }
                Outcome::of(moved.err().unwrap_or(Status::SUCCESS))
            }
        };
        if !shared.controller.take_admin(ticket) {
            return None;
        }
        let outcome = Outcome { nsid: command.nsid.get(), ..outcome };
        let posting = shared.controller.complete(ticket, command.cid.get(), &outcome, None);
        self.unlock(shared);
        self.post(host, ticket, posting.as_slice())
    }

    pub(super) fn defer(&self, deferred: Deferred) {
        let mut shared = self.lock();
        shared.controller.split(deferred.ticket);
        shared.deferred.push_back(Task::Command(deferred));
        self.unlock(shared);
    }

    pub(super) fn execute_deferred(&self, task: &Task, buffer: &mut Buffer) -> Ticket {
        let host = self.host.read().unwrap_or_else(PoisonError::into_inner).clone();
        let (ticket, vector) = match task {
            Task::Command(deferred) => (deferred.ticket, self.io(&host, deferred, buffer)),
            Task::Post(ticket, posting) => (*ticket, self.post(&host, *ticket, &[*posting])),
        };
        host.raise_posted(vector);
        ticket
    }

    /// Executes a command; may block.
    pub(super) fn io(&self, host: &Host, deferred: &Deferred, buffer: &mut Buffer) -> Option<u16> {
        let Deferred { ticket, command, slot, write_cache } = *deferred;
        let (identity, media, memory) = (&self.identity, &*self.media, &*host.memory);
        let since = Instant::now();
        let executed = Io { identity, media, memory, write_cache, buffer }.execute(&command);
        self.took(since.elapsed());
        let done = Done { cid: command.cid.get(), slot, executed };
        self.post(host, ticket, &self.complete(host, ticket, [done]))
    }

    /// Assigns Completion Queue slots; completions without one are held back.
    pub(super) fn complete(
        &self,
        host: &Host,
        ticket: Ticket,
        done: impl IntoIterator<Item = Done>,
    ) -> Vec<Posting> {
        let mut shared = self.lock();
        let mut postings = Vec::new();
        for Done { cid, slot, executed: Executed { outcome, media_failed } } in done {
            if !outcome.status.is_success() && shared.has_lost(host) {
                // It did not fail: its next life executes it again.
                continue;
            }
            let Shared { controller, journal, .. } = &mut *shared;
            if media_failed {
                controller.count_media_error();
            }
            let posting = controller.complete(ticket, cid, &outcome, slot);
            if let (Some(posting), Some(journal)) = (&posting, journal) {
                journal.assign(posting);
            }
            postings.extend(posting);
        }
        shared.keep();
        postings
    }

    /// Writes consecutive completions; returns the vector to raise, which is that of their queue.
    pub(super) fn post(&self, host: &Host, ticket: Ticket, postings: &[Posting]) -> Option<u16> {
        let Posting { iova, vector, .. } = *postings.first()?;
        let published = host.memory.publish(iova, &batch::entries(postings));
        let mut shared = self.lock();
        if published.is_err() && !shared.has_lost(host) {
            shared.controller.post_failed(ticket);
        }
        if published.is_ok() {
            for posting in postings {
                shared.controller.posted(posting);
                let slot = posting.slot;
                shared.journal.iter_mut().for_each(|journal| journal.free(slot));
            }
        }
        self.unlock(shared);
        published.ok().and(vector)
    }
}

/// Copies an admin command's data to host memory.
fn to_host(memory: &dyn HostMemory, command: &Command, data: &[u8]) -> Result<(), Status> {
    let mut rest = data;
    for segment in &*prp::segments(memory, command.prp1.get(), command.prp2.get(), data.len())? {
        let Some((piece, behind)) = rest.split_at_checked(segment.len) else { break };
        memory.write(segment.iova, piece).map_err(|_| Status::DATA_TRANSFER_ERROR)?;
        rest = behind;
    }
    Ok(())
}
