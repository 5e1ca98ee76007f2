// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The log is complete, taken once, and no larger than its ranges.

use super::{DirtyLog, range};

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
