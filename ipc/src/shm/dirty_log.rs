// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which pages of guest RAM a process has written: bitmaps in shared memory, one bit per 4 KiB page by GPA.
//!
//! One log per process that writes guest RAM. The coordinator makes the object; it has two bitmaps, of which the
//! producer writes one. `Rearm` flips them: from then on the other is written, and the coordinator takes the closed one
//! by plain reads and writes ([`harvest`]) into its [`OwedMap`]. A page written is marked *after* the write: a mark
//! that came first could be harvested, and its page copied, before the write. A mark that was under way while the log
//! was flipped is made in both. The log outlives its producer: a range that is being written stands in the header
//! ([`DirtyLog::writing`]), so that a process that dies loses no page.
//!
//! A round while the guest runs: `Rearm` every producer and wait for the answers (each may remember pages as marked
//! already); harvest; copy the pages. The last: stop all producers; `Rearm`; harvest; copy; save. What a producer or
//! its header says is believed as far as a lie costs surplus: a garbled header means all of RAM.

mod harvest;
mod object;
mod order;
mod owed;
mod pages;
#[cfg(not(loom))]
mod shared_owed;

pub use harvest::{Answer, Harvest, Harvester, Moment, harvest, rearm_and_harvest};
pub use object::WRITES_MAX;
pub use order::Order;
#[cfg(loom)]
pub use order::weakened;
pub use owed::OwedMap;
#[cfg(not(loom))]
pub use shared_owed::SharedOwed;

use crate::addr::{Gpa, GpaRange, PAGE_LEN};
#[cfg(not(loom))]
use crate::error::Error;
use crate::protocol::control::{DirtyLogOp, DirtyLogState, Exactness};
use crate::protocol::ram::RamLayout;
#[cfg(not(loom))]
use crate::shm::region::Region;
use crate::shm::sync::Ordering::{AcqRel, Relaxed};
use crate::shm::sync::{AtomicBool, AtomicU64};
use object::{Field, Object};
use order::fence;

/// The producer's end of a log.
pub struct DirtyLog {
    object: Object,
    /// Of this end only: whether [`Self::mark`] marks.
    enabled: AtomicBool,
    /// Whether the header is this life's to write. Before that an earlier life may be writing still, or for ever: it
    /// goes on if the move to this one is given up.
    adopted: AtomicBool,
    /// What the header is to have then.
    epoch: AtomicU64,
    unmarked_writes: AtomicBool,
}

impl DirtyLog {
    /// Makes a log's memory object: for the coordinator.
    ///
    /// # Errors
    /// If the kernel has no memory object to give.
    #[cfg(not(loom))]
    pub fn create(name: &str, layout: &RamLayout) -> Result<Region, Error> {
        Object::create(name, layout)
    }

    /// The size of the memory object for this much RAM.
    #[cfg(not(loom))]
    #[must_use]
    pub fn region_len(layout: &RamLayout) -> u64 {
        Object::region_len(layout)
    }

    /// Views a memory object as the log of this RAM, switched off. An earlier life of this process may be writing
    /// still: what it has in the object stays as it is, up to [`Self::adopt`], whatever is set on this end before.
    ///
    /// # Errors
    /// A violation if it is none.
    #[cfg(not(loom))]
    pub fn attach(region: &Region, layout: &RamLayout) -> Result<Self, Error> {
        Ok(Self::over(Object::attach(region, layout)?))
    }

    /// The model checker's log: the same fields, on the heap.
    #[cfg(loom)]
    #[must_use]
    pub fn model(layout: &RamLayout) -> Self {
        let log = Self::over(Object::model(layout));
        log.adopt();
        log
    }

    /// The next life of a process of the model checker's.
    #[cfg(loom)]
    #[must_use]
    pub fn next_life(&self) -> Self {
        let log = Self::over(self.object.clone());
        log.adopt();
        log
    }

    /// Writes as a process does that dies before it marks, or in the middle of that.
    #[cfg(loom)]
    pub fn die_writing(&self, gpa: Gpa, len: u64, marks: bool, write: impl FnOnce()) {
        let _ = self.note(gpa, len);
        write();
        if let Some(range) = GpaRange::new(gpa, len).filter(|_| marks) {
            fence(Order::WriteBeforeSwitch);
            self.set_in(self.object.load(Field::Flips), range);
        }
    }

    fn over(object: Object) -> Self {
        Self {
            object,
            enabled: AtomicBool::default(),
            adopted: AtomicBool::default(),
            epoch: AtomicU64::default(),
            unmarked_writes: AtomicBool::default(),
        }
    }

    /// The RAM that this log is of.
    #[must_use]
    pub const fn layout(&self) -> &RamLayout {
        &self.object.layout
    }

    /// Marks every write from now on, in the name of `epoch`.
    pub fn enable(&self, epoch: u64) {
        self.epoch.store(epoch, Relaxed);
        self.enabled.store(true, Relaxed);
        if self.is_adopted() {
            self.object.store(Field::Epoch, epoch);
        }
        fence(Order::SwitchBeforeCopy);
    }

    /// Marks no more.
    pub fn disable(&self) {
        self.enabled.store(false, Relaxed);
    }

    /// Does a step of the log. The caller has seen to what it remembers as marked, and to logs of others.
    pub fn follow(&self, op: DirtyLogOp) {
        match op {
            DirtyLogOp::Enable { epoch } => self.enable(epoch),
            DirtyLogOp::Disable => self.disable(),
            DirtyLogOp::Rearm => self.flip(),
        }
    }

