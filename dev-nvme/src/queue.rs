// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Submission and Completion Queues: indices and ordering. NVMe 1.4 section 4.1.
//!
//! A Submission Queue is fetched by one job at a time, and its head moves only once the entries have been read:
//! completions report the head to the host, which then reuses the entries. A full Completion Queue holds completions
//! back; its Submission Queues are not fetched from until it has room, so the number held is bounded by the commands
//! in flight.

use std::collections::VecDeque;

use crate::journal::Slot;
use crate::spec::completion::{COMPLETION_LEN, Completion};
use crate::spec::status::Status;

/// The most entries of a queue: `CAP.MQES` + 1.
pub const ENTRIES_MAX: u32 = 1024;

/// The largest identifier of an I/O queue.
pub const QUEUES_MAX: u16 = 16;

/// A Submission Queue in host memory, and how far it is fetched (NVMe 1.4 §4.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubmissionQueue {
    /// Base address.
    pub base: u64,
    /// Number of entries.
    pub size: u32,
    /// The next entry to fetch.
    pub head: u32,
    /// How many entries were fetched: the head, with the rounds before.
    pub fetched: u64,
    /// The tail: one past the last entry submitted by the host.
    pub tail: u32,
    /// The last value of the tail's shadow doorbell, if the host uses it.
    pub seen: u32,
    /// Its Completion Queue.
    pub cqid: u16,
    /// A job is reading entries.
    pub fetching: bool,
    /// Jobs in flight with commands of this queue.
    pub jobs: u32,
    /// Command identifier of a pending Delete command.
    pub deletion: Option<u16>,
}

impl SubmissionQueue {
    /// An empty one.
    #[must_use]
    pub const fn new(base: u64, size: u32, cqid: u16) -> Self {
        Self {
            base,
            size,
            head: 0,
            fetched: 0,
            tail: 0,
            seen: 0,
            cqid,
            fetching: false,
            jobs: 0,
            deletion: None,
        }
    }

    /// Entries to fetch.
    #[must_use]
    pub const fn waiting(&self) -> u32 {
        if self.tail >= self.head { self.tail - self.head } else { self.tail + self.size - self.head }
    }

    /// Consecutive entries that can be fetched: up to the tail or the end of the queue.
    #[must_use]
    pub fn contiguous(&self) -> u32 {
        self.waiting().min(self.size - self.head)
    }

    /// Moves the head over entries that were read.
    pub const fn advance(&mut self, count: u32) {
        self.head = (self.head + count) % self.size;
        self.fetched += count as u64;
    }
}

/// A completion without a slot yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completed {
    /// Dword 0.
    pub dw0: u32,
    /// Submission Queue identifier.
    pub sqid: u16,
    /// Command identifier.
    pub cid: u16,
    /// Status field, without the phase tag.
    pub status: Status,
    /// Where the command stands in the journal, if it does.
    pub slot: Option<Slot>,
}

/// A Completion Queue in host memory, and completions that have no room in it (NVMe 1.4 §4.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompletionQueue {
    /// Base address.
    pub base: u64,
    /// Number of entries.
    pub size: u32,
    /// The head: the next entry that the host consumes.
    pub head: u32,
    /// The last value of the head's shadow doorbell, if the host uses it.
    pub seen: u32,
    /// The next entry to write.
    pub tail: u32,
    /// How many entries were assigned: the tail, with the rounds before, as the phase tag tells even from odd ones.
    pub placed: u64,
    /// The current phase tag.
    pub phase: bool,
    /// The interrupt vector, if interrupts are enabled.
    pub vector: Option<u16>,
    /// Completions held back because the queue is full.
    pub held: VecDeque<Completed>,
}

/// A completion with its slot: to be written before its interrupt is raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Posting {
    /// Address of the slot.
    pub iova: u64,
    /// Its bytes, with the phase tag.
    pub entry: [u8; COMPLETION_LEN],
    /// The vector to raise afterwards.
    pub vector: Option<u16>,
    /// The number of the entry, as [`CompletionQueue::placed`] counts them.
    pub place: u64,
    /// Of which Submission Queue the command is.
    pub sqid: u16,
    /// Where the command stands in the journal, if it does.
    pub slot: Option<Slot>,
}

impl CompletionQueue {
    /// An empty one.
    #[must_use]
    pub const fn new(base: u64, size: u32, vector: Option<u16>) -> Self {
        Self { base, size, head: 0, seen: 0, tail: 0, placed: 0, phase: true, vector, held: VecDeque::new() }
    }

    /// Whether it is full.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        (self.tail + 1) % self.size == self.head
    }

    /// Whether it has entries that the host has not consumed.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.tail == self.head
    }

    /// Assigns a completion its slot, or holds it back. Those held back come first.
    pub fn place(&mut self, completed: Completed, sq_head: u32) -> Option<Posting> {
        if self.is_full() || !self.held.is_empty() {
            self.held.push_back(completed);
            return None;
        }
        Some(self.put(completed, sq_head))
    }

    /// Assigns the first completion that was held back its slot, if there is room.
    pub fn release(&mut self, sq_head: impl Fn(u16) -> u32) -> Option<Posting> {
        if self.is_full() {
            return None;
        }
        let completed = self.held.pop_front()?;
        Some(self.put(completed, sq_head(completed.sqid)))
    }

    fn put(&mut self, completed: Completed, sq_head: u32) -> Posting {
        let Completed { dw0, sqid, cid, status, slot } = completed;
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
        let place = self.placed;
        self.placed += 1;
        self.tail = (self.tail + 1) % self.size;
        if self.tail == 0 {
            self.phase = !self.phase;
        }
        Posting { iova, entry: entry.to_bytes(), vector: self.vector, place, sqid, slot }
    }

    /// The entries that were assigned and that the host has not consumed, as far as is known.
    #[must_use]
    pub fn unconsumed(&self) -> core::ops::Range<u64> {
        let count = (self.tail + self.size - self.head) % self.size;
        self.placed.saturating_sub(count.into())..self.placed
    }

    /// Makes this the next entry to be assigned.
    pub fn place_next(&mut self, placed: u64) {
        self.placed = placed;
        let size = u64::from(self.size);
        // Less than the size.
        self.tail = u32::try_from(placed % size).unwrap_or(0);
        self.phase = (placed / size).is_multiple_of(2);
    }
}

/// Where entry `index` of a queue is. The host chose the base, so the sum may wrap: the DMA then succeeds or fails as
/// at any address.
#[must_use]
pub fn entry_address(base: u64, index: u32, entry_len: usize) -> u64 {
    base.wrapping_add(u64::from(index) * entry_len as u64)
}
