// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Every interleaving of writers and harvests of a dirty log, by the model checker: no write is lost.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p ipc --test loom_dirty_log --target-dir target/loom`. In all models
//! `page` stands for the bytes of a page: written relaxed, as a guest's memory is, and copied after a harvest.

#![cfg(loom)]
#![cfg_attr(loom, expect(clippy::unwrap_used, reason = "helpers of tests may stop at the first surprise"))]

use ipc::addr::Gpa;
use ipc::protocol::ram::{RamLayout, RamRegion};
use ipc::shm::dirty_log::{DirtyLog, DirtyPages};
use loom::sync::Arc;
use loom::sync::atomic::AtomicU64;
use loom::sync::atomic::Ordering::{Relaxed, SeqCst};
use loom::thread;

const PAGE: Gpa = Gpa(0x4000_0000);
const NEXT_PAGE: Gpa = Gpa(0x4000_1000);

fn layout() -> RamLayout {
    RamLayout::new(vec![RamRegion { gpa: PAGE, len: 0x2000, file_offset: 0 }]).unwrap()
}

fn harvest(log: &DirtyLog) -> DirtyPages {
    let mut pages = DirtyPages::none(&layout());
    log.harvest(&mut pages);
    pages
}

/// Copies `page` if the harvest says that it was written.
fn copy(page: &AtomicU64, pages: &DirtyPages) -> Option<u64> {
    pages.contains(PAGE).then(|| page.load(Relaxed))
}

fn check(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

#[test]
fn write_beside_a_harvest_is_copied_by_it_or_found_by_the_next() {
    check(4, || {
        let (producer, coordinator) = DirtyLog::model(&layout());
        producer.set_enabled(true);
        let page = Arc::new(AtomicU64::new(0));
        let writer = {
            let page = Arc::clone(&page);
            thread::spawn(move || {
                page.store(1, Relaxed);
                producer.mark(PAGE, 8);
            })
        };
        let copied = copy(&page, &harvest(&coordinator));
        writer.join().unwrap();
        let last = harvest(&coordinator);
        assert!(last.contains(PAGE) || copied == Some(1), "copied {copied:?}");
    });
}

#[test]
fn noted_writes_of_two_threads_beside_a_harvest_are_not_lost() {
    check(2, || {
        let (producer, coordinator) = DirtyLog::model(&layout());
        producer.set_enabled(true);
        let producer = Arc::new(producer);
        let page = Arc::new(AtomicU64::new(0));
        let other = {
            let producer = Arc::clone(&producer);
            thread::spawn(move || producer.writing(NEXT_PAGE, 4, || ()))
        };
        let writer = {
            let page = Arc::clone(&page);
            thread::spawn(move || producer.writing(PAGE, 4, || page.store(1, Relaxed)))
        };
        let first = harvest(&coordinator);
        let copied = copy(&page, &first);
        writer.join().unwrap();
        other.join().unwrap();
        let last = harvest(&coordinator);
        assert!(last.contains(PAGE) || copied == Some(1), "copied {copied:?}");
        assert!(last.contains(NEXT_PAGE) || first.contains(NEXT_PAGE));
    });
}

#[test]
fn write_of_a_process_that_dies_before_it_marks_is_not_lost() {
    check(4, || {
        let (producer, coordinator) = DirtyLog::model(&layout());
        producer.set_enabled(true);
        let page = Arc::new(AtomicU64::new(0));
        let writer = {
            let page = Arc::clone(&page);
            thread::spawn(move || producer.die_writing(PAGE, 4, || page.store(1, Relaxed)))
        };
        let copied = copy(&page, &harvest(&coordinator));
        writer.join().unwrap();
        // The next life of the process; which end of the log does it makes no difference here.
        coordinator.adopt();
        let last = harvest(&coordinator);
        assert!(last.contains(PAGE) || copied == Some(1), "copied {copied:?}");
        assert!(harvest(&coordinator).is_empty(), "the next life has cleared the notes");
    });
}

#[test]
fn write_beside_switching_the_log_on_is_in_the_first_copy_or_in_the_log() {
    check(4, || {
        let (producer, coordinator) = DirtyLog::model(&layout());
        let producer = Arc::new(producer);
        let page = Arc::new(AtomicU64::new(0));
        let writer = {
            let (page, producer) = (Arc::clone(&page), Arc::clone(&producer));
            thread::spawn(move || producer.writing(PAGE, 4, || page.store(1, Relaxed)))
        };
        producer.set_enabled(true);
        // The first round copies every page.
        let copied = page.load(Relaxed);
        writer.join().unwrap();
        assert!(copied == 1 || harvest(&coordinator).contains(PAGE));
    });
}

#[test]
fn bits_given_back_beside_a_mark_are_all_there() {
    check(4, || {
        let (producer, coordinator) = DirtyLog::model(&layout());
        producer.set_enabled(true);
        producer.mark(PAGE, 1);
        let failed = harvest(&coordinator);
        let writer = thread::spawn(move || producer.mark(NEXT_PAGE, 1));
        coordinator.give_back(&failed);
        writer.join().unwrap();
        assert_eq!(harvest(&coordinator).count(), 2);
    });
}

/// The model can fail: a page marked before it is written can be copied in between, and nobody finds out.
#[test]
#[should_panic(expected = "lost")]
fn mark_before_the_write_is_found() {
    check(4, || {
        let (producer, coordinator) = DirtyLog::model(&layout());
        producer.set_enabled(true);
        let page = Arc::new(AtomicU64::new(0));
        let writer = {
            let page = Arc::clone(&page);
            thread::spawn(move || {
                producer.mark(PAGE, 8);
                page.store(1, SeqCst);
            })
        };
        let copied = copy(&page, &harvest(&coordinator));
        writer.join().unwrap();
        assert!(harvest(&coordinator).contains(PAGE) || copied == Some(1), "lost");
    });
}
