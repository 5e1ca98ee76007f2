// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The owed map: the pages of a guest that whoever receives it does not have as they are now.
//!
//! The coordinator's own, and laid out like a log's bitmaps. Harvests add to it, whoever sends takes from it: a range
//! is cleared *before* its pages are read, so that a write behind the clearing puts them in again with a later harvest.
//! A mover is given what is in it through a [`SharedOwed`](super::SharedOwed).
//! It outlives producers and senders: what a failed attempt has harvested is still owed, and nothing is given back.
//! Nobody else can touch its memory: it is plain words, and changed by plain operations.

use crate::addr::{Gpa, GpaRange, PAGE_LEN};
use crate::protocol::ram::RamLayout;

use super::pages::{self, Runs};

/// One bit for each 4 KiB page of guest RAM: it is still to be sent.
#[derive(Clone, PartialEq, Eq)]
pub struct OwedMap {
    layout: RamLayout,
    words: Vec<u64>,
}

impl OwedMap {
    /// No page is owed.
    #[must_use]
    pub fn new(layout: &RamLayout) -> Self {
        Self { layout: layout.clone(), words: vec![0; pages::word_count(layout)] }
    }

    /// Owes the pages of `len` bytes from `gpa`. Bytes outside RAM have no page.
    pub fn mark(&mut self, gpa: Gpa, len: u64) {
        // A note of a peer may claim any range: what overflows is cut, not ignored.
        let len = len.min(u64::MAX - gpa.0);
        self.change(GpaRange::new(gpa, len), |word, bits| word | bits);
    }

    /// Owes all of RAM: where a precopy begins, and what a log that cannot be believed means.
    pub fn mark_all(&mut self) {
        self.words.fill(u64::MAX);
        self.cut_tails();
    }

    /// Owes nothing of `range` any more, but for pages that are only partly in it. Before they are read.
    pub fn clear(&mut self, range: GpaRange) {
        let start = range.start().0.checked_next_multiple_of(PAGE_LEN).map(Gpa);
        let end = range.end().page();
        let whole = start.and_then(|start| GpaRange::new(start, end.checked_offset_from(start)?));
        self.change(whole, |word, bits| word & !bits);
    }

    /// Owes nothing.
    pub fn clear_all(&mut self) {
        self.words.fill(0);
    }

    fn change(&mut self, range: Option<GpaRange>, to: impl Fn(u64, u64) -> u64) {
        let Some(range) = range else { return };
        let words = &mut self.words;
        pages::for_each_word(&self.layout, range, |index, bits| {
            if let Some(word) = words.get_mut(index) {
                *word = to(*word, bits);
            }
        });
    }

    /// How many pages.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Whether no page is owed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// Whether the page of `gpa` is owed.
    #[must_use]
    pub fn contains(&self, gpa: Gpa) -> bool {
        let mut found = false;
        if let Some(byte) = GpaRange::new(gpa, 1) {
            pages::for_each_word(&self.layout, byte, |index, bits| {
                found = self.words.get(index).is_some_and(|word| word & bits != 0);
            });
        }
        found
    }

    /// The pages as ranges, in rising order, neighbours joined within a region.
    pub fn ranges(&self) -> impl Iterator<Item = GpaRange> + '_ {
        Runs::of_all(&self.layout, &self.words).flatten()
    }

    /// 64 pages each, to be copied.
    #[cfg(not(loom))]
    pub(super) fn as_words(&self) -> &[u64] {
        &self.words
    }

    /// The words, to be added to.
    pub(super) fn words(&mut self) -> &mut [u64] {
        &mut self.words
    }

    /// Forgets bits that stand for no page.
    pub(super) fn cut_tails(&mut self) {
        for (index, bits) in pages::tails(&self.layout) {
            if let Some(word) = self.words.get_mut(index) {
                *word &= bits;
            }
        }
    }
}

impl core::fmt::Debug for OwedMap {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_list().entries(self.ranges()).finish()
    }
}
