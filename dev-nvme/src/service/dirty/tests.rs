// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The log is complete, taken once, and no larger than its ranges.

use ipc::vfio_user::PAGE_LEN;

use super::{DirtyLog, STRETCH_PAGES, STRETCHES_MAX, UNKNOWN_MAX, range};

#[test]
fn pages_are_reported_once_and_only_where_they_were_written() {
    let log = DirtyLog::default();
    log.mark(0x1000, 4096);
    assert!(log.start(Vec::new()));
    assert!(!log.start(Vec::new()));
    // From the last byte of page 1 to the first of page 3.
    log.mark(0x1fff, 0x1002);
    log.mark(0x40_0000, 1);
    assert_eq!(log.harvest(0, 64 << 12, 4096, 8), [0b1110, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(log.harvest(0, 64 << 12, 4096, 8), [0; 8]);
    // Coarser than it was logged, from another beginning.
    assert_eq!(log.harvest(0x3f_0000, 0x2_0000, 0x1_0000, 8), [0b10, 0, 0, 0, 0, 0, 0, 0]);
    log.stop();
    log.mark(0, 1);
    assert!(log.start(Vec::new()));
    assert_eq!(log.harvest(0, 4096, 4096, 8), [0; 8]);
}

#[test]
fn pages_outside_the_ranges_are_not_logged() {
    let log = DirtyLog::default();
    assert!(log.start(vec![range(0x2000, 0x1000), range(u64::MAX - 0xfff, 0x1000)]));
    log.mark(0, 0x5000);
    log.mark(u64::MAX - 10, 11);
    assert_eq!(log.harvest(0, 8 << 12, 4096, 8)[0], 0b100);
    assert_eq!(log.harvest(u64::MAX - 0xfff, 0x1000, 4096, 8)[0], 1);
}

/// One page of each stretch from the first on.
fn scatter(log: &DirtyLog, stretches: usize) {
    (0..stretches as u64).for_each(|stretch| log.mark(stretch * STRETCH_PAGES * PAGE_LEN, 1));
}

fn bits(bitmap: &[u8]) -> usize {
    bitmap.iter().map(|byte| usize::try_from(byte.count_ones()).unwrap()).sum()
}

#[test]
fn log_that_is_full_counts_everything_as_written_once() {
    let log = DirtyLog::default();
    assert!(log.start(vec![]));
    let len = (STRETCHES_MAX as u64 + 2) * STRETCH_PAGES * PAGE_LEN;
    let coarse = |log: &DirtyLog| bits(&log.harvest(0, len, STRETCH_PAGES * PAGE_LEN, 1032));
    scatter(&log, STRETCHES_MAX);
    assert_eq!(log.inner.lock().unwrap().stretches.len(), STRETCHES_MAX);
    assert_eq!(coarse(&log), STRETCHES_MAX);
    assert_eq!(coarse(&log), 0);
    // One more than there is room for: all of it is said to be written, once, and then what is.
    scatter(&log, STRETCHES_MAX + 1);
    assert!(log.inner.lock().unwrap().stretches.is_empty());
    assert_eq!(bits(&log.harvest(0x40_0000, 1 << 30, 4096, 1 << 15)), 1 << 18);
    assert_eq!(bits(&log.harvest(0x40_0000, 1 << 30, 4096, 1 << 15)), 0);
    log.mark(0x41_0000, 4097);
    assert_eq!(bits(&log.harvest(0x40_0000, 1 << 30, 4096, 1 << 15)), 2);
    assert_eq!(bits(&log.harvest(0, 1 << 30, 4096, 1 << 15)), 0x400, "what was not reported yet");
    assert_eq!(bits(&log.harvest(u64::MAX - 0x1fff, 0x2000, 4096, 8)), 2);
    assert_eq!(bits(&log.harvest(u64::MAX - 0x1fff, 0x2000, 4096, 8)), 0);
    assert_eq!(coarse(&log), STRETCHES_MAX + 2 - 64);
    assert_eq!(coarse(&log), 0);
}

#[test]
fn log_that_is_full_says_so_of_its_ranges_only() {
    let log = DirtyLog::default();
    // They meet, and count as one.
    let last = (STRETCHES_MAX as u64 + 1) * STRETCH_PAGES * PAGE_LEN;
    assert!(log.start(vec![range(0x3000, last), range(0x2000, 0x1000), range(0x2000, 0x800)]));
    assert_eq!(log.inner.lock().unwrap().ranges.len(), 1);
    (0..=STRETCHES_MAX as u64).for_each(|stretch| log.mark((stretch * STRETCH_PAGES + 2) * PAGE_LEN, 1));
    assert_eq!(log.harvest(0, 16 << 12, 4096, 8), [0b1111_1100, 0xff, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn reports_in_pieces_that_are_too_many_repeat_themselves() {
    let log = DirtyLog::default();
    assert!(log.start(vec![]));
    scatter(&log, STRETCHES_MAX + 1);
    let report = |number: u64| bits(&log.harvest(number * 0x2000, 0x1000, 4096, 8));
    let first: Vec<_> = (0..2 * UNKNOWN_MAX as u64).map(report).collect();
    let again: Vec<_> = (0..2 * UNKNOWN_MAX as u64).map(report).collect();
    assert_eq!(first, [1; 2 * UNKNOWN_MAX]);
    assert_eq!((again[0], again[2 * UNKNOWN_MAX - 1]), (0, 1));
    assert!(log.inner.lock().unwrap().unknown.len() <= UNKNOWN_MAX);
}
