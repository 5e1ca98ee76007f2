// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which pages of guest RAM a process has written: a bitmap in shared memory, one bit per 4 KiB page by GPA.
//!
//! One log per process that writes guest RAM. The coordinator makes it and harvests it, by swapping words to
//! zero: a bit is never read first and cleared later. The producer only ever sets bits. The log outlives its
//! producer: a crash loses no bit, not even that of a write in progress (see [`DirtyLog::writing`]).
//!
//! The order of a harvest while the guest runs: harvest; ask the producer to `Rearm` and wait for the answer (it may
//! remember pages as marked already); copy the pages. The order of the last one: stop all producers; harvest; copy;
//! save. Bits harvested by an attempt that failed are given back. A page written is marked *after* the write: a mark
//! that came first could be harvested, and its page copied, before the write.

mod pages;

pub use pages::DirtyPages;

use crate::addr::{Gpa, GpaRange, PAGE_LEN};
#[cfg(not(loom))]
use crate::error::{Breach, Error, Violation};
use crate::protocol::ram::RamLayout;
#[cfg(not(loom))]
use crate::shm::region::Region;
use crate::shm::region::View;
use crate::shm::sync::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use crate::shm::sync::{AtomicBool, AtomicU64, fence};

/// How many writes can be in progress at once in one process without waiting for each other; devices have one
/// or two threads that write guest RAM this way.
#[cfg(not(loom))]
pub const WRITES_MAX: usize = 16;
/// Small enough for the model to fill.
#[cfg(loom)]
pub const WRITES_MAX: usize = 1;

#[cfg(not(loom))]
const MAGIC: u64 = u64::from_le_bytes(*b"BKHDIRTY");

/// Words before the bitmap: identity, then the writes in progress.
#[cfg(not(loom))]
const HEADER_WORDS: usize = 64;

#[cfg(not(loom))]
const _: () = assert!(WRITES_MAX < HEADER_WORDS);

type Words = View<[AtomicU64]>;

/// The shared log: a producer's or the coordinator's end.
pub struct DirtyLog {
    layout: RamLayout,
    /// The bitmap.
    words: Words,
    /// Ranges being written, see [`Self::writing`].
    in_progress: Words,
    /// Of this end only: whether [`Self::mark`] marks.
    enabled: AtomicBool,
}

/// Who can say which pages were written: one per kind of writer (a process' shared log, a kernel's log).
pub trait DirtySource {
    /// Why it could not.
    type Error;

    /// Logs every write from now on. What was written before is not known.
    ///
    /// # Errors
    /// If the log cannot be kept: the caller must not believe in later harvests.
    fn enable(&mut self) -> Result<(), Self::Error>;

    /// Adds every page written since the last harvest to `pages`, and forgets it.
    ///
    /// # Errors
    /// If the log cannot be read: the caller must take every page as written.
    fn harvest(&mut self, pages: &mut DirtyPages) -> Result<(), Self::Error>;

    /// Stops logging.
    ///
    /// # Errors
    /// If the host refuses.
    fn disable(&mut self) -> Result<(), Self::Error>;
}

impl DirtyLog {
    /// Makes a log's memory object: for the coordinator.
    ///
    /// # Errors
    /// If the kernel has no memory object to give.
    #[cfg(not(loom))]
    pub fn create(name: &str, layout: &RamLayout) -> Result<Region, Error> {
        let region = Region::create(name, Self::region_len(layout))?;
        let header: Words = region.view_slice(0, 1)?;
        if let Some(magic) = header.first() {
            magic.store(MAGIC, Release);
        }
        Ok(region)
    }

    /// The size of the memory object for this much RAM.
    #[cfg(not(loom))]
    #[must_use]
    pub fn region_len(layout: &RamLayout) -> u64 {
        let words = HEADER_WORDS.saturating_add(pages::word_count(layout));
        u64::try_from(words).unwrap_or(u64::MAX).saturating_mul(8).next_multiple_of(PAGE_LEN)
    }

    /// Views a memory object as the log of this RAM, switched off.
    ///
    /// # Errors
    /// A violation if it is none.
    #[cfg(not(loom))]
    pub fn attach(region: &Region, layout: &RamLayout) -> Result<Self, Error> {
        let bad =
            |field, found| Error::Violation(Violation::new("dirty log", Breach::Layout { field, found }));
        if region.len() != Self::region_len(layout) {
            return Err(bad("length", region.len()));
        }
        let header: Words = region.view_slice(0, HEADER_WORDS)?;
        let magic = header.first().map_or(0, |magic| magic.load(Acquire));
        if magic != MAGIC {
            return Err(bad("magic", magic));
        }
        let words = region.view_slice(HEADER_WORDS * 8, pages::word_count(layout))?;
        let in_progress = region.view_slice(8, WRITES_MAX)?;
        Ok(Self { layout: layout.clone(), words, in_progress, enabled: AtomicBool::new(false) })
    }

    /// The model checker's log, with two ends: the same fields, on the heap.
    #[cfg(loom)]
    #[must_use]
    pub fn model(layout: &RamLayout) -> (Self, Self) {
        let zeros = |count| (0..count).map(|_| AtomicU64::new(0)).collect();
        let words: Words = zeros(pages::word_count(layout));
        let in_progress: Words = zeros(WRITES_MAX);
        let end = || Self {
            layout: layout.clone(),
            words: words.clone(),
            in_progress: in_progress.clone(),
            enabled: AtomicBool::new(false),
        };
        (end(), end())
    }

