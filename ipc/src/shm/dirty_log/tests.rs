// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The dirty log with real threads and two mappings. Single interleavings are the model's: `tests/loom_dirty_log.rs`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::thread;

use proptest::prelude::{any, proptest};
use proptest::{prop_assert, prop_assert_eq};

use super::{Answer, DirtyLog, Harvest, Harvester, Moment, Note, OwedMap, WRITES_MAX, harvest};
use crate::addr::{Gpa, GpaRange, PAGE_LEN};
use crate::error::Error;
use crate::protocol::control::{DirtyLogState, Exactness};
use crate::protocol::ram::{RamLayout, RamRegion};
use crate::shm::region::Region;

mod hostile;
mod owed;
mod shared_owed;

const LOW: u64 = 0x4000_0000;
const HIGH: u64 = 0x8000_0000;
/// Neither is a whole number of words.
const LOW_PAGES: u64 = 100;
const HIGH_PAGES: u64 = 70;
const ALL_PAGES: u64 = LOW_PAGES + HIGH_PAGES;
const EPOCH: u64 = 7;

fn layout() -> RamLayout {
    let region =
        |gpa, pages, at| RamRegion { gpa: Gpa(gpa), len: pages * PAGE_LEN, file_offset: at * PAGE_LEN };
    RamLayout::new(vec![region(LOW, LOW_PAGES, 0), region(HIGH, HIGH_PAGES, LOW_PAGES)]).unwrap()
}

/// A log with both its ends.
struct Ends {
    region: Region,
    producer: Arc<DirtyLog>,
    coordinator: Harvester,
}

impl Ends {
    fn new() -> Ends {
        let region = DirtyLog::create("dirty", &layout()).unwrap();
        let producer = Arc::new(DirtyLog::attach(&region, &layout()).unwrap());
        producer.adopt();
        let mut coordinator = Harvester::attach(&region, &layout()).unwrap();
        coordinator.begin(EPOCH);
        producer.enable(EPOCH);
        Ends { region, producer, coordinator }
    }

    /// A round while the guest runs.
    fn round(&mut self) -> OwedMap {
        self.producer.flip();
        let (owed, exactness) = self.take(rearmed(Exactness::Exact), Moment::Running);
        assert_eq!(exactness, Exactness::Exact);
        owed
    }

    fn take(&mut self, answer: Answer, moment: Moment) -> (OwedMap, Exactness) {
        let mut owed = no_pages();
        let log = &mut self.coordinator;
        let judged = harvest(&mut [Harvest { log, answer }], moment, &mut owed);
        (owed, judged[0])
    }
}

fn rearmed(exact: Exactness) -> Answer {
    Answer::Rearmed(DirtyLogState { epoch: EPOCH, exact })
}

fn no_pages() -> OwedMap {
    OwedMap::new(&layout())
}

fn all_pages() -> OwedMap {
    let mut all = no_pages();
    all.mark_all();
    all
}

fn ranges(pages: &OwedMap) -> Vec<(u64, u64)> {
    pages.ranges().map(|range| (range.start().0, range.len() / PAGE_LEN)).collect()
}

#[test]
fn marks_are_harvested_once_as_joined_ranges() {
    let mut ends = Ends::new();
    ends.producer.mark(Gpa(LOW), 1);
    ends.producer.mark(Gpa(LOW + 0x1fff), 2);
    ends.producer.mark(Gpa(LOW + 60 * PAGE_LEN), 10 * PAGE_LEN);
    ends.producer.mark(Gpa(HIGH + 69 * PAGE_LEN), PAGE_LEN);
    let pages = ends.round();
    assert_eq!(
        ranges(&pages),
        [(LOW, 3), (LOW + 60 * PAGE_LEN, 10), (HIGH + 69 * PAGE_LEN, 1)],
        "page 0, the two around 0x2000, across a word, the last"
    );
    assert_eq!(pages.count(), 14);
    assert!(pages.contains(Gpa(LOW + 0x2fff)) && !pages.contains(Gpa(LOW + 0x3000)));
    assert!(ends.round().is_empty());
}

