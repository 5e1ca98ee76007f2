// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Every interleaving of writers, flips and harvests of a dirty log, by the model checker: no write is lost.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p ipc --test loom_dirty_log --target-dir target/loom`. In all models
//! `page` stands for the bytes of a page: written relaxed, as a guest's memory is, and copied after a harvest. The last
//! test takes the protocol's orders away one at a time: a model fails for each.

#![cfg(loom)]
#![cfg_attr(loom, expect(clippy::unwrap_used, reason = "helpers of tests may stop at the first surprise"))]

use std::panic;

use ipc::addr::Gpa;
use ipc::protocol::control::{DirtyLogState, Exactness};
use ipc::protocol::ram::{RamLayout, RamRegion};
use ipc::shm::dirty_log::{Answer, DirtyLog, Harvest, Harvester, Moment, Order, OwedMap, harvest, weakened};
use loom::sync::Arc;
use loom::sync::atomic::AtomicU64;
use loom::sync::atomic::Ordering::{Relaxed, SeqCst};
use loom::thread;

const PAGE: Gpa = Gpa(0x4000_0000);
const NEXT_PAGE: Gpa = Gpa(0x4000_1000);
const EPOCH: u64 = 3;

fn layout() -> RamLayout {
    RamLayout::new(vec![RamRegion { gpa: PAGE, len: 0x2000, file_offset: 0 }]).unwrap()
}

/// A log with its ends; the thread that has it is the producer's control thread and the coordinator.
struct Log {
    producer: Arc<DirtyLog>,
    coordinator: Harvester,
}

impl Log {
    fn new() -> Log {
        let producer = Arc::new(DirtyLog::model(&layout()));
        let mut coordinator = Harvester::of(&producer);
        coordinator.begin(EPOCH);
        Log { producer, coordinator }
    }

    fn enabled() -> Log {
        let log = Log::new();
        log.producer.enable(EPOCH);
        log
    }

    fn take(&mut self, answer: Answer) -> OwedMap {
        let mut owed = OwedMap::new(&layout());
        let log = &mut self.coordinator;
        let judged = harvest(&mut [Harvest { log, answer }], Moment::Running, &mut owed);
        assert_eq!(judged, [Exactness::Exact]);
        owed
    }

    fn round(&mut self) -> OwedMap {
        self.producer.flip();
        self.take(Answer::Rearmed(DirtyLogState { epoch: EPOCH, exact: Exactness::Exact }))
    }
}

/// Copies `page` if the harvest says that it was written.
fn copy(page: &AtomicU64, owed: &OwedMap) -> Option<u64> {
    owed.contains(PAGE).then(|| page.load(Relaxed))
}

