// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The counter and the timers.

use std::time::{Duration, Instant};

use super::machine::Guest;
use crate::clock::{COUNTER_HZ, Clock};
use crate::saved::ClockV1;

const READ_COUNTER: u32 = 0xd53b_e040;
const WRITE_COMPARE: u32 = 0xd51b_e340;
const WRITE_CONTROL: u32 = 0xd51b_e320;
const READ_CONTROL: u32 = 0xd53b_e320;
const NOP: u32 = super::machine::NOP;

/// What a counter that goes on behind `since` has counted by now at most: the host's may be in the middle of a step.
fn ticks_since(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos() * u128::from(COUNTER_HZ) / 1_000_000_000).unwrap() + 1
}

#[test]
fn frozen_counter_stands_and_goes_on_from_there() {
    let clock = Clock::restore(&ClockV1 { ticks: 1000 });
    assert_eq!(clock.ticks(), 1000);
    clock.resume();
    std::thread::sleep(Duration::from_millis(2));
    clock.pause();
    let stopped = clock.ticks();
    // Two milliseconds are 125,000 ticks.
    assert!(stopped >= 1000 + 125_000);
    std::thread::sleep(Duration::from_millis(2));
    assert_eq!(clock.ticks(), stopped);
    assert_eq!(clock.save(), ClockV1 { ticks: stopped });
    let resumed = Instant::now();
    clock.resume();
    let passed = clock.ticks() - stopped;
    assert!(passed <= ticks_since(resumed), "the pause counts: {passed}");
}

#[test]
fn timer_output_follows_condition_and_mask() {
    let mut guest = Guest::new();
    guest.parts.clock.pause();
    guest.step(READ_COUNTER);
    let now = guest.x(0);
    guest.set_x(0, now + 1);
    guest.step(WRITE_COMPARE);
    guest.set_x(0, 1);
    guest.run(&[WRITE_CONTROL, NOP]);
    assert!(guest.world.levels.lock().unwrap().is_empty(), "not yet");
    guest.set_x(0, now);
    guest.run(&[WRITE_COMPARE, NOP]);
    assert_eq!(*guest.world.levels.lock().unwrap(), [(27, true)]);
    guest.step(READ_CONTROL);
    assert_eq!(guest.x(0), 0b101);
    guest.set_x(0, 0b11);
    guest.run(&[WRITE_CONTROL, NOP]);
    assert_eq!(*guest.world.levels.lock().unwrap(), [(27, true), (27, false)]);
    guest.step(READ_CONTROL);
    assert_eq!(guest.x(0), 0b111, "the condition shows through the mask");
}

#[test]
fn physical_timer_counts_down_from_its_value() {
    let mut guest = Guest::new();
    guest.parts.clock.pause();
    guest.set_x(0, u64::from(-5i32 as u32));
    guest.step(0xd51b_e200); // msr cntp_tval_el0, x0
    guest.set_x(0, 1);
    guest.run(&[0xd51b_e220, NOP]); // msr cntp_ctl_el0, x0
    assert_eq!(*guest.world.levels.lock().unwrap(), [(30, true)]);
    guest.step(0xd53b_e200); // mrs x0, cntp_tval_el0
    assert_eq!(guest.x(0), u64::from(-5i32 as u32));
}

#[test]
fn counter_stands_at_its_limit_and_goes_on_from_there() {
    let clock = Clock::restore(&ClockV1 { ticks: 1000 });
    // Frozen, it has a limit from where it stands.
    clock.limit(Some(Duration::from_micros(16)));
    clock.resume();
    std::thread::sleep(Duration::from_millis(2));
    assert_eq!(clock.ticks(), 1000 + 1000);
    clock.pause();
    clock.resume();
    std::thread::sleep(Duration::from_millis(2));
    assert_eq!(clock.ticks(), 2000, "a pause does not lift it");
    clock.limit(Some(Duration::from_micros(16)));
    std::thread::sleep(Duration::from_millis(2));
    assert_eq!(clock.ticks(), 3000, "it goes on for as long again");
    let lifted = Instant::now();
    clock.limit(None);
    let passed = clock.ticks() - 3000;
    assert!(passed <= ticks_since(lifted), "the stand counts: {passed}");
    std::thread::sleep(Duration::from_millis(2));
    assert!(clock.ticks() >= 3000 + 125_000);
}

#[test]
fn counter_whose_limit_changes_under_its_readers_never_goes_back() {
    let clock = Clock::new();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers = [(); 2].map(|()| {
            scope.spawn(|| {
                let mut last = clock.ticks();
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    let now = clock.ticks();
                    assert!(now >= last, "from {last} back to {now}");
                    last = now;
                }
            })
        });
        for round in 0..20_000 {
            clock.limit(Some(Duration::from_micros(round % 3)));
            let stands = clock.ticks();
            if round % 2 == 0 {
                clock.limit(None);
            }
            assert!(clock.ticks() >= stands);
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    });
}