#[test]
fn union_of_logs_has_what_each_has_in_lines_of_the_cache_and_behind_the_last_whole_one() {
    const PAGES: u64 = 64 * 19 - 5;
    const STEPS: [u64; 3] = [3, 67, 130];
    let region = RamRegion { gpa: Gpa(LOW), len: PAGES * PAGE_LEN, file_offset: 0 };
    let layout = RamLayout::new(vec![region]).unwrap();
    let mut ends = STEPS.map(|step| {
        let region = DirtyLog::create("dirty", &layout).unwrap();
        let producer = DirtyLog::attach(&region, &layout).unwrap();
        producer.adopt();
        let mut coordinator = Harvester::attach(&region, &layout).unwrap();
        coordinator.begin(EPOCH);
        producer.enable(EPOCH);
        (0..PAGES).filter(|page| page % step == 1).for_each(|page| producer.mark(page_at(page), 1));
        (producer, coordinator)
    });
    let mut round = || {
        let mut owed = OwedMap::new(&layout);
        let logs = ends.iter_mut().map(|(producer, log)| {
            producer.flip();
            Harvest { log, answer: rearmed(Exactness::Exact) }
        });
        harvest(&mut logs.collect::<Vec<_>>(), Moment::Running, &mut owed);
        owed
    };
    let owed = round();
    for page in 0..PAGES {
        let is_marked = STEPS.iter().any(|step| page % step == 1);
        assert_eq!(owed.contains(page_at(page)), is_marked, "page {page}");
    }
    assert!(round().is_empty(), "it is taken out of the logs");
}

fn page_at(page: u64) -> Gpa {
    Gpa(LOW + page * PAGE_LEN)
}

#[test]
fn marks_outside_ram_are_nothing_and_across_its_edges_are_cut() {
    let mut ends = Ends::new();
    for (gpa, len) in [(0, 4), (LOW - 1, 1), (LOW + LOW_PAGES * PAGE_LEN, 9), (u64::MAX, 9), (LOW, 0)] {
        ends.producer.mark(Gpa(gpa), len);
    }
    assert!(ends.round().is_empty());
    ends.producer.mark(Gpa(LOW - PAGE_LEN), HIGH);
    let all = ends.round();
    assert_eq!(ranges(&all), [(LOW, LOW_PAGES), (HIGH, HIGH_PAGES)]);
    assert_eq!(all, all_pages());
}

#[test]
fn log_that_is_off_marks_nothing() {
    let mut ends = Ends::new();
    ends.producer.disable();
    ends.producer.mark(Gpa(LOW), 1);
    assert_eq!(ends.producer.writing(Gpa(LOW), 1, || 5), 5);
    assert!(ends.round().is_empty());
}

#[test]
fn write_in_progress_is_in_every_harvest_until_it_ends() {
    let mut ends = Ends::new();
    let producer = Arc::clone(&ends.producer);
    producer.writing(Gpa(HIGH + 5), 4, || {
        assert_eq!(ranges(&ends.round()), [(HIGH, 1)]);
        assert_eq!(ranges(&ends.round()), [(HIGH, 1)]);
    });
    assert_eq!(ranges(&ends.round()), [(HIGH, 1)], "its mark, after it ended");
    assert!(ends.round().is_empty());
}

#[test]
fn life_that_ends_owes_what_it_marked_and_what_it_was_writing() {
    let mut ends = Ends::new();
    ends.producer.mark(Gpa(LOW), 1);
    // It has flipped, and nobody heard of it; then it dies in the middle of a write.
    ends.producer.flip();
    ends.producer.mark(Gpa(LOW + 2 * PAGE_LEN), 1);
    assert!(ends.producer.note(Gpa(HIGH), 1).is_some());
    let (owed, exactness) = ends.take(Answer::Ended, Moment::Running);
    assert_eq!(exactness, Exactness::Exact);
    assert_eq!(ranges(&owed), [(LOW, 1), (LOW + 2 * PAGE_LEN, 1), (HIGH, 1)]);
    // The next life has the notes, and goes on in the same epoch.
    ends.producer = Arc::new(DirtyLog::attach(&ends.region, &layout()).unwrap());
    ends.producer.adopt();
    assert!(!ends.producer.is_enabled());
    ends.producer.enable(EPOCH);
    ends.producer.mark(Gpa(LOW + 4 * PAGE_LEN), 1);
    assert_eq!(ranges(&ends.round()), [(LOW + 4 * PAGE_LEN, 1), (HIGH, 1)]);
    assert!(ends.round().is_empty());
}

#[test]
fn life_that_waits_for_its_turn_leaves_the_notes_of_the_one_that_writes() {
    let mut ends = Ends::new();
    let producer = Arc::clone(&ends.producer);
    producer.writing(Gpa(LOW + 7), 1, || {
        // A save/restore: the next life is ready while this one writes, and then does not come to be.
        let next = DirtyLog::attach(&ends.region, &layout()).unwrap();
        drop(next);
        assert_eq!(ranges(&ends.round()), [(LOW, 1)], "it may be copied before the write");
        // This one dies here.
        assert_eq!(ranges(&ends.take(Answer::Ended, Moment::Stopped).0), [(LOW, 1)]);
    });
}

