// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The commands of one job, in order: executed here or deferred to workers; completions of quick ones are posted in
//! batches.
//!
//! Posting costs the controller's lock, a lookup of windows, and a cache line that bounces to the polling host. And a
//! host that sees several completions at once submits as many commands at once, which saves the same again; seeing
//! them one by one it submits one by one, and a quick device waits for its host in between. So a completion may wait
//! for [`POSTED_TOGETHER`] short reads from the page cache, or for writes as long as [`POST_AFTER`].

use std::time::{Duration, Instant};

use ipc::shm::file_io;

use super::jobs::Done;
use super::{Deferred, Engine, Host, pace};
use crate::controller::{Moved, Ticket};
use crate::io::{Buffer, Io};
use crate::journal::Slot;
use crate::queue::Posting;
use crate::spec::command::Command;
use crate::spec::completion::COMPLETION_LEN;

/// The most completions posted together: half a job, so that the host has work meanwhile.
const POSTED_TOGETHER: usize = 8;

/// A completion of a longer command is posted at once.
const SHORT_LEN: u64 = 16 << 10;

/// How long completions may wait for a write, which may take long.
const POST_AFTER: Duration = Duration::from_micros(10);

/// Delay of an interrupt to cover further completions: the time that raising one takes.
const RAISE_AFTER: Duration = Duration::from_micros(20);

pub(super) struct Batch<'a> {
    engine: &'a Engine,
    host: &'a Host,
    ticket: Ticket,
    write_cache: bool,
    /// Writes that are expected not to block are made here.
    may_write: bool,
    /// This thread's voluntary context switches before its first write.
    waits: Option<u64>,
    /// When the clock was read last.
    now: Instant,
    /// Executed and not posted.
    done: Vec<Done>,
    /// When the last completion was posted.
    posted_at: Instant,
    /// Posted and no interrupt raised: the vector, and since when.
    unraised: Option<u16>,
    since: Instant,
}

impl<'a> Batch<'a> {
    pub fn new(
        engine: &'a Engine,
        host: &'a Host,
        ticket: Ticket,
        write_cache: bool,
        may_write: bool,
        now: Instant,
    ) -> Self {
        let (waits, unraised, done) = (None, None, Vec::new());
        let (posted_at, since) = (now, now);
        Self { engine, host, ticket, write_cache, may_write, waits, now, done, posted_at, unraised, since }
    }

    /// Executes a command, or defers it to a worker if it blocks and this thread is the helping one.
    pub fn io(&mut self, command: &Command, slot: Option<Slot>, buffer: &mut Buffer) {
        let Self { engine, host, ticket, write_cache, .. } = *self;
        let deferred = Deferred { ticket, command: *command, slot, write_cache };
        if !engine.is_helped() {
            let vector = engine.io(host, &deferred, buffer);
            self.posted(vector);
            self.now = Instant::now();
            return self.raise_late();
        }
        let (identity, media, memory) = (&engine.identity, &*engine.media, &*host.memory);
        let mut io = Io { identity, media, memory, write_cache, buffer };
        let writes = self.may_write && io.is_cached_write(command);
        let executed = if writes {
            if self.waits.is_none() {
                self.waits = file_io::waits().ok();
                // Reads are not held up behind a write.
                self.post();
            }
            Some(io.execute(command))
        } else {
            io.execute_at_once(command)
        };
        let Some(executed) = executed else { return engine.defer(deferred) };
        let Moved { read, written } = executed.outcome.moved;
        let len = identity.bytes(read.max(written).into());
        self.done.push(Done { cid: command.cid.get(), slot, executed });
        if writes {
            self.look_whether_it_waited(len);
        }
        let is_long = len > SHORT_LEN || self.now.saturating_duration_since(self.posted_at) > POST_AFTER;
        if is_long || self.done.len() >= POSTED_TOGETHER {
            self.post();
            self.now = Instant::now();
            self.posted_at = self.now;
            self.raise_late();
        }
    }

    /// A thread that blocked on a write defers the next ones.
    fn look_whether_it_waited(&mut self, len: u64) {
        let now = Instant::now();
        let span = now.saturating_duration_since(std::mem::replace(&mut self.now, now));
        if !pace::is_long(span, len) {
            return;
        }
        let waits = file_io::waits().ok();
        if waits != self.waits || waits.is_none() {
            self.may_write = false;
            self.engine.lock().pace.waited(now, span);
        }
    }

    /// The completions of executed commands.
    fn post(&mut self) {
        if self.done.is_empty() {
            return;
        }
        let postings = self.engine.complete(self.host, self.ticket, self.done.drain(..));
        let mut rest = &postings[..];
        while let Some(first) = rest.first() {
            let places = (0..).step_by(COMPLETION_LEN).map(|offset| first.iova.wrapping_add(offset));
            let count = rest.iter().zip(places).take_while(|(posting, place)| posting.iova == *place).count();
            let (run, behind) = rest.split_at(count);
            let vector = self.engine.post(self.host, self.ticket, run);
            self.posted(vector);
            rest = behind;
        }
    }

    fn posted(&mut self, vector: Option<u16>) {
        if self.unraised != vector {
            self.raise();
            self.unraised = vector;
        }
    }

    fn raise_late(&mut self) {
        if self.unraised.is_some() && self.now.saturating_duration_since(self.since) > RAISE_AFTER {
            self.raise();
        }
    }

    fn raise(&mut self) {
        self.host.raise_posted(self.unraised.take());
        self.since = self.now;
    }

    /// Posts the rest and raises the interrupt. Returns when that was.
    pub fn end(mut self) -> Instant {
        self.post();
        self.raise();
        Instant::now()
    }
}

/// The entries of postings.
pub(super) fn entries(postings: &[Posting]) -> Vec<[u8; COMPLETION_LEN]> {
    postings.iter().map(|posting| posting.entry).collect()
}
