// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Guest RAM as the dirty bitmaps number it: 64 pages a word, words region by region.
//!
//! RAM is read and written as the file that it is, and never mapped: to read a page that the guest has not touched does
//! not make one. What is read may change at any time while the guest runs: a page that changes is owed again, and sent
//! again.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use ipc::addr::PAGE_LEN;
use ipc::migration::pages::Stretch;
use ipc::protocol::ram::RamLayout;
use thiserror::Error;

/// Bytes in a page.
pub const PAGE_BYTES: usize = 4096;
const _: () = assert!(PAGE_BYTES as u64 == PAGE_LEN);

/// A page that is zero.
static ZERO_PAGE: [u8; PAGE_BYTES] = [0; PAGE_BYTES];

/// The RAM.
#[derive(Debug)]
pub struct Ram {
    file: Arc<File>,
    layout: RamLayout,
    /// One bit for each page that was ever filled from here: the others are as the kernel gave them, zero.
    filled: Vec<AtomicU64>,
}

/// Why pages were not read or written.
#[derive(Debug, Error)]
pub enum RamError {
    /// The guest has not got them.
    #[error("pages {pages:#x} of word {word:#x} are not all RAM")]
    NotRam {
        /// Which 64 pages, as the bitmaps number them.
        word: u64,
        /// One bit for each that was named.
        pages: u64,
    },
    /// The host has no memory for them.
    #[error("guest RAM: {0}")]
    Io(#[from] io::Error),
}

/// Neighbouring pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    /// Where they begin in the file.
    offset: u64,
    /// How many bytes they have.
    len: usize,
}

impl Ram {
    /// RAM of this layout, whose file is at least as long; on the destination it is fresh, all zero.
    #[must_use]
    pub fn new(file: Arc<File>, layout: RamLayout) -> Self {
        let words = layout.regions().iter().map(|region| (region.len / PAGE_LEN).div_ceil(64)).sum();
        Self { file, layout, filled: (0..words).map(|_: u64| AtomicU64::new(0)).collect() }
    }

    /// How many words the bitmaps have.
    #[must_use]
    pub fn word_count(&self) -> u64 {
        self.filled.len() as u64
    }

    /// Where the pages of a word begin in the file, and which of its bits stand for pages.
    fn place(&self, word: u64) -> Option<(u64, u64)> {
        let mut first = 0;
        for region in self.layout.regions() {
            let pages = region.len / PAGE_LEN;
            let words = pages.div_ceil(64);
            if word < first + words {
                let before = (word - first) * 64;
                let count = (pages - before).min(64);
                return Some((region.file_offset + before * PAGE_LEN, u64::MAX >> (64 - count)));
            }
            first += words;
        }
        None
    }

    /// The pages, in rising order, neighbours together.
    fn runs(&self, stretch: Stretch) -> Result<impl Iterator<Item = Run> + use<>, RamError> {
        let Stretch { word, pages } = stretch;
        let place = self.place(word).filter(|(_, valid)| pages & !valid == 0);
        let (start, _) = place.ok_or(RamError::NotRam { word, pages })?;
        let mut left = pages;
        Ok(std::iter::from_fn(move || {
            let first = left.trailing_zeros();
            let count = (left.checked_shr(first)?).trailing_ones();
            let run = u64::MAX >> (64 - count) << first;
            left &= !run;
            let len = usize::try_from(count).unwrap_or(0) * PAGE_BYTES;
            Some(Run { offset: start + u64::from(first) * PAGE_LEN, len })
        }))
    }

    /// Appends the bytes of the pages that are not zero to `bytes`; which those are.
    ///
    /// # Errors
    /// If the pages are not all RAM, or cannot be read.
    pub fn append(&self, stretch: Stretch, bytes: &mut Vec<u8>) -> Result<u64, RamError> {
        let begin = bytes.len();
        for Run { offset, len } in self.runs(stretch)? {
            let at = bytes.len();
            bytes.resize(at + len, 0);
            self.file.read_exact_at(bytes.get_mut(at..).unwrap_or_default(), offset)?;
        }
        let (mut kept, mut filled, mut left) = (begin, 0, stretch.pages);
        for from in (begin..bytes.len()).step_by(PAGE_BYTES) {
            let bit = left & left.wrapping_neg();
            left &= !bit;
            if bytes.get(from..from + PAGE_BYTES).is_some_and(|page| *page != ZERO_PAGE) {
                filled |= bit;
                if kept != from {
                    bytes.copy_within(from..from + PAGE_BYTES, kept);
                }
                kept += PAGE_BYTES;
            }
        }
        bytes.truncate(kept);
        Ok(filled)
    }

    /// Fills the pages with these bytes, as many as they have, a page after the other.
    ///
    /// # Errors
    /// If the pages are not all RAM, or the host has no memory for them.
    pub fn fill(&self, stretch: Stretch, bytes: &[u8]) -> Result<(), RamError> {
        let mut rest = bytes;
        for Run { offset, len } in self.runs(stretch)? {
            let Some((some, others)) = rest.split_at_checked(len) else { break };
            self.file.write_all_at(some, offset)?;
            rest = others;
        }
        if let Some(filled) = self.filled_of(stretch.word) {
            filled.fetch_or(stretch.pages, Relaxed);
        }
        Ok(())
    }

    /// Makes the pages zero. One that was never filled is: it is not touched, and takes no memory.
    ///
    /// # Errors
    /// If the pages are not all RAM, or cannot be written.
    pub fn clear(&self, stretch: Stretch) -> Result<(), RamError> {
        let filled = self.filled_of(stretch.word).map_or(0, |filled| filled.load(Relaxed));
        // All are looked at before one is written: there may be one that is no RAM.
        drop(self.runs(stretch)?);
        if let Some(filled) = self.filled_of(stretch.word) {
            filled.fetch_and(!stretch.pages, Relaxed);
        }
        for Run { offset, len } in self.runs(Stretch { pages: stretch.pages & filled, ..stretch })? {
            for page in (0..len as u64).step_by(PAGE_BYTES) {
                self.file.write_all_at(&ZERO_PAGE, offset + page)?;
            }
        }
        Ok(())
    }

    fn filled_of(&self, word: u64) -> Option<&AtomicU64> {
        self.filled.get(usize::try_from(word).ok()?)
    }
}

#[cfg(test)]
mod tests;