fn check(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

/// A mark beside a flip and a harvest is in this harvest, with what it stands for, or in the next.
fn mark_beside_a_harvest() {
    check(4, || {
        let mut log = Log::enabled();
        let page = Arc::new(AtomicU64::new(0));
        let writer = {
            let (page, producer) = (Arc::clone(&page), Arc::clone(&log.producer));
            thread::spawn(move || {
                page.store(1, Relaxed);
                producer.mark(PAGE, 8);
            })
        };
        let copied = copy(&page, &log.round());
        writer.join().unwrap();
        let last = log.round();
        assert!(last.contains(PAGE) || copied == Some(1), "lost: copied {copied:?}");
    });
}

/// What is written beside switching the log on is in the first copy or in the log.
fn write_beside_switching_on() {
    check(4, || {
        let mut log = Log::new();
        let page = Arc::new(AtomicU64::new(0));
        let writer = {
            let (page, producer) = (Arc::clone(&page), Arc::clone(&log.producer));
            thread::spawn(move || {
                page.store(1, Relaxed);
                producer.mark(PAGE, 4);
            })
        };
        log.producer.enable(EPOCH);
        // The first round copies every page.
        let copied = page.load(Relaxed);
        writer.join().unwrap();
        assert!(copied == 1 || log.round().contains(PAGE), "lost");
    });
}

#[test]
fn write_beside_a_harvest_is_copied_by_it_or_found_by_the_next() {
    mark_beside_a_harvest();
}

#[test]
fn write_beside_switching_the_log_on_is_in_the_first_copy_or_in_the_log() {
    write_beside_switching_on();
}

#[test]
fn mark_that_two_flips_overtake_is_not_lost() {
    check(3, || {
        let mut log = Log::enabled();
        let page = Arc::new(AtomicU64::new(0));
        let writer = {
            let (page, producer) = (Arc::clone(&page), Arc::clone(&log.producer));
            thread::spawn(move || {
                page.store(1, Relaxed);
                producer.mark(PAGE, 8);
            })
        };
        let copied = [copy(&page, &log.round()), copy(&page, &log.round())];
        writer.join().unwrap();
        assert!(log.round().contains(PAGE) || copied.contains(&Some(1)), "lost: copied {copied:?}");
    });
}

#[test]
fn noted_writes_of_two_threads_beside_a_harvest_are_not_lost() {
    check(2, || {
        let mut log = Log::enabled();
        let page = Arc::new(AtomicU64::new(0));
        let other = {
            let producer = Arc::clone(&log.producer);
            thread::spawn(move || producer.writing(NEXT_PAGE, 4, || ()))
        };
        let writer = {
            let (page, producer) = (Arc::clone(&page), Arc::clone(&log.producer));
            thread::spawn(move || producer.writing(PAGE, 4, || page.store(1, Relaxed)))
        };
        let first = log.round();
        let copied = copy(&page, &first);
        writer.join().unwrap();
        other.join().unwrap();
        let last = log.round();
        assert!(last.contains(PAGE) || copied == Some(1), "copied {copied:?}");
        assert!(last.contains(NEXT_PAGE) || first.contains(NEXT_PAGE));
    });
}

/// Dies after the write, and after setting bits in a bitmap that a harvest is just taking.
#[test]
fn write_of_a_process_that_dies_before_it_has_marked_is_not_lost() {
    for marks in [false, true] {
        check(4, move || {
            let mut log = Log::enabled();
            let page = Arc::new(AtomicU64::new(0));
            let writer = {
                let (page, producer) = (Arc::clone(&page), Arc::clone(&log.producer));
                thread::spawn(move || producer.die_writing(PAGE, 4, marks, || page.store(1, Relaxed)))
            };
            let copied = copy(&page, &log.round());
            writer.join().unwrap();
            let ended = log.take(Answer::Ended);
            assert!(ended.contains(PAGE) || copied == Some(1), "copied {copied:?}");
            // Its next life has what it was writing, too, and then it is done with.
            log.producer = Arc::new(log.producer.next_life());
            log.producer.enable(EPOCH);
            assert!(log.round().contains(PAGE));
            assert!(log.round().is_empty() && log.round().is_empty(), "the next life has cleared the notes");
        });
    }
}

#[test]
fn bits_of_other_pages_in_the_word_that_is_taken_are_not_lost() {
    check(3, || {
        let mut log = Log::enabled();
        log.producer.mark(PAGE, 1);
        let writer = {
            let producer = Arc::clone(&log.producer);
            thread::spawn(move || producer.mark(NEXT_PAGE, 1))
        };
        let first = log.round();
        writer.join().unwrap();
        let last = log.round();
        assert!(first.contains(PAGE));
        assert!(first.contains(NEXT_PAGE) || last.contains(NEXT_PAGE));
    });
}

/// The model can fail: a page marked before it is written can be copied in between, and nobody finds out.
#[test]
#[should_panic(expected = "lost")]
fn mark_before_the_write_is_found() {
    check(4, || {
        let mut log = Log::enabled();
        let page = Arc::new(AtomicU64::new(0));
        let writer = {
            let (page, producer) = (Arc::clone(&page), Arc::clone(&log.producer));
            thread::spawn(move || {
                producer.mark(PAGE, 8);
                page.store(1, SeqCst);
            })
        };
        let copied = copy(&page, &log.round());
        writer.join().unwrap();
        assert!(log.round().contains(PAGE) || copied == Some(1), "lost");
    });
}

#[test]
fn each_order_that_is_taken_away_is_missed_by_a_model() {
    for order in Order::ALL {
        weakened::set(Some(order));
        let models: [fn(); 2] = [mark_beside_a_harvest, write_beside_switching_on];
        let missed = models.into_iter().filter(|model| panic::catch_unwind(model).is_err()).count();
        weakened::set(None);
        assert!(missed > 0, "{order:?} is taken away, and nothing is lost");
    }
}
