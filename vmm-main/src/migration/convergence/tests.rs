// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Guests that dirty little, too much, and just too much.

use std::time::Duration;

use super::{Convergence, Decision, Limits, Otherwise, Round};

const MIB: u64 = 1 << 20;

fn limits() -> Limits {
    let downtime = Duration::from_millis(300);
    Limits { downtime, rounds_max: 30, otherwise: Otherwise::GiveUp, throttle: false }
}

/// A round at 1 MiB a millisecond.
fn round(sent: u64, owed: u64) -> Round {
    let took = Duration::from_millis(sent);
    Round { carried_len: sent * MIB, took, owed_len: owed * MIB, overhead: Duration::from_millis(10) }
}

#[test]
fn the_estimate_is_what_is_owed_over_the_rate_and_the_overhead() {
    assert_eq!(round(1000, 250).downtime(), Duration::from_millis(260));
    assert_eq!(round(1000, 0).downtime(), Duration::from_millis(10));
    let nothing_sent = Round { carried_len: 0, ..round(1000, 1) };
    assert!(nothing_sent.downtime() > Duration::from_secs(3600), "no rate is known");
    let huge = Round { owed_len: u64::MAX, took: Duration::MAX, ..round(1, 1) };
    assert!(huge.downtime() > Duration::from_secs(3600), "no overflow");
}

#[test]
fn a_guest_that_dirties_little_moves_when_the_estimate_allows_it() {
    let mut convergence = Convergence::new(limits());
    assert_eq!(convergence.after(1, round(4096, 800)), Decision::NextRound);
    assert_eq!(convergence.after(2, round(800, 290)), Decision::SwitchOver);
}

#[test]
fn one_that_dirties_as_fast_as_is_sent_stays_or_moves_as_was_said() {
    let run = |limits: Limits| {
        let mut convergence = Convergence::new(limits);
        let mut decisions = (1..=limits.rounds_max).map(|count| convergence.after(count, round(1000, 1000)));
        let last = decisions.next_back();
        assert!(decisions.all(|decision| decision == Decision::NextRound));
        last.unwrap()
    };
    let Decision::GiveUp(reason) = run(limits()) else { panic!("it gives up") };
    assert!(
        reason.contains("1010 ms, 300 ms are allowed") && reason.contains("--downtime-limit"),
        "{reason}"
    );
    assert_eq!(run(Limits { otherwise: Otherwise::SwitchOver, ..limits() }), Decision::SwitchOver);
}

#[test]
fn cpus_are_slowed_down_step_by_step_while_that_helps_nothing() {
    let mut convergence = Convergence::new(Limits { throttle: true, ..limits() });
    assert_eq!(
        convergence.after(1, round(1000, 1000)),
        Decision::NextRound,
        "the first round compares with nothing"
    );
    let percent: Vec<_> = (2..9)
        .map(|count| match convergence.after(count, round(1000, 1000)) {
            Decision::Throttle(percent) => percent,
            _ => 0,
        })
        .collect();
    assert_eq!(percent, [20, 40, 60, 80, 99, 0, 0]);
    assert_eq!(convergence.after(9, round(1000, 500)), Decision::NextRound);
}