    /// Whether this end marks.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.enabled.load(Relaxed)
    }

    /// The epoch in whose name this end was enabled last, 0 before the first.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Relaxed)
    }

    fn is_adopted(&self) -> bool {
        self.adopted.load(Relaxed)
    }

    /// How it logs, for the answer to a request; `exact` is of the time since the last.
    #[must_use]
    pub fn state(&self, exact: Exactness) -> DirtyLogState {
        // A life whose log was never enabled answers for no epoch, whatever an earlier one has left in the header.
        DirtyLogState { epoch: if self.is_enabled() { self.epoch() } else { 0 }, exact }
    }

    /// Says in the header whether there are writes that are not marked here as they happen: those that the kernel logs,
    /// or nobody. If the process dies then, what they were is not known.
    pub fn set_unmarked_writes(&self, there_are: bool) {
        self.unmarked_writes.store(there_are, Relaxed);
        if self.is_adopted() {
            self.object.store(Field::UnmarkedWrites, there_are.into());
        }
    }

    /// Flips the bitmaps: the one that was written is the coordinator's from now on. Called by one thread at a time. A
    /// life whose turn it is not has written nothing, and flips nothing.
    ///
    /// A mark that is under way may still set bits in the closed one, which may be lost to the harvest; it has them in
    /// the other too then.
    pub fn flip(&self) {
        if self.is_adopted() {
            self.flip_now();
        }
    }

    fn flip_now(&self) {
        let flips = self.object.load(Field::Flips);
        self.object.store(Field::Flips, flips.wrapping_add(1));
        fence(Order::FlipBeforeHarvest);
    }

    /// Marks the pages of `len` bytes from `gpa`, which were just written. Bytes outside RAM have no page.
    pub fn mark(&self, gpa: Gpa, len: u64) {
        // The switch is looked at after the write, with a fence between: a write that finds the log off is seen
        // by whoever copies its page after switching it on.
        fence(Order::WriteBeforeSwitch);
        if self.is_enabled() {
            self.set(gpa, len);
        }
    }

    /// Marks all of RAM.
    pub fn mark_all(&self) {
        for region in self.layout().regions() {
            self.mark(region.gpa, region.len);
        }
    }

    fn set(&self, gpa: Gpa, len: u64) {
        let Some(range) = GpaRange::new(gpa, len) else { return };
        let mut flips = self.object.load(Field::Flips);
        loop {
            self.set_in(flips, range);
            // Either this sees that the log was flipped, or whoever takes the closed bitmap sees the bits.
            fence(Order::BitsBeforeLook);
            let now = self.object.load(Field::Flips);
            if now == flips {
                return;
            }
            // Once more for each flip in between, and those are steps of the coordinator's.
            flips = now;
        }
    }

    fn set_in(&self, flips: u64, range: GpaRange) {
        let bitmap = self.object.bitmap(flips);
        pages::for_each_word(self.layout(), range, |index, bits| {
            if let Some(word) = bitmap.get(index) {
                word.fetch_or(bits, Relaxed);
            }
        });
    }

    /// Writes guest RAM by `write` and marks it, such that the pages are in a later harvest even if this process
    /// dies at any point in between.
    pub fn writing<T>(&self, gpa: Gpa, len: u64, write: impl FnOnce() -> T) -> T {
        // Noted also while the log is off: it may be switched on in the middle of this.
        let note = self.note(gpa, len);
        let result = write();
        self.mark(gpa, len);
        if let Some(note) = note {
            // A process that dies has executed all up to some instruction: what is not noted any more was marked.
            note.store(0, crate::shm::sync::Ordering::Release);
        }
        result
    }

    /// Takes over the log from an earlier life of this process, which has ended: what it was writing then counts as
    /// written, and its notes are free. What was set on this life before is in force from now on. In an epoch that the
    /// earlier life has logged in as well its marks stay; what it wrote unmarked then nobody has seen, nor what went on
    /// between the two, so that all of RAM counts as written. Called once, before this life writes; beside no other
    /// step of the log.
    pub fn adopt(&self) {
        self.adopted.store(true, Relaxed);
        if self.is_enabled() {
            let goes_on = self.object.load(Field::Epoch) == self.epoch();
            if goes_on && self.object.load(Field::UnmarkedWrites) != 0 {
                self.mark_all();
            }
            self.object.store(Field::Epoch, self.epoch());
        }
        // What an earlier life wrote unmarked may go on: only who began it says that it has ended.
        if self.unmarked_writes.load(Relaxed) {
            self.object.store(Field::UnmarkedWrites, 1);
        }
        for note in self.object.notes() {
            if let Some((gpa, len)) = Note(note.load(Relaxed)).range() {
                self.set(gpa, len);
            }
            note.store(0, crate::shm::sync::Ordering::Release);
        }
    }

    /// Notes a write in progress in a free place; waits for one if there is none. `None` if nothing of it is RAM.
    fn note(&self, gpa: Gpa, len: u64) -> Option<&AtomicU64> {
        let wanted = Note::new(gpa, len)?.0;
        loop {
            for note in self.object.notes() {
                // Acquire: the write is behind it, whatever the compiler does.
                if note.compare_exchange(0, wanted, AcqRel, Relaxed).is_ok() {
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