#[test]
fn life_that_waits_for_its_turn_changes_nothing_of_the_header_whatever_it_is_told() {
    let mut ends = Ends::new();
    ends.producer.mark(Gpa(LOW), 1);
    let next = DirtyLog::attach(&ends.region, &layout()).unwrap();
    next.enable(EPOCH + 1);
    next.set_unmarked_writes(true);
    next.flip();
    let state = DirtyLogState { epoch: EPOCH + 1, exact: Exactness::Exact };
    assert_eq!(next.state(Exactness::Exact), state, "it answers for itself");
    // The move is given up, and the old life goes on in its own epoch: an exact round, and an exact end.
    assert_eq!(ranges(&ends.round()), [(LOW, 1)]);
    ends.producer.mark(Gpa(HIGH), 1);
    let (owed, exactness) = ends.take(Answer::Ended, Moment::Stopped);
    assert_eq!((ranges(&owed), exactness), (vec![(HIGH, 1)], Exactness::Exact));
    // Or it comes to be: what it was told is in the header then, and it writes there.
    ends.coordinator.begin(EPOCH + 1);
    next.adopt();
    next.mark(Gpa(LOW + PAGE_LEN), 1);
    next.flip();
    let (owed, exactness) = ends.take(Answer::Rearmed(state), Moment::Running);
    assert_eq!((ranges(&owed), exactness), (vec![(LOW + PAGE_LEN, 1)], Exactness::Exact));
    assert_eq!(ends.take(Answer::Ended, Moment::Running).1, Exactness::Unseen);
}

#[test]
fn next_life_that_logs_in_the_same_epoch_goes_on_with_what_the_one_before_has_marked() {
    for (is_unmarked, epoch) in [(false, EPOCH), (true, EPOCH), (true, EPOCH - 1)] {
        let mut ends = Ends::new();
        ends.producer.enable(epoch);
        ends.producer.set_unmarked_writes(is_unmarked);
        ends.producer.mark(Gpa(LOW), 1);
        let next = DirtyLog::attach(&ends.region, &layout()).unwrap();
        next.enable(EPOCH);
        next.adopt();
        next.mark(Gpa(HIGH), 1);
        next.flip();
        let (owed, exactness) = ends.take(Answer::Rearmed(next.state(Exactness::Exact)), Moment::Running);
        assert_eq!(exactness, Exactness::Exact);
        if is_unmarked && epoch == EPOCH {
            assert_eq!(owed, all_pages(), "what it wrote unmarked nobody has seen");
        } else {
            assert_eq!(ranges(&owed), [(LOW, 1), (HIGH, 1)]);
        }
    }
}

#[test]
fn next_life_of_one_that_died_between_its_flip_and_the_harvest_owes_all_of_ram() {
    let mut ends = Ends::new();
    ends.producer.mark(Gpa(LOW), 1);
    ends.producer.flip();
    let next = DirtyLog::attach(&ends.region, &layout()).unwrap();
    next.enable(EPOCH);
    next.adopt();
    next.flip();
    let state = next.state(Exactness::Exact);
    assert_eq!(ends.take(Answer::Rearmed(state), Moment::Running).0, all_pages());
}

#[test]
fn log_is_believed_for_one_flip_in_its_epoch_and_no_other() {
    let exactness = |flips: u32, answer, moment| {
        let mut ends = Ends::new();
        (0..flips).for_each(|_| ends.producer.flip());
        let (owed, exactness) = ends.take(answer, moment);
        let expected = if exactness == Exactness::Everything { all_pages() } else { no_pages() };
        assert_eq!(owed, expected);
        exactness
    };
    let (exact, all, unseen) = (Exactness::Exact, Exactness::Everything, Exactness::Unseen);
    for moment in [Moment::Running, Moment::Stopped] {
        assert_eq!(exactness(1, rearmed(exact), moment), exact);
        assert_eq!(exactness(0, rearmed(exact), moment), all);
        assert_eq!(exactness(2, rearmed(exact), moment), all);
        assert_eq!(exactness(1, rearmed(all), moment), all);
        assert_eq!(exactness(1, Answer::Failed, moment), all);
        assert_eq!(exactness(0, Answer::Failed, moment), all);
        assert_eq!(exactness(0, Answer::Ended, moment), exact);
        assert_eq!(exactness(1, Answer::Ended, moment), exact);
        assert_eq!(exactness(2, Answer::Ended, moment), all);
        let other = Answer::Rearmed(DirtyLogState { epoch: EPOCH + 1, exact });
        assert_eq!(exactness(1, other, moment), all);
    }
    // What nobody sees is sent once, at the end.
    assert_eq!(exactness(1, rearmed(unseen), Moment::Running), unseen);
    assert_eq!(exactness(1, rearmed(unseen), Moment::Stopped), all);
}

