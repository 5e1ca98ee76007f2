// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The dirty log with real threads and two mappings. Single interleavings are the model's: `tests/loom_dirty_log.rs`.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::thread;

use proptest::prelude::{any, proptest};
use proptest::{prop_assert, prop_assert_eq};

use super::{DirtyLog, DirtyPages, Note, WRITES_MAX};
use crate::addr::{Gpa, GpaRange, PAGE_LEN};
use crate::error::Error;
use crate::protocol::ram::{RamLayout, RamRegion};
use crate::shm::region::Region;

const LOW: u64 = 0x4000_0000;
const HIGH: u64 = 0x8000_0000;
/// Neither is a whole number of words.
const LOW_PAGES: u64 = 100;
const HIGH_PAGES: u64 = 70;

fn layout() -> RamLayout {
    let region =
        |gpa, pages, at| RamRegion { gpa: Gpa(gpa), len: pages * PAGE_LEN, file_offset: at * PAGE_LEN };
    RamLayout::new(vec![region(LOW, LOW_PAGES, 0), region(HIGH, HIGH_PAGES, LOW_PAGES)]).unwrap()
}

fn ends() -> (Region, DirtyLog, DirtyLog) {
    let region = DirtyLog::create("dirty", &layout()).unwrap();
    let producer = DirtyLog::attach(&region, &layout()).unwrap();
    producer.set_enabled(true);
    let coordinator = DirtyLog::attach(&region, &layout()).unwrap();
    (region, producer, coordinator)
}

fn harvest(log: &DirtyLog) -> DirtyPages {
    let mut pages = DirtyPages::none(&layout());
    log.harvest(&mut pages);
    pages
}

fn ranges(pages: &DirtyPages) -> Vec<(u64, u64)> {
    pages.ranges().map(|range| (range.start().0, range.len() / PAGE_LEN)).collect()
}

#[test]
fn marks_are_harvested_once_as_joined_ranges() {
    let (_region, producer, coordinator) = ends();
    producer.mark(Gpa(LOW), 1);
    producer.mark(Gpa(LOW + 0x1fff), 2);
    producer.mark(Gpa(LOW + 60 * PAGE_LEN), 10 * PAGE_LEN);
    producer.mark(Gpa(HIGH + 69 * PAGE_LEN), PAGE_LEN);
    let pages = harvest(&coordinator);
    assert_eq!(
        ranges(&pages),
        [(LOW, 3), (LOW + 60 * PAGE_LEN, 10), (HIGH + 69 * PAGE_LEN, 1)],
        "page 0, the two around 0x2000, across a word, the last"
    );
    assert_eq!(pages.count(), 14);
    assert!(pages.contains(Gpa(LOW + 0x2fff)) && !pages.contains(Gpa(LOW + 0x3000)));
    assert!(harvest(&coordinator).is_empty());
}

#[test]
fn marks_outside_ram_are_nothing_and_across_its_edges_are_cut() {
    let (_region, producer, coordinator) = ends();
    for (gpa, len) in [(0, 4), (LOW - 1, 1), (LOW + LOW_PAGES * PAGE_LEN, 9), (u64::MAX, 9), (LOW, 0)] {
        producer.mark(Gpa(gpa), len);
    }
    assert!(harvest(&coordinator).is_empty());
    producer.mark(Gpa(LOW - PAGE_LEN), HIGH);
    let all = harvest(&coordinator);
    assert_eq!(ranges(&all), [(LOW, LOW_PAGES), (HIGH, HIGH_PAGES)]);
    assert_eq!(all, DirtyPages::all(&layout()));
}

#[test]
fn log_that_is_off_marks_nothing() {
    let (_region, producer, coordinator) = ends();
    producer.set_enabled(false);
    producer.mark(Gpa(LOW), 1);
    assert_eq!(producer.writing(Gpa(LOW), 1, || 5), 5);
    assert!(harvest(&coordinator).is_empty());
}

#[test]
fn bits_given_back_are_harvested_again_with_the_new_ones() {
    let (_region, producer, coordinator) = ends();
    producer.mark(Gpa(LOW), 1);
    let failed = harvest(&coordinator);
    producer.mark(Gpa(HIGH), 1);
    coordinator.give_back(&failed);
    assert_eq!(ranges(&harvest(&coordinator)), [(LOW, 1), (HIGH, 1)]);
}

#[test]
fn write_in_progress_is_in_every_harvest_until_it_ends_or_is_adopted() {
    let (region, producer, coordinator) = ends();
    producer.writing(Gpa(HIGH + 5), 4, || {
        assert_eq!(ranges(&harvest(&coordinator)), [(HIGH, 1)]);
        assert_eq!(ranges(&harvest(&coordinator)), [(HIGH, 1)]);
    });
    assert_eq!(ranges(&harvest(&coordinator)), [(HIGH, 1)], "its mark, after it ended");
    assert!(harvest(&coordinator).is_empty());

    // Dies in the middle.
    assert!(producer.note(Gpa(LOW + 0x1000), 1).is_some());
    drop(producer);
    assert_eq!(ranges(&harvest(&coordinator)), [(LOW + 0x1000, 1)]);
    let next_life = DirtyLog::attach(&region, &layout()).unwrap();
    next_life.adopt();
    assert_eq!(ranges(&harvest(&coordinator)), [(LOW + 0x1000, 1)]);
    assert!(harvest(&coordinator).is_empty());
}

