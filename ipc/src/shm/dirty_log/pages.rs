// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which bit of which word stands for which page: the same in each bitmap and in the owed map.
//!
//! Each RAM region starts a new word, regions in the layout's order, the lowest page in bit 0. Bits behind a region's
//! last page do not exist: such bits in a peer's log are ignored.

use crate::addr::{GpaRange, PAGE_LEN};
use crate::protocol::ram::{RamLayout, RamRegion};

/// Runs of set bits in one region.
pub(super) struct Runs<'a> {
    words: &'a [u64],
    region: RamRegion,
    page: u64,
}

impl<'a> Runs<'a> {
    /// Of each region in turn.
    pub(super) fn of_all(layout: &RamLayout, words: &'a [u64]) -> impl Iterator<Item = Self> {
        let mut first_word = 0;
        layout.regions().iter().map(move |region| {
            let start = first_word;
            first_word += region_words(region);
            Runs { words: words.get(start..first_word).unwrap_or_default(), region: *region, page: 0 }
        })
    }

    /// The first page from `self.page` on whose bit is `set`, or the number of pages.
    fn next_page(&self, set: bool) -> u64 {
        let pages = self.region.len / PAGE_LEN;
        let mut page = self.page;
        while page < pages {
            let index = usize::try_from(page / 64).unwrap_or(usize::MAX);
            let word = self.words.get(index).copied().unwrap_or(0);
            let word = if set { word } else { !word } & (u64::MAX << (page % 64));
            if word != 0 {
                return pages.min(page / 64 * 64 + u64::from(word.trailing_zeros()));
            }
            page = (page / 64 + 1) * 64;
        }
        pages
    }
}

impl Iterator for Runs<'_> {
    type Item = GpaRange;

    fn next(&mut self) -> Option<GpaRange> {
        let first = self.next_page(true);
        self.page = first;
        let end = self.next_page(false);
        self.page = end;
        let len = end.checked_sub(first).filter(|count| *count > 0)?.checked_mul(PAGE_LEN)?;
        GpaRange::new(self.region.gpa.checked_add(first.checked_mul(PAGE_LEN)?)?, len)
    }
}

fn region_words(region: &RamRegion) -> usize {
    usize::try_from((region.len / PAGE_LEN).div_ceil(64)).unwrap_or(usize::MAX)
}

/// How many words the bitmap of this RAM has: at most 4 Mi, by the layout's cap.
pub(super) fn word_count(layout: &RamLayout) -> usize {
    layout.regions().iter().map(region_words).sum()
}

/// The last word of each region, and its bits that stand for pages.
pub(super) fn tails(layout: &RamLayout) -> impl Iterator<Item = (usize, u64)> {
    let mut first_word = 0;
    layout.regions().iter().map(move |region| {
        first_word += region_words(region);
        let tail = (region.len / PAGE_LEN) % 64;
        (first_word - 1, if tail == 0 { u64::MAX } else { (1 << tail) - 1 })
    })
}

/// Calls `visit` with the index and the bits of every word that the pages of `range` touch.
pub(super) fn for_each_word(layout: &RamLayout, range: GpaRange, mut visit: impl FnMut(usize, u64)) {
    let mut first_word: usize = 0;
    for region in layout.regions() {
        if let Some(part) = region.range().and_then(|ram| ram.intersection(range)) {
            let first = (part.start().0 - region.gpa.0) / PAGE_LEN;
            let last = (part.end().0 - 1 - region.gpa.0) / PAGE_LEN;
            for word in first / 64..=last / 64 {
                let low = if word == first / 64 { first % 64 } else { 0 };
                let high = if word == last / 64 { last % 64 } else { 63 };
                let bits = (u64::MAX >> (63 - high)) & (u64::MAX << low);
                visit(first_word.saturating_add(usize::try_from(word).unwrap_or(usize::MAX)), bits);
            }
        }
        first_word = first_word.saturating_add(region_words(region));
    }
}
