// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A producer that writes what it likes into its log, at any time: it costs pages that were not written, and nothing
//! else.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::thread;

use proptest::prelude::{any, proptest};
use proptest::prop_assert;

use super::super::object::Field;
use super::{Ends, all_pages, no_pages, ranges, rearmed};
use crate::addr::{Gpa, PAGE_LEN};
use crate::protocol::control::Exactness;
use crate::shm::dirty_log::{Answer, Harvest, Moment, harvest};

/// Pages that a good producer beside it has written.
const WRITTEN: [Gpa; 2] = [Gpa(super::LOW + 3 * PAGE_LEN), Gpa(super::HIGH + 69 * PAGE_LEN)];

#[test]
fn bits_and_notes_that_stand_for_no_page_are_not_heard() {
    let mut ends = Ends::new();
    for flips in [0, 1] {
        ends.producer.object.bitmap(flips).iter().for_each(|word| word.store(u64::MAX, Relaxed));
    }
    ends.producer.object.notes()[0].store(u64::MAX, Relaxed);
    ends.producer.object.notes()[1].store(1, Relaxed);
    let owed = ends.round();
    assert_eq!(owed, all_pages());
    assert_eq!(owed.count(), super::ALL_PAGES);
}

#[test]
fn header_that_is_garbled_means_all_of_ram_until_it_is_whole() {
    for field in [Field::Magic, Field::Epoch, Field::Flips] {
        for value in [0, 1 << 40, u64::MAX] {
            let mut ends = Ends::new();
            let good = ends.producer.object.load(field);
            ends.producer.flip();
            let good = if matches!(field, Field::Flips) { good + 1 } else { good };
            ends.producer.object.store(field, value);
            let (owed, exactness) = ends.take(rearmed(Exactness::Exact), Moment::Running);
            assert_eq!((owed, exactness), (all_pages(), Exactness::Everything), "{field:?} {value:#x}");
            ends.producer.object.store(field, good);
            ends.take(rearmed(Exactness::Exact), Moment::Running);
            assert!(ends.round().is_empty());
        }
    }
}

/// While one log is written all over, the harvest ends, and what a good one beside it has is found.
#[test]
fn log_that_changes_all_the_time_hides_nothing_of_another() {
    let (mut bad, mut good) = (Ends::new(), Ends::new());
    let scribbler = std::sync::Arc::clone(&bad.producer);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = 0x9e37_79b9_7f4a_7c15_u64;
            while !done.load(SeqCst) {
                let object = &scribbler.object;
                random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                object.store(Field::Flips, random);
                object.store(Field::Magic, random);
                for word in object.bitmap(random).iter().chain(object.notes()) {
                    word.store(random, Relaxed);
                }
            }
        });
        for _ in 0..2000 {
            let mut owed = no_pages();
            WRITTEN.iter().for_each(|gpa| good.producer.mark(*gpa, 1));
            good.producer.flip();
            let answer = rearmed(Exactness::Exact);
            let mut logs = [
                Harvest { log: &mut bad.coordinator, answer },
                Harvest { log: &mut good.coordinator, answer },
            ];
            assert_eq!(harvest(&mut logs, Moment::Running, &mut owed)[1], Exactness::Exact);
            assert!(WRITTEN.iter().all(|gpa| owed.contains(*gpa)), "{:?}", ranges(&owed));
        }
        done.store(true, SeqCst);
    });
}

proptest! {
    #[test]
    fn any_object_and_any_answer_cost_surplus_only(
        header in proptest::collection::vec((0_usize..24, any::<u64>()), 0..8),
        bits in proptest::collection::vec((0_usize..8, any::<u64>()), 0..8),
        answer in 0..6_u8,
        stopped in any::<bool>(),
    ) {
        let (mut bad, mut good) = (Ends::new(), Ends::new());
        WRITTEN.iter().for_each(|gpa| good.producer.mark(*gpa, 1));
        good.producer.flip();
        bad.producer.flip();
        let object = &bad.producer.object;
        for (index, value) in header {
            let fields = [Field::Magic, Field::Epoch, Field::Flips, Field::UnmarkedWrites];
            match fields.get(index) {
                Some(field) => object.store(*field, value),
                None => object.notes()[index % 16].store(value, Relaxed),
            }
        }
        for (index, value) in bits {
            let bitmap = object.bitmap(value);
            bitmap[index % bitmap.len()].store(value, Relaxed);
        }
        let exact = [Exactness::Exact, Exactness::Everything, Exactness::Unseen];
        let answer = match answer {
            3 => Answer::Failed,
            4 => Answer::Ended,
            other => rearmed(exact[usize::from(other) % 3]),
        };
        let moment = if stopped { Moment::Stopped } else { Moment::Running };
        let mut owed = no_pages();
        let mut logs = [
            Harvest { log: &mut bad.coordinator, answer },
            Harvest { log: &mut good.coordinator, answer: rearmed(Exactness::Exact) },
        ];
        let judged = harvest(&mut logs, moment, &mut owed);
        prop_assert!(judged[1] == Exactness::Exact);
        prop_assert!(WRITTEN.iter().all(|gpa| owed.contains(*gpa)));
        prop_assert!(owed.count() <= super::ALL_PAGES);
        prop_assert!(judged[0] != Exactness::Everything || owed == all_pages());
        prop_assert!(judged[0] != Exactness::Unseen || !stopped);
    }
}