#[test]
fn life_that_ends_with_writes_that_it_did_not_mark_owes_all_of_ram_when_all_have_stopped() {
    let mut ends = Ends::new();
    ends.producer.set_unmarked_writes(true);
    assert_eq!(ends.take(Answer::Ended, Moment::Running).1, Exactness::Unseen);
    assert_eq!(ends.take(Answer::Ended, Moment::Running).1, Exactness::Unseen);
    let (owed, exactness) = ends.take(Answer::Ended, Moment::Stopped);
    assert_eq!((owed, exactness), (all_pages(), Exactness::Everything));
}

#[test]
fn round_that_failed_leaves_nothing_out_of_the_next() {
    let mut ends = Ends::new();
    ends.producer.mark(Gpa(LOW), 1);
    // It flips after it was given up: what it marked is in a bitmap that is closed now, and in the map.
    assert_eq!(ends.take(Answer::Failed, Moment::Running).0, all_pages());
    ends.producer.flip();
    ends.producer.mark(Gpa(HIGH), 1);
    ends.producer.flip();
    assert_eq!(ends.take(rearmed(Exactness::Exact), Moment::Running).0, all_pages(), "two flips");
    ends.producer.mark(Gpa(LOW + PAGE_LEN), 1);
    let owed = ends.round();
    assert!(owed.contains(Gpa(LOW + PAGE_LEN)));
    assert!(owed.count() <= 2, "{owed:?}");
}

#[test]
fn logs_are_united_in_one_map_that_keeps_what_it_has() {
    let mut all: Vec<_> = (0..4).map(|_| Ends::new()).collect();
    let mut owed = no_pages();
    owed.mark(Gpa(HIGH + 8 * PAGE_LEN), 1);
    for (number, ends) in (0..).zip(&all) {
        ends.producer.mark(Gpa(LOW + number * 20 * PAGE_LEN), 1);
        ends.producer.mark(Gpa(HIGH), 1);
        ends.producer.flip();
    }
    let answer = rearmed(Exactness::Exact);
    let mut logs: Vec<_> =
        all.iter_mut().map(|ends| Harvest { log: &mut ends.coordinator, answer }).collect();
    assert_eq!(harvest(&mut logs, Moment::Running, &mut owed), [Exactness::Exact; 4]);
    let low = (0..4).map(|number| (LOW + number * 20 * PAGE_LEN, 1));
    assert_eq!(ranges(&owed), low.chain([(HIGH, 1), (HIGH + 8 * PAGE_LEN, 1)]).collect::<Vec<_>>());
    for ends in &mut all {
        assert!(ends.round().is_empty(), "taken");
    }
}

#[test]
fn log_begins_empty_and_forgets_an_attempt_before() {
    let mut ends = Ends::new();
    ends.producer.mark(Gpa(LOW), PAGE_LEN);
    ends.producer.flip();
    ends.producer.mark(Gpa(HIGH), PAGE_LEN);
    ends.producer.disable();
    ends.coordinator.begin(EPOCH + 1);
    ends.producer.enable(EPOCH + 1);
    ends.producer.flip();
    let answer = Answer::Rearmed(DirtyLogState { epoch: EPOCH + 1, exact: Exactness::Exact });
    assert_eq!(ends.take(answer, Moment::Running), (no_pages(), Exactness::Exact));
}

#[test]
fn more_writes_at_once_than_places_wait_for_each_other() {
    let mut ends = Ends::new();
    thread::scope(|scope| {
        for thread in 0..2 * WRITES_MAX as u64 {
            let producer = &ends.producer;
            scope.spawn(move || {
                producer.writing(Gpa(LOW + thread * PAGE_LEN), 1, || {
                    thread::sleep(std::time::Duration::from_millis(2));
                });
            });
        }
    });
    assert_eq!(ends.round().count(), 2 * WRITES_MAX as u64);
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
    let mut ends = Ends::new();
    let producer = Arc::clone(&ends.producer);
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
                let pages = ends.round();
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
        let mut ends = Ends::new();
        let mut expected = BTreeSet::new();
        for (base, offset, len) in marks {
            let gpa = [LOW, HIGH, 0][base] + offset;
            ends.producer.mark(Gpa(gpa), len);
            for byte in (gpa..gpa + len).step_by(64).chain((len > 0).then(|| gpa + len - 1)) {
                let in_low = (LOW..LOW + LOW_PAGES * PAGE_LEN).contains(&byte);
                let in_high = (HIGH..HIGH + HIGH_PAGES * PAGE_LEN).contains(&byte);
                if in_low || in_high {
                    expected.insert(byte / PAGE_LEN);
                }
            }
        }
        let pages = ends.round();
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
        let mut pages = no_pages();
        if let Some((gpa, len)) = Note(raw).range() {
            pages.mark(gpa, len);
        }
    }
}
