// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::time::{Duration, Instant};

use super::{DEFERRED_MAX, Pace, TURN, is_long};
use crate::controller::BATCH_MAX;

#[test]
fn commands_that_fill_a_turn_are_taken_one_at_a_time() {
    let mut pace = Pace::default();
    assert_eq!(pace.batch(), BATCH_MAX);
    for _ in 0..20 {
        pace.took(TURN * 3, 1);
    }
    assert_eq!(pace.batch(), 1);
    for _ in 0..40 {
        pace.took(TURN * 2 / 9, 1);
    }
    assert_eq!(pace.batch(), 4);
    for _ in 0..40 {
        pace.took(TURN / 10, 16);
    }
    assert_eq!(pace.batch(), BATCH_MAX);
}

#[test]
fn one_turn_however_long_is_forgotten_soon() {
    let mut pace = Pace::default();
    pace.took(Duration::from_secs(3600), 1);
    let mut turns = 0;
    while pace.batch() < BATCH_MAX {
        let count = pace.batch();
        pace.took(Duration::from_micros(1) * count, count);
        turns += 1;
    }
    assert!((1..20).contains(&turns), "{turns} turns");
}

#[test]
fn a_write_that_waited_keeps_writes_away_for_many_times_as_long() {
    let (mut pace, now) = (Pace::default(), Instant::now());
    assert!(pace.may_write(now));
    pace.waited(now, Duration::from_millis(2));
    assert!(!pace.may_write(now + Duration::from_millis(31)));
    assert!(pace.may_write(now + Duration::from_millis(32)));
    pace.waited(now, Duration::from_secs(30));
    assert!(!pace.may_write(now + DEFERRED_MAX - Duration::from_millis(1)));
    assert!(pace.may_write(now + DEFERRED_MAX));
    pace.waited(now, Duration::MAX);
    assert!(pace.may_write(now + DEFERRED_MAX));
}

#[test]
fn a_long_write_is_measured_by_its_length() {
    assert!(!is_long(Duration::from_micros(200), 4096));
    assert!(is_long(Duration::from_micros(300), 4096));
    assert!(!is_long(Duration::from_micros(300), 1 << 20));
    assert!(is_long(Duration::from_millis(2), 1 << 20));
    assert!(!is_long(Duration::from_secs(60), u64::MAX));
}