#[test]
fn more_writes_at_once_than_places_wait_for_each_other() {
    let (_region, producer, coordinator) = ends();
    thread::scope(|scope| {
        for thread in 0..2 * WRITES_MAX as u64 {
            let producer = &producer;
            scope.spawn(move || {
                producer.writing(Gpa(LOW + thread * PAGE_LEN), 1, || {
                    thread::sleep(std::time::Duration::from_millis(2));
                });
            });
        }
    });
    assert_eq!(harvest(&coordinator).count(), 2 * WRITES_MAX as u64);
}

#[test]
fn bits_and_notes_that_stand_for_no_page_are_not_heard() {
    let (_region, producer, coordinator) = ends();
    for word in producer.words.iter() {
        word.store(u64::MAX, Relaxed);
    }
    producer.in_progress[0].store(u64::MAX, Relaxed);
    producer.in_progress[1].store(1, Relaxed);
    let pages = harvest(&coordinator);
    assert_eq!(pages, DirtyPages::all(&layout()));
    assert_eq!(pages.count(), LOW_PAGES + HIGH_PAGES);
}

#[test]
fn memory_that_is_no_log_of_this_ram_is_refused() {
    let blank = Region::create("blank", DirtyLog::region_len(&layout())).unwrap();
    assert!(matches!(DirtyLog::attach(&blank, &layout()), Err(Error::Violation(_))));
    let larger = RamLayout::new(vec![RamRegion { gpa: Gpa(LOW), len: 1 << 30, file_offset: 0 }]).unwrap();
    let log = DirtyLog::create("dirty", &layout()).unwrap();
    assert!(matches!(DirtyLog::attach(&log, &larger), Err(Error::Violation(_))));
}

/// Marks race with harvests; then every mark is in some harvest that ended after it was made.
#[test]
fn marks_beside_harvests_are_all_found() {
    const ROUNDS: u64 = 3000;
    let (_region, producer, coordinator) = ends();
    let done = AtomicBool::new(false);
    // Each thread owns a page and counts in it, as a guest writes; the harvester copies what it finds dirty.
    let counters: Vec<_> = (0..4).map(|_| std::sync::atomic::AtomicU64::new(0)).collect();
    let page = |thread: usize| Gpa(LOW + (thread as u64 * 21) * PAGE_LEN);
    let mut copies = [0; 4];
    thread::scope(|scope| {
        let writers: Vec<_> = counters
            .iter()
            .enumerate()
            .map(|(thread, counter)| {
                let producer = &producer;
                scope.spawn(move || {
                    for value in 1..=ROUNDS {
                        if thread % 2 == 0 {
                            counter.store(value, Relaxed);
                            producer.mark(page(thread), 8);
                        } else {
                            producer.writing(page(thread), 8, || counter.store(value, Relaxed));
                        }
                    }
                })
            })
            .collect();
        let harvester = scope.spawn(|| {
            loop {
                let last = done.load(SeqCst);
                let pages = harvest(&coordinator);
                for (thread, counter) in counters.iter().enumerate() {
                    if pages.contains(page(thread)) {
                        copies[thread] = counter.load(Relaxed);
                    }
                }
                if last {
                    return copies;
                }
            }
        });
        for writer in writers {
            writer.join().unwrap();
        }
        done.store(true, SeqCst);
        assert_eq!(harvester.join().unwrap(), [ROUNDS; 4]);
    });
}

proptest! {
    /// Against a plain set of page numbers.
    #[test]
    fn marks_are_exactly_the_pages_touched(
        marks in proptest::collection::vec((0_usize..3, 0..120 * PAGE_LEN, 0..5 * PAGE_LEN), 0..12),
    ) {
        let (_region, producer, coordinator) = ends();
        let mut expected = BTreeSet::new();
        for (base, offset, len) in marks {
            let gpa = [LOW, HIGH, 0][base] + offset;
            producer.mark(Gpa(gpa), len);
            for byte in (gpa..gpa + len).step_by(64).chain((len > 0).then(|| gpa + len - 1)) {
                let in_low = (LOW..LOW + LOW_PAGES * PAGE_LEN).contains(&byte);
                let in_high = (HIGH..HIGH + HIGH_PAGES * PAGE_LEN).contains(&byte);
                if in_low || in_high {
                    expected.insert(byte / PAGE_LEN);
                }
            }
        }
        let pages = harvest(&coordinator);
        let found: BTreeSet<_> = pages
            .ranges()
            .flat_map(|range| range.start().0 / PAGE_LEN..range.end().0 / PAGE_LEN)
            .collect();
        prop_assert_eq!(&found, &expected);
        prop_assert_eq!(pages.count(), expected.len() as u64);
    }

    #[test]
    fn note_covers_its_write_and_any_note_is_harmless(gpa in any::<u64>(), len in 1..1_u64 << 33, raw in any::<u64>()) {
        if let (Some(note), Some(range)) = (Note::new(Gpa(gpa), len), GpaRange::new(Gpa(gpa), len)) {
            let (first, pages_len) = note.range().unwrap();
            prop_assert!(first.0 <= gpa && first.0 + pages_len >= range.end().0);
        }
        let mut pages = DirtyPages::none(&layout());
        if let Some((gpa, len)) = Note(raw).range() {
            pages.mark(gpa, len);
        }
    }
}
