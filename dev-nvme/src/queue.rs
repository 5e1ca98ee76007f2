// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Submission and Completion Queues: indices, and what must not overtake what. NVMe 1.4 section 4.1.
//!
//! A Submission Queue is fetched by one job at a time, and its head moves only once the entries have been read: the
//! head is told to the host, which then overwrites them. A Completion Queue that is full holds completions back;
//! its Submission Queues are not fetched from until it has room, so what is held is bounded by what is in flight.

use std::collections::VecDeque;

use crate::spec::completion::{COMPLETION_LEN, Completion};
use crate::spec::status::Status;

/// The most entries of a queue: `CAP.MQES` + 1.
pub const ENTRIES_MAX: u32 = 1024;

/// The largest identifier of an I/O queue.
pub const QUEUES_MAX: u16 = 16;

/// Commands flow in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubmissionQueue {
    /// Where it is.
    pub base: u64,
    /// Entries.
    pub size: u32,
    /// The next entry to fetch.
    pub head: u32,
    /// One behind the last entry that the host has put in.
    pub tail: u32,
    /// The tail as it was last seen in the host's memory, where the host keeps it there.
    pub seen: u32,
    /// Where completions go.
    pub cqid: u16,
    /// A job is reading entries.
    pub fetching: bool,
    /// Jobs that have commands of it.
    pub jobs: u32,
    /// It is being deleted by the admin command of this identifier.
    pub deletion: Option<u16>,
}

impl SubmissionQueue {
    /// An empty one.
    #[must_use]
    pub const fn new(base: u64, size: u32, cqid: u16) -> Self {
        Self { base, size, head: 0, tail: 0, seen: 0, cqid, fetching: false, jobs: 0, deletion: None }
    }

    /// Entries to fetch.
    #[must_use]
    pub const fn waiting(&self) -> u32 {
        if self.tail >= self.head { self.tail - self.head } else { self.tail + self.size - self.head }
    }

    /// Entries that can be fetched at once: those up to the tail or the end of the queue.
    #[must_use]
    pub fn contiguous(&self) -> u32 {
        self.waiting().min(self.size - self.head)
    }

    /// Moves the head over entries that were read.
    pub const fn advance(&mut self, count: u32) {
        self.head = (self.head + count) % self.size;
    }
}

/// A completion that has no place yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completed {
    /// What the command returns.
    pub dw0: u32,
    /// Which Submission Queue it came from.
    pub sqid: u16,
    /// Which command.
    pub cid: u16,
    /// How it went.
    pub status: Status,
}

/// Completions flow out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompletionQueue {
    /// Where it is.
    pub base: u64,
    /// Entries.
    pub size: u32,
    /// The next entry that the host looks at.
    pub head: u32,
    /// The head as it was last seen in the host's memory, where the host keeps it there.
    pub seen: u32,
    /// The next entry to write.
    pub tail: u32,
    /// The phase tag of the entries of this round.
    pub phase: bool,
    /// Which interrupt, if any.
    pub vector: Option<u16>,
    /// Completions held back because the queue is full.
    pub held: VecDeque<Completed>,
}

/// A completion with its place: to be written, then announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Posting {
    /// Where it goes.
    pub iova: u64,
    /// The entry.
    pub entry: [u8; COMPLETION_LEN],
    /// What to raise afterwards.
    pub vector: Option<u16>,
}

impl CompletionQueue {
    /// An empty one.
    #[must_use]
    pub const fn new(base: u64, size: u32, vector: Option<u16>) -> Self {
        Self { base, size, head: 0, seen: 0, tail: 0, phase: true, vector, held: VecDeque::new() }
    }

    /// Whether not one more entry fits.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        (self.tail + 1) % self.size == self.head
    }

    /// Whether the host has yet to look at an entry.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.tail == self.head
    }

    /// Gives a completion its place, or holds it back. Those held back come first.
    pub fn place(&mut self, completed: Completed, sq_head: u32) -> Option<Posting> {
        if self.is_full() || !self.held.is_empty() {
            self.held.push_back(completed);
            return None;
        }
        Some(self.put(completed, sq_head))
    }

    /// Gives the first completion that was held back its place, if there is room.
    pub fn release(&mut self, sq_head: impl Fn(u16) -> u32) -> Option<Posting> {
        if self.is_full() {
            return None;
        }
        let completed = self.held.pop_front()?;
        Some(self.put(completed, sq_head(completed.sqid)))
    }

    fn put(&mut self, completed: Completed, sq_head: u32) -> Posting {
        let Completed { dw0, sqid, cid, status } = completed;
        let entry = Completion {
            dw0: dw0.into(),
            dw1: 0.into(),
            // Below the largest queue's size.
            sq_head: u16::try_from(sq_head).unwrap_or(0).into(),
            sqid: sqid.into(),
            cid: cid.into(),
            status: status.with_phase(self.phase).into(),
        };
        let iova = entry_address(self.base, self.tail, COMPLETION_LEN);
        self.tail = (self.tail + 1) % self.size;
        if self.tail == 0 {
            self.phase = !self.phase;
        }
        Posting { iova, entry: entry.to_bytes(), vector: self.vector }
    }
}

/// Where entry `index` of a queue is. The host chose the base: a sum that wraps is an address like any other, which the
/// bus refuses or not.
#[must_use]
pub fn entry_address(base: u64, index: u32, entry_len: usize) -> u64 {
    base.wrapping_add(u64::from(index) * entry_len as u64)
}
