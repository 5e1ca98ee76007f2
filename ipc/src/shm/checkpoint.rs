// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a process must find again after its own crash: bytes in a memory object that outlives it.
//!
//! The object has one author at a time and no other reader than a later life of the same process. It has two slots,
//! written in turn: an author that dies in the middle of a write leaves the checkpoint before whole. A slot counts if
//! its checksum, which covers the sequence number too, is right; of two the later one counts, by serial arithmetic, so
//! that no number found there is one that nothing can follow. The author is dead and as untrusted as any peer: a slot
//! is copied into private memory, then checked, and what is in it is for the reader to validate. The checksum is
//! against torn writes and not against malice. No lock and no fence: what a dead thread has stored is seen by whoever
//! starts after it was reaped, and any part of a write that is missing makes the checksum wrong.

use crate::error::Error;
use crate::shm::journal::JOURNAL_LEN;
use crate::shm::region::{Region, View};
use crate::shm::sync::AtomicU64;
use crate::shm::sync::Ordering::{Relaxed, Release};
use crate::shm::transcript::TRANSCRIPT_LEN;

/// The most bytes of one checkpoint: the registers of an SMMU are some 250, an NVMe controller with a full error log
/// and all of its queues some 4000.
pub const BYTES_MAX: usize = DATA_WORDS * 8;

/// The size of the object: two slots, and behind them a journal ([`crate::shm::journal`]) and a transcript
/// ([`crate::shm::transcript`]), which take no memory where nobody writes them.
pub const CHECKPOINT_LEN: u64 = TRANSCRIPT_START + TRANSCRIPT_LEN;

/// Where the journal begins.
pub(super) const JOURNAL_START: u64 = 2 * SLOT_WORDS as u64 * 8;

/// Where the transcript begins.
pub(super) const TRANSCRIPT_START: u64 = JOURNAL_START + JOURNAL_LEN;

const SLOT_WORDS: usize = 2048;
/// Its sequence number, and its length above its checksum.
const HEADER_WORDS: usize = 2;
const DATA_WORDS: usize = SLOT_WORDS - HEADER_WORDS;

const _: () = assert!(CHECKPOINT_LEN.is_multiple_of(4096));

/// The object, seen by its author or by the author's next life.
#[derive(Clone)]
pub struct Checkpoint {
    words: View<[AtomicU64]>,
    /// Of the latest write.
    sequence: u64,
}

/// More bytes than a checkpoint holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a checkpoint of {len:#x} bytes, at most {BYTES_MAX:#x} fit")]
pub struct TooLong {
    /// How many.
    pub len: usize,
}

impl Checkpoint {
    /// Makes the memory object, without a checkpoint: for the coordinator.
    ///
    /// # Errors
    /// If the kernel has no memory object to give.
    pub fn create(name: &str) -> Result<Region, Error> {
        Region::create(name, CHECKPOINT_LEN)
    }

    /// Views a memory object as that.
    ///
    /// # Errors
    /// A violation if it has another size.
    pub fn attach(region: &Region) -> Result<Self, Error> {
        Ok(Self { words: region.view_slice(0, 2 * SLOT_WORDS)?, sequence: 0 })
    }

    /// The latest whole checkpoint; none if there is none.
    #[must_use]
    pub fn read(&self) -> Option<Vec<u8>> {
        self.latest().map(|(_, bytes)| bytes)
    }

    /// Becomes the author, from whom the next [`Self::write`] comes: no other life writes any more.
    pub fn adopt(&mut self) {
        self.sequence = self.latest().map_or(0, |(sequence, _)| sequence);
    }

    /// Writes a checkpoint over the one before the latest.
    ///
    /// # Errors
    /// If it is too long; the latest one stays.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), TooLong> {
        let sequence = self.sequence.wrapping_add(1);
        for (index, value) in stores(sequence, bytes)? {
            if let Some(word) = self.words.get(index) {
                word.store(value, Release);
            }
        }
        self.sequence = sequence;
        Ok(())
    }

    fn latest(&self) -> Option<(u64, Vec<u8>)> {
        let newer = |one: &(u64, Vec<u8>), other: &(u64, Vec<u8>)| one.0.wrapping_sub(other.0) < 1 << 63;
        match (self.slot(0), self.slot(1)) {
            (Some(first), Some(second)) => Some(if newer(&first, &second) { first } else { second }),
            (one, other) => one.or(other),
        }
    }

    /// A private copy of a slot, if it is whole.
    fn slot(&self, index: usize) -> Option<(u64, Vec<u8>)> {
        let words = self.words.get(index * SLOT_WORDS..)?.get(..SLOT_WORDS)?;
        let mut words = words.iter().map(|word| word.load(Relaxed));
        let (sequence, header) = (words.next()?, words.next()?);
        let len = usize::try_from(header >> 32).ok().filter(|len| (1..=BYTES_MAX).contains(len))?;
        let mut bytes: Vec<u8> = words.take(len.div_ceil(8)).flat_map(u64::to_le_bytes).collect();
        bytes.truncate(len);
        // A sequence stands in the slot that is its own.
        let is_whole = slot_of(sequence) == index && header == header_of(sequence, &bytes);
        is_whole.then_some((sequence, bytes))
    }
}

/// The stores of a write, in their order: the slot is first made nobody's, and its header comes last.
fn stores(sequence: u64, bytes: &[u8]) -> Result<impl Iterator<Item = (usize, u64)>, TooLong> {
    if bytes.len() > BYTES_MAX {
        return Err(TooLong { len: bytes.len() });
    }
    let start = slot_of(sequence) * SLOT_WORDS;
    let header = start + 1;
    let data = bytes.chunks(8).map(|chunk| {
        let mut word = [0; 8];
        word.iter_mut().zip(chunk).for_each(|(to, from)| *to = *from);
        u64::from_le_bytes(word)
    });
    let data = (start + HEADER_WORDS..).zip(data);
    let ends = [(start, sequence), (header, header_of(sequence, bytes))];
    Ok(std::iter::once((header, 0)).chain(data).chain(ends))
}

fn slot_of(sequence: u64) -> usize {
    usize::from(sequence % 2 == 1)
}

/// Length and checksum of a slot.
fn header_of(sequence: u64, bytes: &[u8]) -> u64 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&sequence.to_le_bytes());
    hasher.update(bytes);
    (bytes.len() as u64) << 32 | u64::from(hasher.finalize())
}

impl core::fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Checkpoint").field("sequence", &self.sequence).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
