// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The commands of one job, in order: executed here, or left to the workers; completions of quick ones are told together.
//!
//! Telling one costs the controller, a look at what is mapped, and a cache line that the host polls and takes away each
//! time. And a host that is told of several at once brings as many new ones at once, which saves the same again; told one
//! by one it brings them one by one, and a quick device then waits for its host between them. So a completion may wait for
//! [`TOLD_TOGETHER`] short reads from the page cache, or for writes as long as [`TELL_AFTER`].

use std::time::{Duration, Instant};

use ipc::shm::file_io;

use super::{Deferred, Engine, Host, pace};
use crate::controller::{Moved, Ticket};
use crate::io::{Buffer, Executed, Io};
use crate::queue::Posting;
use crate::spec::command::Command;
use crate::spec::completion::COMPLETION_LEN;

/// The most completions that are told together: half a job, so that the host has something to do meanwhile.
const TOLD_TOGETHER: usize = 8;

/// A completion of more than this waits for no other command.
const SHORT_LEN: u64 = 16 << 10;

/// How long the completions of writes may wait for the next one, which may take long.
const TELL_AFTER: Duration = Duration::from_micros(10);

/// A completion waits at most this long for those behind it before it is announced: the time that announcing one takes.
const ANNOUNCE_AFTER: Duration = Duration::from_micros(20);

pub(super) struct Batch<'a> {
    engine: &'a Engine,
    host: &'a Host,
    ticket: Ticket,
    write_cache: bool,
    /// Writes that are expected not to wait are made here.
    may_write: bool,
    /// How often this thread had waited before its first write.
    waits: Option<u64>,
    /// When the clock was looked at last.
    now: Instant,
    /// Executed and not told.
    done: Vec<(u16, Executed)>,
    /// When all was told that was to tell.
    told_at: Instant,
    /// Told and not announced: the vector, and since when.
    unannounced: Option<u16>,
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
        let (waits, unannounced, done) = (None, None, Vec::new());
        let (told_at, since) = (now, now);
        Self { engine, host, ticket, write_cache, may_write, waits, now, done, told_at, unannounced, since }
    }

    pub fn admin(&mut self, command: &Command) {
        let vector = self.engine.admin(self.host, self.ticket, command);
        self.told(vector);
    }

    /// Executes a command, or leaves it to a worker if it has to be waited for and this thread may have better to do.
    pub fn io(&mut self, command: &Command, buffer: &mut Buffer) {
        let Self { engine, host, ticket, write_cache, .. } = *self;
        let deferred = Deferred { ticket, command: *command, write_cache };
        if !engine.is_helped() {
            let vector = engine.io(host, &deferred, buffer);
            self.told(vector);
            self.now = Instant::now();
            return self.announce_late();
        }
        let (identity, media, memory) = (&engine.identity, &*engine.media, &*host.memory);
        let mut io = Io { identity, media, memory, write_cache, buffer };
        let writes = self.may_write && io.is_cached_write(command);
        let executed = if writes {
            if self.waits.is_none() {
                self.waits = file_io::waits().ok();
                // Reads do not wait for a write.
                self.tell();
            }
            Some(io.execute(command))
        } else {
            io.execute_at_once(command)
        };
        let Some(executed) = executed else { return engine.defer(deferred) };
        let Moved { read, written } = executed.outcome.moved;
        let len = identity.bytes(read.max(written).into());
        self.done.push((command.cid.get(), executed));
        if writes {
            self.look_whether_it_waited(len);
        }
        let is_long = len > SHORT_LEN || self.now.saturating_duration_since(self.told_at) > TELL_AFTER;
        if is_long || self.done.len() >= TOLD_TOGETHER {
            self.tell();
            self.now = Instant::now();
            self.told_at = self.now;
            self.announce_late();
        }
    }

    /// Whoever has waited for a write leaves the next ones to others.
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

    /// The completions of what is done.
    fn tell(&mut self) {
        if self.done.is_empty() {
            return;
        }
        let postings = self.engine.complete(self.ticket, self.done.drain(..));
        let mut rest = &postings[..];
        while let Some(first) = rest.first() {
            let places = (0..).step_by(COMPLETION_LEN).map(|offset| first.iova.wrapping_add(offset));
            let count = rest.iter().zip(places).take_while(|(posting, place)| posting.iova == *place).count();
            let (run, behind) = rest.split_at(count);
            let vector = self.engine.post(self.host, self.ticket, run);
            self.told(vector);
            rest = behind;
        }
    }

    fn told(&mut self, vector: Option<u16>) {
        if self.unannounced != vector {
            self.announce();
            self.unannounced = vector;
        }
    }

    fn announce_late(&mut self) {
        if self.unannounced.is_some() && self.now.saturating_duration_since(self.since) > ANNOUNCE_AFTER {
            self.announce();
        }
    }

    fn announce(&mut self) {
        self.engine.announce(self.host, self.unannounced.take());
        self.since = self.now;
    }

    /// Tells and announces the rest. Returns when that was.
    pub fn end(mut self) -> Instant {
        self.tell();
        self.announce();
        Instant::now()
    }
}

/// The entries of postings.
pub(super) fn entries(postings: &[Posting]) -> Vec<[u8; COMPLETION_LEN]> {
    postings.iter().map(|posting| posting.entry).collect()
}
