// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use super::Pl031;
use super::register::{RTCCR, RTCDR, RTCICR, RTCIMSC, RTCLR, RTCMIS, RTCMR, RTCRIS};
use std::time::Duration;

const NOW: Duration = Duration::from_millis(1_800_000_000_250);

fn after(seconds: u64) -> Duration {
    NOW + Duration::from_secs(seconds)
}

fn read(clock: &Pl031, offset: u64, now: Duration) -> u64 {
    clock.read(offset, 4, now)
}

#[test]
fn count_is_the_hosts_time_until_the_guest_sets_it() {
    let mut clock = Pl031::new(NOW);
    assert_eq!(read(&clock, RTCDR, after(7)), 1_800_000_007);
    clock.write(RTCLR, 4, 1000, NOW);
    assert_eq!((read(&clock, RTCDR, after(7)), read(&clock, RTCLR, NOW)), (1007, 1000));
}

#[test]
fn identification_registers_are_those_of_the_part() {
    let clock = Pl031::new(NOW);
    let ids: Vec<u64> = (0..8).map(|n| read(&clock, 0xfe0 + 4 * n, NOW)).collect();
    assert_eq!(ids, [0x31, 0x10, 0x14, 0x00, 0x0d, 0xf0, 0x05, 0xb1]);
    assert_eq!(read(&clock, 0xfdc, NOW), 0);
}

#[test]
fn alarm_raises_the_line_in_its_second_and_not_before() {
    let mut clock = Pl031::new(NOW);
    clock.write(RTCIMSC, 4, 1, NOW);
    clock.write(RTCMR, 4, 1_800_000_003, NOW);
    assert_eq!(clock.until_alarm(NOW), Some(Duration::from_millis(2750)));
    clock.tick(after(2));
    assert!(!clock.line());
    clock.tick(after(3));
    assert!(clock.line());
    assert_eq!((read(&clock, RTCRIS, NOW), read(&clock, RTCMIS, NOW)), (1, 1));
    clock.write(RTCICR, 4, 1, after(3));
    clock.tick(after(3));
    assert!(!clock.line(), "one alarm is one interrupt");
}

#[test]
fn alarm_without_mask_shows_in_the_raw_status_only() {
    let mut clock = Pl031::new(NOW);
    clock.write(RTCMR, 4, 1_800_000_001, NOW);
    assert_eq!(clock.until_alarm(NOW), None);
    clock.tick(after(2));
    assert_eq!((read(&clock, RTCRIS, NOW), read(&clock, RTCMIS, NOW), clock.line()), (1, 0, false));
    clock.write(RTCIMSC, 4, 1, after(2));
    assert!(clock.line());
}

#[test]
fn alarm_at_the_present_count_is_due_at_once() {
    let mut clock = Pl031::new(NOW);
    clock.write(RTCMR, 4, 1_800_000_000, NOW);
    clock.tick(NOW);
    assert_eq!(read(&clock, RTCRIS, NOW), 1);
}

#[test]
fn alarm_that_fell_due_while_saved_is_raised_afterwards() {
    let mut clock = Pl031::new(NOW);
    clock.write(RTCIMSC, 4, 1, NOW);
    clock.write(RTCMR, 4, 1_800_000_010, NOW);
    let mut later = Pl031::restore(&clock.save());
    assert_eq!(later, clock);
    later.tick(after(1000));
    assert!(later.line());
}

#[test]
fn narrow_reads_see_their_bytes_and_narrow_writes_nothing() {
    let mut clock = Pl031::new(NOW);
    clock.write(RTCMR, 4, 0x1234_5678, NOW);
    assert_eq!((clock.read(RTCMR, 1, NOW), clock.read(RTCMR + 2, 2, NOW)), (0x78, 0x1234));
    assert_eq!((clock.read(RTCMR + 3, 2, NOW), clock.read(RTCMR, 8, NOW)), (0, 0));
    for size in [1, 2, 8] {
        clock.write(RTCMR, size, 0, NOW);
    }
    assert_eq!(read(&clock, RTCMR, NOW), 0x1234_5678);
}

#[test]
fn read_only_registers_ignore_writes() {
    let mut clock = Pl031::new(NOW);
    let before: Vec<u64> = [RTCDR, RTCCR, RTCRIS, RTCMIS, 0xfe0].map(|at| read(&clock, at, NOW)).into();
    for at in [RTCDR, RTCCR, RTCRIS, RTCMIS, 0xfe0] {
        clock.write(at, 4, 0xdead_beef, NOW);
    }
    assert_eq!(before, [RTCDR, RTCCR, RTCRIS, RTCMIS, 0xfe0].map(|at| read(&clock, at, NOW)));
}
