// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Faults on their way to the guest, bounded and counted as the kernel's vEVENTQ does it.
//!
//! Every fault takes a sequence number, 0 to `i32::MAX` and then 0 again; a gap of `g` between two numbers says that
//! `g - 1` were lost. A full queue drops new faults and marks that by an entry at its end with a number and no
//! record.

use std::collections::VecDeque;

use ipc::protocol::stage1::Fault;

/// Sequence numbers wrap here.
pub const SEQUENCES: u32 = 1 << 31;

/// What is read from the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The number of the fault, or of the last lost one.
    pub sequence: u32,
    /// The fault; `None` is the marker of lost faults.
    pub fault: Option<Fault>,
}

/// A bounded queue.
#[derive(Clone, Debug)]
pub struct FaultQueue {
    depth: usize,
    entries: VecDeque<(u32, Fault)>,
    next: u32,
    /// The number of the last fault dropped since the queue was full.
    lost: Option<u32>,
}

impl FaultQueue {
    /// An empty queue for up to `depth` faults.
    pub fn new(depth: usize) -> FaultQueue {
        FaultQueue { depth, entries: VecDeque::new(), next: 0, lost: None }
    }

    /// Adds a fault, or loses it.
    pub fn push(&mut self, fault: Fault) {
        let sequence = self.next;
        self.next = (sequence + 1) % SEQUENCES;
        // Behind a marker nothing is queued until it was read: the marker stays at the end.
        if self.entries.len() < self.depth && self.lost.is_none() {
            self.entries.push_back((sequence, fault));
        } else {
            self.lost = Some(sequence);
        }
    }

    /// Takes the oldest entry.
    pub fn pop(&mut self) -> Option<Entry> {
        if let Some((sequence, fault)) = self.entries.pop_front() {
            return Some(Entry { sequence, fault: Some(fault) });
        }
        self.lost.take().map(|sequence| Entry { sequence, fault: None })
    }

    /// How many entries there are to read, the marker included.
    pub fn len(&self) -> usize {
        self.entries.len() + usize::from(self.lost.is_some())
    }

    /// Whether there is nothing to read.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The reader's side of the numbers: how many faults were lost before each entry.
#[derive(Clone, Copy, Debug, Default)]
pub struct Losses {
    expected: u32,
}

impl Losses {
    /// Follows the queue to `entry`: how many were lost since the entry before, those a marker stands for included.
    pub fn before(&mut self, entry: &Entry) -> u32 {
        let gap = entry.sequence.wrapping_sub(self.expected) % SEQUENCES;
        self.expected = entry.sequence.wrapping_add(1) % SEQUENCES;
        gap + u32::from(entry.fault.is_none())
    }
}

#[cfg(test)]
mod tests;
