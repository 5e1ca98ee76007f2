// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The kernel's queue of events (vEVENTQ) of one vIOMMU, as entries of our fault queue.
//!
//! Reads return whole records: an 8-byte header (flags, sequence number) and, unless it marks lost events, an event:
//! for an SMMUv3 32 bytes with the guest's StreamID in them. The sequence numbers are those of
//! [`fault_queue`](crate::iommu::fault_queue), which copies the kernel's. A read never waits: an empty queue is 0
//! bytes.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use ipc::protocol::stage1::Fault;
use rustix::io::Errno;
use zerocopy::{FromBytes, Immutable, KnownLayout};

use crate::iommu::fault_queue::{Entry, SEQUENCES};

/// Events that the kernel queues before it drops some: as many as the software IOMMU does.
pub const DEPTH: u32 = 4096;

/// Bytes of one read: about a hundred events.
const READ_LEN: usize = 4096;

/// The header marks lost events, and no event follows.
const LOST_EVENTS: u32 = 1 << 0;

/// Parses the event at the front of the bytes read, and returns the rest.
pub type Decode = fn(&[u8]) -> Option<(Fault, &[u8])>;

#[derive(FromBytes, KnownLayout, Immutable, Clone, Copy)]
#[repr(C)]
struct Head {
    flags: u32,
    sequence: u32,
}

/// The reader's side.
#[derive(Debug)]
pub struct Events {
    file: OwnedFd,
    decode: Decode,
    read: VecDeque<Entry>,
    /// Events that came in all.
    pub count: u64,
    /// Bytes that are not a record: the kernel's layout is unknown.
    pub misread: u64,
}

impl Events {
    /// Over the file of an SMMUv3's queue, which need not be non-blocking.
    pub fn new(file: OwnedFd) -> Events {
        Events::of(file, smmu)
    }

    /// Over that of another kind of IOMMU.
    pub fn of(file: OwnedFd, decode: Decode) -> Events {
        Events { file, decode, read: VecDeque::new(), count: 0, misread: 0 }
    }

    /// The next entry, if there is one.
    pub fn take(&mut self) -> Option<Entry> {
        if self.read.is_empty() {
            self.fill();
        }
        self.read.pop_front()
    }

    fn fill(&mut self) {
        let mut buffer = [0; READ_LEN];
        let len = match rustix::io::read(&self.file, &mut buffer) {
            Ok(len) => len,
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Err(errno) => {
                // Never seen in practice. The guest misses events then; the sequence numbers show the gap once reads
                // succeed again.
                ipc::log::warn!("vfio: reading the vEVENTQ failed: {errno}");
                0
            }
        };
        let mut bytes = buffer.get(..len).unwrap_or_default();
        while !bytes.is_empty() {
            let Some((entry, rest)) = split(bytes, self.decode) else {
                self.misread = self.misread.saturating_add(u64::try_from(bytes.len()).unwrap_or(0));
                return;
            };
            self.count += u64::from(entry.fault.is_some());
            self.read.push_back(entry);
            bytes = rest;
        }
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// One entry, and what follows it.
fn split(bytes: &[u8], decode: Decode) -> Option<(Entry, &[u8])> {
    let (Head { flags, sequence }, rest) = Head::read_from_prefix(bytes).ok()?;
    let sequence = sequence % SEQUENCES;
    if flags & LOST_EVENTS != 0 {
        return Some((Entry { sequence, fault: None }, rest));
    }
    let (fault, rest) = decode(rest)?;
    Some((Entry { sequence, fault: Some(fault) }, rest))
}

/// An event record of an SMMUv3.
fn smmu(bytes: &[u8]) -> Option<(Fault, &[u8])> {
    let (record, rest) = <[u64; 4]>::read_from_prefix(bytes).ok()?;
    Some((Fault::Record(record.map(u64::from_le)), rest))
}

#[cfg(test)]
mod tests;
