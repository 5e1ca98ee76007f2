// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The coordinator's end: takes what producers have marked into the owed map.
//!
//! All logs are taken together, a page of each at a time: a page of the owed map stays in the nearest cache while it
//! takes from each log, and the processor reads ahead in one log after the other (line by line from all of them it was
//! slower by a third). What is believed of a log is decided here, from its header and what its process answered:
//! anything else than one flip since the last time, in the epoch that was asked for, means all of RAM. Reads of a log
//! are bounded and cannot fault.

#[cfg(not(loom))]
use crate::error::Error;
use crate::protocol::control::{DirtyLogState, Exactness};
#[cfg(not(loom))]
use crate::protocol::ram::RamLayout;
#[cfg(not(loom))]
use crate::shm::region::Region;
use crate::shm::sync::AtomicU64;
use crate::shm::sync::Ordering::Relaxed;

use super::object::{Field, LINE_WORDS, Object};
use super::{DirtyLog, Note, OwedMap};

/// What is taken from one log before the next one's turn, in lines: a page.
const PAGE_LINES: usize = 64;

/// The coordinator's end of one log.
pub struct Harvester {
    object: Object,
    epoch: u64,
    /// How often the log was flipped when it was looked at last.
    flips: u64,
}

/// What a log's process said to `Rearm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It has flipped.
    Rearmed(DirtyLogState),
    /// That it cannot, or nothing in time: it may still be writing.
    Failed,
    /// Its life has ended, and was reaped.
    Ended,
}

/// When a harvest is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The guest and its devices may be writing.
    Running,
    /// All have stopped: the last harvest.
    Stopped,
}

/// One log of a harvest.
#[derive(Debug)]
pub struct Harvest<'a> {
    /// The harvesting end of a process's log.
    pub log: &'a mut Harvester,
    /// What its process said.
    pub answer: Answer,
}

impl Harvester {
    /// Views a log's memory object.
    ///
    /// # Errors
    /// A violation if it is none.
    #[cfg(not(loom))]
    pub fn attach(region: &Region, layout: &RamLayout) -> Result<Self, Error> {
        Ok(Self::over(Object::attach(region, layout)?))
    }

    /// The other end of a producer in this process, as the header has it now.
    #[must_use]
    pub fn of(log: &DirtyLog) -> Self {
        Self::over(log.object.clone())
    }

    fn over(object: Object) -> Self {
        let (epoch, flips) = (object.load(Field::Epoch), object.load(Field::Flips));
        Self { object, epoch, flips }
    }

    /// Empties the log before its producer is asked to enable it for `epoch`; all of RAM is owed after that answer.
    pub fn begin(&mut self, epoch: u64) {
        for flips in [0, 1] {
            for word in self.object.bitmap(flips) {
                if word.load(Relaxed) != 0 {
                    word.store(0, Relaxed);
                }
            }
        }
        *self = Self { epoch, ..Self::over(self.object.clone()) };
    }

    /// What of the log is believed. Every word of the header is read once.
    fn judge(&mut self, answer: Answer, moment: Moment) -> Exactness {
        let flips = self.object.load(Field::Flips);
        let flipped = flips.wrapping_sub(std::mem::replace(&mut self.flips, flips));
        let is_whole = self.object.is_whole() && self.object.load(Field::Epoch) == self.epoch;
        let unmarked = self.object.load(Field::UnmarkedWrites) != 0;
        let said = match answer {
            Answer::Rearmed(DirtyLogState { epoch, exact }) if is_whole && epoch == self.epoch => match exact
            {
                // One flip, or bits of another round are in the bitmap that is still written.
                Exactness::Exact if flipped != 1 => Exactness::Everything,
                exact => exact,
            },
            // What it wrote unmarked may go on without it (a server's DMA): all of RAM, when everything has stopped.
            Answer::Ended if unmarked => Exactness::Unseen,
            Answer::Ended if is_whole && flipped <= 1 => Exactness::Exact,
            Answer::Rearmed(_) | Answer::Failed | Answer::Ended => Exactness::Everything,
        };
        match (said, moment) {
            (Exactness::Unseen, Moment::Stopped) => Exactness::Everything,
            (said, _) => said,
        }
    }
}

/// Takes every log's closed bitmap, and both of one whose process has ended, into `owed`, with the ranges that are
/// being written. A log belongs to every harvest up to the last, also when its process has ended. Comes back with what
/// each amounted to: `Everything` has put all of RAM into the map; `Unseen` does so in the last harvest.
pub fn harvest(logs: &mut [Harvest<'_>], moment: Moment, owed: &mut OwedMap) -> Vec<Exactness> {
    let judged: Vec<_> = logs.iter_mut().map(|Harvest { log, answer }| log.judge(*answer, moment)).collect();
    let mut bitmaps = Vec::new();
    for Harvest { log, answer } in &*logs {
        let closed = (*answer != Answer::Failed).then(|| log.flips.wrapping_add(1));
        let open = (*answer == Answer::Ended).then_some(log.flips);
        bitmaps.extend(closed.into_iter().chain(open).map(|flips| log.object.bitmap(flips).as_chunks()));
    }
    let (lines, rest): (Vec<_>, Vec<_>) = bitmaps.into_iter().unzip();
    let (owed_lines, owed_rest) = owed.words().as_chunks_mut();
    take::<LINE_WORDS>(&lines, owed_lines);
    // Behind the last whole line: word by word.
    let words: Vec<_> = rest.into_iter().map(|rest| rest.as_chunks().0).collect();
    take::<1>(&words, owed_rest.as_chunks_mut().0);
    owed.cut_tails();
    for note in logs.iter().flat_map(|harvest| harvest.log.object.notes()) {
        if let Some((gpa, len)) = Note(note.load(Relaxed)).range() {
            owed.mark(gpa, len);
        }
    }
    if judged.contains(&Exactness::Everything) {
        owed.mark_all();
    }
    judged
}

/// Moves the bits of all bitmaps to the map, `N` words at a time. Words without a bit are read, and not written.
fn take<const N: usize>(bitmaps: &[&[[AtomicU64; N]]], owed: &mut [[u64; N]]) {
    for (page, owed) in owed.chunks_mut(PAGE_LINES).enumerate() {
        for lines in bitmaps.iter().filter_map(|bitmap| bitmap.chunks(PAGE_LINES).nth(page)) {
            for (into, words) in owed.iter_mut().zip(lines) {
                // A bit that is set while it is taken may be seen, or overwritten: its mark is in the other bitmap too.
                let bits = words.each_ref().map(|word| word.load(Relaxed));
                if bits.iter().any(|bits| *bits != 0) {
                    words.iter().for_each(|word| word.store(0, Relaxed));
                    into.iter_mut().zip(bits).for_each(|(word, bits)| *word |= bits);
                }
            }
        }
    }
}

/// A harvest in the producer's own process, for who has both ends.
pub fn rearm_and_harvest(log: &DirtyLog, owed: &mut OwedMap) {
    let mut end = Harvester::of(log);
    log.flip_now();
    let answer = Answer::Rearmed(DirtyLogState { epoch: end.epoch, exact: Exactness::Exact });
    harvest(&mut [Harvest { log: &mut end, answer }], Moment::Running, owed);
}

impl core::fmt::Debug for Harvester {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self { object: _, epoch, flips } = self;
        f.debug_struct("Harvester").field("epoch", epoch).field("flips", flips).finish_non_exhaustive()
    }
}
