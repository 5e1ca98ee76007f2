// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What of the owed map a migration's mover is to send: words in memory that coordinator and mover share.
//!
//! The coordinator adds what it has harvested, the mover takes a word and sends its pages. Both are single atomic
//! operations: a page that is added while its word is taken is in this taking, or in the next. The mover reads the
//! pages after it has taken the word; what the guest writes from then on is harvested and added again. A mover that was
//! taken over can make the figures wrong and send the wrong pages, which it could anyway.

use super::OwedMap;
use super::pages;
use crate::addr::PAGE_LEN;
use crate::error::Error;
use crate::protocol::ram::RamLayout;
use crate::shm::region::{Region, View};
use crate::shm::sync::AtomicU64;
use crate::shm::sync::Ordering::{AcqRel, Relaxed, Release};

/// The shared words, at either end.
#[derive(Clone)]
pub struct SharedOwed {
    words: View<[AtomicU64]>,
    /// For each region's last word, the bits that stand for pages.
    tails: Vec<(usize, u64)>,
}

impl SharedOwed {
    /// Makes the memory object, with no page owed: for the coordinator.
    ///
    /// # Errors
    /// If the kernel has no memory object to give.
    pub fn create(name: &str, layout: &RamLayout) -> Result<Region, Error> {
        Region::create(name, Self::region_len(layout))
    }

    /// The size of the memory object for this much RAM.
    #[must_use]
    pub fn region_len(layout: &RamLayout) -> u64 {
        let len = (pages::word_count(layout) as u64).saturating_mul(8);
        len.checked_next_multiple_of(PAGE_LEN).unwrap_or(u64::MAX)
    }

    /// Views a memory object as that of this RAM.
    ///
    /// # Errors
    /// A violation if it has another size.
    pub fn attach(region: &Region, layout: &RamLayout) -> Result<Self, Error> {
        let words = region.view_slice(0, pages::word_count(layout))?;
        Ok(Self { words, tails: pages::tails(layout).collect() })
    }

    /// Adds what is owed in `owed`: for the coordinator. What is in it may be forgotten there then.
    pub fn add(&self, owed: &OwedMap) {
        for (word, bits) in self.words.iter().zip(owed.as_words()) {
            if *bits != 0 {
                word.fetch_or(*bits, Release);
            }
        }
    }

    /// Takes the pages of a word: for the mover, before it reads them.
    #[must_use]
    pub fn take(&self, index: usize) -> u64 {
        let taken = self.words.get(index).map_or(0, |word| word.swap(0, AcqRel));
        taken & self.valid(index)
    }

    /// How many pages are owed.
    #[must_use]
    pub fn count(&self) -> u64 {
        let count = |(index, word): (usize, &AtomicU64)| word.load(Relaxed) & self.valid(index);
        self.words.iter().enumerate().map(count).map(|bits| u64::from(bits.count_ones())).sum()
    }

    /// The bits of a word that stand for pages: either end may set any.
    fn valid(&self, index: usize) -> u64 {
        let tail = self.tails.iter().find(|(tail, _)| *tail == index);
        tail.map_or(u64::MAX, |(_, bits)| *bits)
    }
}

impl core::fmt::Debug for SharedOwed {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("SharedOwed").field("page_count", &self.count()).finish_non_exhaustive()
    }
}
