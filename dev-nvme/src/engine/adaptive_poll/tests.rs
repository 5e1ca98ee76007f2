// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
use std::time::{Duration, Instant};

use super::{AdaptivePoll, Next, SPAN_MAX, SPAN_MIN};

/// How long it polls, to a microsecond.
fn span(poll: &mut AdaptivePoll) -> Duration {
    let now = Instant::now();
    poll.idle_since = None;
    assert_eq!(poll.idle(now), Next::Spin);
    let mut polled = Duration::ZERO;
    while poll.idle(now + polled) != Next::Sleep {
        let next = if polled < SPAN_MIN { Next::Spin } else { Next::Yield };
        assert_eq!(poll.idle(now + polled), next);
        polled += Duration::from_micros(1);
    }
    poll.idle_since = None;
    polled
}

#[test]
fn change_just_after_polling_ended_makes_it_longer_up_to_a_bound() {
    let mut poll = AdaptivePoll::default();
    assert_eq!(span(&mut poll), SPAN_MIN);
    poll.slept(SPAN_MIN);
    assert_eq!(span(&mut poll), SPAN_MIN * 2);
    for _ in 0..100 {
        poll.slept(SPAN_MIN);
    }
    assert_eq!(span(&mut poll), SPAN_MAX);
}

#[test]
fn change_long_after_polling_ended_makes_it_shorter_down_to_a_bound() {
    let mut poll = AdaptivePoll { span: SPAN_MAX, ..AdaptivePoll::default() };
    poll.slept(Duration::from_secs(1));
    assert_eq!(span(&mut poll), SPAN_MAX / 2);
    for _ in 0..100 {
        poll.slept(Duration::from_secs(1));
    }
    assert_eq!(span(&mut poll), SPAN_MIN);
}

#[test]
fn change_while_polling_changes_nothing_but_begins_a_new_span() {
    let mut poll = AdaptivePoll::default();
    let now = Instant::now();
    assert_eq!(poll.idle(now), Next::Spin);
    poll.found();
    assert_eq!(poll.idle(now + SPAN_MIN), Next::Spin);
    assert_eq!(poll.idle(now + SPAN_MIN * 2), Next::Sleep);
    assert_eq!(span(&mut poll), SPAN_MIN);
}

#[test]
fn change_after_a_sleep_is_counted_once() {
    // Long ago, unless the machine has just been started.
    let asleep_since = Instant::now().checked_sub(SPAN_MAX * 2);
    let mut poll = AdaptivePoll { span: SPAN_MAX, asleep_since, ..AdaptivePoll::default() };
    poll.found();
    poll.found();
    assert_eq!(span(&mut poll), if asleep_since.is_some() { SPAN_MAX / 2 } else { SPAN_MAX });
}
