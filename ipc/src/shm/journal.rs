// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a process has begun and not finished, for its next life: words in the same memory object as its checkpoint.
//!
//! A checkpoint is written as a whole; a journal word by word, in an order that makes each step whole. That is the
//! order of the program: a process that is killed has made all stores before some point of each of its threads, and
//! none behind. So each step ends with the one store that counts. What the words mean is the device's (its
//! `journal.rs`); to the next life they are as untrusted as any peer's.

use crate::error::Error;
use crate::shm::checkpoint::JOURNAL_START;
use crate::shm::region::{Region, View};
use crate::shm::sync::AtomicU64;
use crate::shm::sync::Ordering::{Relaxed, Release};

/// How many words there are: for 512 commands of an NVMe controller with 16 words each, and as many pages for its
/// queues as are left.
pub const JOURNAL_WORDS: usize = 17 * 512;

/// The same in bytes: whole pages.
pub(super) const JOURNAL_LEN: u64 = JOURNAL_WORDS as u64 * 8;

/// The words, seen by the life that writes them or by the next one.
#[derive(Clone)]
pub struct Journal {
    words: View<[AtomicU64]>,
}

impl Journal {
    /// Views the words behind the checkpoint in this memory object.
    ///
    /// # Errors
    /// A violation if it has another size.
    pub fn attach(region: &Region) -> Result<Self, Error> {
        let start = usize::try_from(JOURNAL_START).unwrap_or(usize::MAX);
        Ok(Self { words: region.view_slice(start, JOURNAL_WORDS)? })
    }

    /// A word; 0 beyond the last.
    #[must_use]
    pub fn load(&self, index: usize) -> u64 {
        self.words.get(index).map_or(0, |word| word.load(Relaxed))
    }

    /// Stores a word behind all that this thread has stored before.
    pub fn store(&self, index: usize, value: u64) {
        if let Some(word) = self.words.get(index) {
            word.store(value, Release);
        }
    }
}

impl core::fmt::Debug for Journal {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Journal").finish_non_exhaustive()
    }
}