    /// Writes as a process does that dies before it marks.
    #[cfg(loom)]
    pub fn die_writing(&self, gpa: Gpa, len: u64, write: impl FnOnce()) {
        let _ = self.note(gpa, len);
        write();
    }

    /// The RAM that this log is of.
    #[must_use]
    pub const fn layout(&self) -> &RamLayout {
        &self.layout
    }

    /// Switches marking on or off, for this end.
    pub fn set_enabled(&self, enabled: bool) {
        self.enabled.store(enabled, Relaxed);
        // Pairs with the one in `mark`.
        fence(SeqCst);
    }

    /// Whether this end marks.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.enabled.load(Relaxed)
    }

    /// Marks the pages of `len` bytes from `gpa`, which were just written. Bytes outside RAM have no page.
    pub fn mark(&self, gpa: Gpa, len: u64) {
        // The switch is looked at after the write, with a fence between: a write that finds the log off is seen
        // by whoever copies its page after switching it on.
        fence(SeqCst);
        if self.is_enabled() {
            self.set(gpa, len);
        }
    }

    fn set(&self, gpa: Gpa, len: u64) {
        let Some(range) = GpaRange::new(gpa, len) else { return };
        pages::for_each_word(&self.layout, range, |index, bits| {
            if let Some(word) = self.words.get(index) {
                // Release: who takes the bit sees the bytes whose page it stands for.
                word.fetch_or(bits, Release);
            }
        });
    }

    /// Writes guest RAM by `write` and marks it, such that the pages are in a later harvest even if this process
    /// dies at any point in between: while the write is in progress, every harvest has them too.
    pub fn writing<T>(&self, gpa: Gpa, len: u64, write: impl FnOnce() -> T) -> T {
        // Noted also while the log is off: it may be switched on in the middle of this.
        let note = self.note(gpa, len);
        let result = write();
        self.mark(gpa, len);
        if let Some(note) = note {
            // Release: who sees the note gone sees the bits.
            note.store(0, Release);
        }
        result
    }

    /// Adopts the log of an earlier life of this process: what it was writing when it died counts as written.
    pub fn adopt(&self) {
        for note in self.in_progress.iter() {
            if let Some((gpa, len)) = Note(note.load(Acquire)).range() {
                self.set(gpa, len);
            }
            note.store(0, Release);
        }
    }

    /// Takes all bits set since the last harvest, and adds them to `pages`, which is of the same RAM.
    ///
    /// # Panics
    /// Never; pages of another layout take what they have room for.
    pub fn harvest(&self, pages: &mut DirtyPages) {
        for (index, word) in self.words.iter().enumerate() {
            // Most words are zero most of the time; a look is cheaper than a swap. A bit that comes behind the
            // look is in the next harvest, as one that comes behind the swap is.
            if word.load(Relaxed) != 0 {
                pages.add(index, word.swap(0, AcqRel));
            }
        }
        // The notes after the bits: a write that ends in between has set its bits, and they stay for the next harvest.
        fence(SeqCst);
        for note in self.in_progress.iter() {
            if let Some((gpa, len)) = Note(note.load(Acquire)).range() {
                pages.mark(gpa, len);
            }
        }
    }

    /// Gives back bits that were harvested by an attempt that failed, for the next attempt to find.
    pub fn give_back(&self, pages: &DirtyPages) {
        for (index, (word, bits)) in self.words.iter().zip(pages.words()).enumerate() {
            debug_assert!(index < self.words.len(), "zip ends with the shorter");
            if *bits != 0 {
                word.fetch_or(*bits, Release);
            }
        }
    }

    /// Notes a write in progress in a free place; waits for one if there is none. `None` if nothing of it is RAM.
    fn note(&self, gpa: Gpa, len: u64) -> Option<&AtomicU64> {
        let wanted = Note::new(gpa, len)?.0;
        loop {
            for note in self.in_progress.iter() {
                if note.compare_exchange(0, wanted, AcqRel, Relaxed).is_ok() {
                    // The note before the write, for whoever harvests after seeing any of the write.
                    fence(SeqCst);
                    return Some(note);
                }
            }
            #[cfg(loom)]
            loom::thread::yield_now();
            #[cfg(not(loom))]
            std::thread::yield_now();
        }
    }
}

/// A write in progress: first page number in bits 63:24, number of pages in 23:0. Zero is none.
struct Note(u64);

impl Note {
    const COUNT_BITS: u32 = 24;
    const COUNT_MASK: u64 = (1 << Self::COUNT_BITS) - 1;

    fn new(gpa: Gpa, len: u64) -> Option<Self> {
        let range = GpaRange::new(gpa, len).filter(|range| !range.is_empty())?;
        let first = range.start().0 / PAGE_LEN;
        let last = (range.end().0 - 1) / PAGE_LEN;
        let count = last - first + 1;
        // RAM lies below 2^52: pages above have no bit. A longer write than 64 GiB does not exist.
        (first < 1 << 40).then_some(Self(first << Self::COUNT_BITS | count.min(Self::COUNT_MASK)))
    }

    /// The pages, of what may be any number.
    fn range(self) -> Option<(Gpa, u64)> {
        let count = self.0 & Self::COUNT_MASK;
        (count != 0).then_some((Gpa((self.0 >> Self::COUNT_BITS) * PAGE_LEN), count * PAGE_LEN))
    }
}

impl core::fmt::Debug for DirtyLog {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("DirtyLog").field("enabled", &self.is_enabled()).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests;
