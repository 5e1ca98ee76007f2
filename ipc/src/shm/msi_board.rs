// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The MSI board: pending MSIs of one device, as a bitmap of EventIDs.
//!
//! The device's process posts an EventID and then rings the doorbell; the vCPU process takes what is pending and raises
//! each at the ITS with the DeviceID that the *configuration* gives this board. So a process can raise its own device's
//! events only. An event posted twice before it is taken is one interrupt, as for any edge. The board lives as long as
//! a boot of the guest: pending events outlive both processes. Order: an event's bit is set before its summary bit, and
//! taken after it, so that an event whose doorbell was rung is never overlooked.

use crate::error::Error;
use crate::shm::region::{Region, View};
use crate::shm::sync::AtomicU64;
use crate::shm::sync::Ordering::{AcqRel, Acquire, Relaxed, Release};

/// EventIDs have 16 bits at the ITS of the machine.
pub const EVENTS: u32 = 1 << 16;

/// One bit for each event.
const WORDS: usize = 1024;
/// One bit for each of those words, at the end.
const SUMMARY_WORDS: usize = WORDS / 64;
const TOTAL_WORDS: usize = WORDS + SUMMARY_WORDS;

/// The size of a board's memory object, in whole pages.
pub const BOARD_LEN: u64 = 12 << 10;

const _: () = assert!(TOTAL_WORDS as u64 * 8 <= BOARD_LEN && EVENTS as u64 == WORDS as u64 * 64);

/// The board, seen from either end.
#[derive(Clone)]
pub struct MsiBoard {
    words: View<[AtomicU64]>,
}

impl MsiBoard {
    /// Makes a board's memory object, nothing pending: for the coordinator.
    ///
    /// # Errors
    /// If the kernel has no memory object to give.
    pub fn create(name: &str) -> Result<Region, Error> {
        Region::create(name, BOARD_LEN)
    }

    /// Views a memory object as a board.
    ///
    /// # Errors
    /// A violation if it has another size.
    pub fn attach(region: &Region) -> Result<Self, Error> {
        Ok(Self { words: region.view_slice(0, TOTAL_WORDS)? })
    }

    /// Makes an event pending, at the device's end. False for an EventID that the ITS does not have.
    pub fn post(&self, event: u32) -> bool {
        let index = event / u64::BITS;
        let (Some(word), Some(summary)) = (self.word(index), self.summary(index / u64::BITS)) else {
            return false;
        };
        word.fetch_or(1 << (event % u64::BITS), Release);
        summary.fetch_or(1 << (index % u64::BITS), Release);
        true
    }

    /// Takes all pending events, at the vCPU process's end. Bounded by the board's size, whatever the device writes.
    pub fn take(&self, mut signal: impl FnMut(u32)) {
        for high in 0..(WORDS / 64).try_into().unwrap_or(0) {
            let Some(summary) = self.summary(high).filter(|word| word.load(Relaxed) != 0) else { continue };
            for low in bits(summary.swap(0, AcqRel)) {
                let index = high * u64::BITS + low;
                let pending = self.word(index).map_or(0, |word| word.swap(0, Acquire));
                for bit in bits(pending) {
                    signal(index * u64::BITS + bit);
                }
            }
        }
    }

    /// How many events are pending, without taking them.
    #[must_use]
    pub fn pending(&self) -> u32 {
        let words = self.words.get(..WORDS).unwrap_or_default();
        words.iter().map(|word| word.load(Relaxed).count_ones()).fold(0, u32::saturating_add)
    }

    fn word(&self, index: u32) -> Option<&AtomicU64> {
        self.words.get(..WORDS)?.get(usize::try_from(index).ok()?)
    }

    fn summary(&self, index: u32) -> Option<&AtomicU64> {
        self.words.get(WORDS..)?.get(usize::try_from(index).ok()?)
    }
}

/// The numbers of the bits that are set.
fn bits(mut word: u64) -> impl Iterator<Item = u32> {
    core::iter::from_fn(move || {
        let bit = (word != 0).then(|| word.trailing_zeros())?;
        word &= word - 1;
        Some(bit)
    })
}

impl core::fmt::Debug for MsiBoard {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("MsiBoard").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
