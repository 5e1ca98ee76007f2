// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The owed map against a plain set of page numbers.

use std::collections::BTreeSet;

use proptest::prelude::{any, proptest};
use proptest::prop_assert_eq;

use super::{ALL_PAGES, Ends, HIGH, HIGH_PAGES, LOW, LOW_PAGES, all_pages, no_pages, ranges, rearmed};
use crate::addr::{Gpa, GpaRange, PAGE_LEN};
use crate::protocol::control::Exactness;
use crate::shm::dirty_log::{Harvest, Moment, harvest};

fn range(start: u64, len: u64) -> GpaRange {
    GpaRange::new(Gpa(start), len).unwrap()
}

#[test]
fn range_that_is_cleared_keeps_pages_that_are_partly_in_it() {
    let mut owed = all_pages();
    assert_eq!(owed.count(), ALL_PAGES);
    owed.clear(range(LOW + 1, 3 * PAGE_LEN));
    assert_eq!(ranges(&owed), [(LOW, 1), (LOW + 3 * PAGE_LEN, LOW_PAGES - 3), (HIGH, HIGH_PAGES)]);
    // Within one page; nothing; behind the end of the address space's last page.
    for (start, len) in [(HIGH + 8, 8), (HIGH, 0), (u64::MAX - 5, 5)] {
        owed.clear(range(start, len));
        assert_eq!(owed.count(), ALL_PAGES - 2);
    }
    owed.clear(range(0, u64::MAX));
    assert!(owed.is_empty() && owed == no_pages());
}

#[test]
fn page_written_after_its_range_was_cleared_is_owed_again() {
    let mut ends = Ends::new();
    let mut owed = all_pages();
    for range in all_pages().ranges() {
        owed.clear(range);
        ends.producer.mark(range.start(), 1);
    }
    assert!(owed.is_empty());
    ends.producer.flip();
    let mut logs = [Harvest { log: &mut ends.coordinator, answer: rearmed(Exactness::Exact) }];
    harvest(&mut logs, Moment::Running, &mut owed);
    assert_eq!(ranges(&owed), [(LOW, 1), (HIGH, 1)]);
    // Whoever was to send them failed, and so did the producer: they are owed still.
    drop(ends);
    assert_eq!(owed.count(), 2);
}

/// The pages of RAM that a range touches, or that are wholly in it.
fn pages(start: u64, len: u64, wholly: bool) -> impl Iterator<Item = u64> {
    let ram = [(LOW, LOW_PAGES), (HIGH, HIGH_PAGES)];
    let ram = ram.into_iter().flat_map(|(start, count)| start / PAGE_LEN..start / PAGE_LEN + count);
    ram.filter(move |page| {
        let (first, last) = (page * PAGE_LEN, page * PAGE_LEN + PAGE_LEN - 1);
        let end = start + len;
        if wholly { start <= first && last < end } else { len > 0 && start <= last && first < end }
    })
}

proptest! {
    #[test]
    fn map_is_the_set_of_what_was_owed_and_not_cleared(
        steps in proptest::collection::vec((0..5_u8, any::<bool>(), 0..120 * PAGE_LEN, 0..20 * PAGE_LEN), 0..40),
    ) {
        let mut ends = Ends::new();
        let (mut owed, mut model) = (no_pages(), BTreeSet::new());
        let mut logged = BTreeSet::new();
        for (step, high, offset, len) in steps {
            let start = if high { HIGH } else { LOW } + offset - 10 * PAGE_LEN;
            match step {
                0 => {
                    owed.mark(Gpa(start), len);
                    model.extend(pages(start, len, false));
                }
                1 => {
                    owed.clear(range(start, len));
                    pages(start, len, true).for_each(|page| {
                        model.remove(&page);
                    });
                }
                2 => {
                    ends.producer.writing(Gpa(start), len, || ());
                    logged.extend(pages(start, len, false));
                }
                3 => {
                    ends.producer.flip();
                    let mut logs = [Harvest { log: &mut ends.coordinator, answer: rearmed(Exactness::Exact) }];
                    harvest(&mut logs, Moment::Running, &mut owed);
                    model.append(&mut logged);
                }
                _ if len < PAGE_LEN => {
                    owed.mark_all();
                    model.extend(pages(0, u64::MAX, false));
                }
                _ => {}
            }
            let found: Vec<u64> =
                owed.ranges().flat_map(|range| range.start().0 / PAGE_LEN..range.end().0 / PAGE_LEN).collect();
            prop_assert_eq!(&found, &model.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(owed.count(), model.len() as u64);
            prop_assert_eq!(owed.is_empty(), model.is_empty());
            prop_assert_eq!(owed.contains(Gpa(start)), model.contains(&(start / PAGE_LEN)));
        }
        owed.clear_all();
        prop_assert_eq!(owed.count(), 0);
    }
}
