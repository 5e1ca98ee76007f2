// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The log's memory object: a header page, then two bitmaps, each rounded up to pages.
//!
//! ```text
//!   word 0      identity
//!   word 1      epoch of the last enabling; the producer writes it
//!   word 2      how often it was flipped: the last bit is the number of the bitmap that is written
//!   word 3      not zero while there are writes that are not marked here as they happen
//!   words 4..   ranges being written
//! ```

#[cfg(not(loom))]
use crate::addr::PAGE_LEN;
#[cfg(not(loom))]
use crate::error::{Breach, Error, Violation};
use crate::protocol::ram::RamLayout;
#[cfg(not(loom))]
use crate::shm::region::Region;
use crate::shm::region::View;
use crate::shm::sync::AtomicU64;
use crate::shm::sync::Ordering::Relaxed;

use super::pages;

/// How many writes can be in progress at once in one process without waiting for each other; devices have one
/// or two threads that write guest RAM this way.
#[cfg(not(loom))]
pub const WRITES_MAX: usize = 16;
/// Small enough for the model to fill.
#[cfg(loom)]
pub const WRITES_MAX: usize = 1;

const MAGIC: u64 = u64::from_le_bytes(*b"BKHDIRT2");

/// Words of the header before the notes.
const FIELDS: usize = 4;
/// What the header and each bitmap are rounded up to: a page.
#[cfg(not(loom))]
const UNIT_WORDS: usize = 512;
#[cfg(loom)]
const UNIT_WORDS: usize = FIELDS + WRITES_MAX;

const _: () = assert!(FIELDS + WRITES_MAX <= UNIT_WORDS);

/// Words that are taken at once: a line of the cache.
pub(super) const LINE_WORDS: usize = 8;

/// A word of the header.
#[derive(Clone, Copy, Debug)]
pub(super) enum Field {
    Magic = 0,
    Epoch = 1,
    Flips = 2,
    UnmarkedWrites = 3,
}

/// A mapping of the object.
#[derive(Clone)]
pub(super) struct Object {
    pub(super) layout: RamLayout,
    words: View<[AtomicU64]>,
    /// Of one bitmap.
    word_count: usize,
}

impl Object {
    #[cfg(not(loom))]
    pub(super) fn create(name: &str, layout: &RamLayout) -> Result<Region, Error> {
        let region = Region::create(name, Self::region_len(layout))?;
        Self::over(layout, region.view_slice(0, object_words(layout))?).store(Field::Magic, MAGIC);
        Ok(region)
    }

    #[cfg(not(loom))]
    pub(super) fn region_len(layout: &RamLayout) -> u64 {
        const { assert!(UNIT_WORDS as u64 * 8 == PAGE_LEN) };
        u64::try_from(object_words(layout)).unwrap_or(u64::MAX).saturating_mul(8)
    }

    #[cfg(not(loom))]
    pub(super) fn attach(region: &Region, layout: &RamLayout) -> Result<Self, Error> {
        let bad =
            |field, found| Error::Violation(Violation::new("dirty log", Breach::Layout { field, found }));
        if region.len() != Self::region_len(layout) {
            return Err(bad("length", region.len()));
        }
        let object = Self::over(layout, region.view_slice(0, object_words(layout))?);
        if object.is_whole() { Ok(object) } else { Err(bad("magic", object.load(Field::Magic))) }
    }

    #[cfg(loom)]
    pub(super) fn model(layout: &RamLayout) -> Self {
        let object = Self::over(layout, (0..object_words(layout)).map(|_| AtomicU64::new(0)).collect());
        object.store(Field::Magic, MAGIC);
        object
    }

    fn over(layout: &RamLayout, words: View<[AtomicU64]>) -> Self {
        Self { layout: layout.clone(), words, word_count: pages::word_count(layout) }
    }

    /// Whether the header says what it is.
    pub(super) fn is_whole(&self) -> bool {
        self.load(Field::Magic) == MAGIC
    }

    pub(super) fn load(&self, field: Field) -> u64 {
        // The constructors made as many words.
        self.words.get(field as usize).map_or(0, |word| word.load(Relaxed))
    }

    pub(super) fn store(&self, field: Field, value: u64) {
        if let Some(word) = self.words.get(field as usize) {
            word.store(value, Relaxed);
        }
    }

    /// The ranges being written.
    pub(super) fn notes(&self) -> &[AtomicU64] {
        self.words.get(FIELDS..FIELDS + WRITES_MAX).unwrap_or_default()
    }

    /// The bitmap that is written after so many flips.
    pub(super) fn bitmap(&self, flips: u64) -> &[AtomicU64] {
        let start = self.bitmap_start(flips);
        self.words.get(start..start + self.word_count).unwrap_or_default()
    }

    fn bitmap_start(&self, flips: u64) -> usize {
        let number = usize::from(flips & 1 != 0);
        UNIT_WORDS + number * self.word_count.next_multiple_of(UNIT_WORDS)
    }
}

fn object_words(layout: &RamLayout) -> usize {
    // At most 4 Mi words a bitmap, by the layout's cap.
    UNIT_WORDS + 2 * pages::word_count(layout).next_multiple_of(UNIT_WORDS)
}
