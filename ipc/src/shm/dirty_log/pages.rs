// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A private set of pages of guest RAM: what harvests are gathered in, united, and sent from.
//!
//! Its words are those of the shared log: each RAM region starts a new word, regions in the layout's order, the
//! lowest page in bit 0. Bits behind a region's last page do not exist: a peer that sets one in its log is not heard.

use crate::addr::{Gpa, GpaRange, PAGE_LEN};
use crate::protocol::ram::{RamLayout, RamRegion};

/// A set of pages of one guest's RAM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirtyPages {
    layout: RamLayout,
    words: Vec<u64>,
}

impl DirtyPages {
    /// No page.
    #[must_use]
    pub fn none(layout: &RamLayout) -> Self {
        Self { layout: layout.clone(), words: vec![0; word_count(layout)] }
    }

    /// Every page: where a precopy begins, and what an unreadable log means.
    #[must_use]
    pub fn all(layout: &RamLayout) -> Self {
        let mut pages = Self::none(layout);
        for region in layout.regions() {
            pages.mark(region.gpa, region.len);
        }
        pages
    }

    /// Adds the pages of `len` bytes from `gpa`. Bytes outside RAM have no page.
    pub fn mark(&mut self, gpa: Gpa, len: u64) {
        // A note of a peer may claim any range: what overflows is cut, not ignored.
        let len = len.min(u64::MAX - gpa.0);
        let Some(range) = GpaRange::new(gpa, len) else { return };
        let words = &mut self.words;
        for_each_word(&self.layout, range, |index, bits| {
            if let Some(word) = words.get_mut(index) {
                *word |= bits;
            }
        });
    }

    /// Adds the pages of another set of the same RAM.
    pub fn unite(&mut self, other: &Self) {
        debug_assert_eq!(self.layout, other.layout, "page sets of one guest");
        for (word, bits) in self.words.iter_mut().zip(&other.words) {
            *word |= bits;
        }
    }

    /// Forgets all pages.
    pub fn clear(&mut self) {
        self.words.fill(0);
    }

    /// How many pages.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Whether there is no page.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// Whether the page of `gpa` is in the set.
    #[must_use]
    pub fn contains(&self, gpa: Gpa) -> bool {
        let mut found = false;
        if let Some(byte) = GpaRange::new(gpa, 1) {
            for_each_word(&self.layout, byte, |index, bits| {
                found = self.words.get(index).is_some_and(|word| word & bits != 0);
            });
        }
        found
    }

    /// The pages as ranges, in rising order, neighbours joined within a region.
    pub fn ranges(&self) -> impl Iterator<Item = GpaRange> + '_ {
        let mut first_word = 0;
        self.layout.regions().iter().flat_map(move |region| {
            let start = first_word;
            first_word += region_words(region);
            Runs { words: self.words.get(start..first_word).unwrap_or_default(), region: *region, page: 0 }
        })
    }

    /// The words, in the shared log's order.
    pub(super) fn words(&self) -> &[u64] {
        &self.words
    }

    /// Adds the bits of one word of a log, but for those that stand for no page.
    pub(super) fn add(&mut self, index: usize, bits: u64) {
        let mask = valid_bits(&self.layout, index);
        if let Some(word) = self.words.get_mut(index) {
            *word |= bits & mask;
        }
    }
}

/// Runs of set bits in one region.
struct Runs<'a> {
    words: &'a [u64],
    region: RamRegion,
    page: u64,
}

impl Runs<'_> {
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

/// The bits of one word that stand for pages.
fn valid_bits(layout: &RamLayout, index: usize) -> u64 {
    let mut first_word = 0;
    for region in layout.regions() {
        let words = region_words(region);
        if let Some(in_region) = index.checked_sub(first_word).filter(|in_region| *in_region < words) {
            let tail = (region.len / PAGE_LEN) % 64;
            let is_last = in_region + 1 == words;
            return if is_last && tail != 0 { (1 << tail) - 1 } else { u64::MAX };
        }
        first_word += words;
    }
    0
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
