// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The shared part of the owed map: by two ends at once, and with an end that sets bits that stand for no page.

use std::collections::BTreeSet;
use std::thread;

use super::{ALL_PAGES, HIGH, HIGH_PAGES, LOW, LOW_PAGES, layout};
use crate::addr::{Gpa, PAGE_LEN};
use crate::shm::dirty_log::{OwedMap, SharedOwed};
use crate::shm::region::Region;
use crate::shm::sync::AtomicU64;
use crate::shm::sync::Ordering::Relaxed;

fn ends() -> (Region, SharedOwed, SharedOwed) {
    let region = SharedOwed::create("owed", &layout()).unwrap();
    let attach = || SharedOwed::attach(&region, &layout()).unwrap();
    let (one, other) = (attach(), attach());
    (region, one, other)
}

#[test]
fn what_one_end_adds_the_other_takes_once() {
    let (_, coordinator, mover) = ends();
    let mut owed = OwedMap::new(&layout());
    owed.mark(Gpa(LOW + 65 * PAGE_LEN), 1);
    owed.mark(Gpa(HIGH + (HIGH_PAGES - 1) * PAGE_LEN), 1);
    coordinator.add(&owed);
    coordinator.add(&owed);
    assert_eq!((coordinator.count(), mover.count()), (2, 2));
    assert_eq!([0, 1, 2, 3].map(|word| mover.take(word)), [0, 0b10, 0, 1 << 5]);
    assert_eq!([0, 1, 2, 3, 4, usize::MAX].map(|word| mover.take(word)), [0; 6]);
    assert_eq!(coordinator.count(), 0);
}

#[test]
fn bits_that_stand_for_no_page_are_not_there() {
    let (region, coordinator, mover) = ends();
    for word in region.view_slice::<AtomicU64>(0, 512).unwrap().iter() {
        word.store(u64::MAX, Relaxed);
    }
    assert_eq!(coordinator.count(), ALL_PAGES);
    let taken: u64 = (0..512).map(|word| u64::from(mover.take(word).count_ones())).sum();
    assert_eq!(taken, ALL_PAGES);
    let smaller = Region::create("small", PAGE_LEN).unwrap();
    assert_eq!(region.len(), smaller.len());
}

#[test]
fn no_page_is_lost_between_two_ends_at_once() {
    let (_, coordinator, mover) = ends();
    let adding = thread::spawn(move || {
        let mut owed = OwedMap::new(&layout());
        for page in 0..LOW_PAGES {
            owed.clear_all();
            owed.mark(Gpa(LOW + page * PAGE_LEN), 1);
            coordinator.add(&owed);
        }
    });
    let mut found = BTreeSet::new();
    let mut take = || {
        for word in 0..4_usize {
            let bits = mover.take(word);
            found.extend((0..64).filter(|bit| bits >> bit & 1 == 1).map(|bit| word as u64 * 64 + bit));
        }
    };
    while !adding.is_finished() {
        take();
    }
    take();
    adding.join().unwrap();
    assert_eq!(found, (0..LOW_PAGES).collect());
}
