// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
use std::time::{Duration, Instant};

use super::{Next, Patience, SPAN_MAX, SPAN_MIN};

/// How long it looks for, to a microsecond.
fn span(patience: &mut Patience) -> Duration {
    let now = Instant::now();
    patience.nothing_since = None;
    assert_eq!(patience.nothing(now), Next::Look);
    let mut looked = Duration::ZERO;
    while patience.nothing(now + looked) != Next::Sleep {
        let next = if looked < SPAN_MIN { Next::Look } else { Next::Yield };
        assert_eq!(patience.nothing(now + looked), next);
        looked += Duration::from_micros(1);
    }
    patience.nothing_since = None;
    looked
}

#[test]
fn news_just_after_looking_ended_makes_it_longer_up_to_a_bound() {
    let mut patience = Patience::default();
    assert_eq!(span(&mut patience), SPAN_MIN);
    patience.missed(SPAN_MIN);
    assert_eq!(span(&mut patience), SPAN_MIN * 2);
    for _ in 0..100 {
        patience.missed(SPAN_MIN);
    }
    assert_eq!(span(&mut patience), SPAN_MAX);
}

#[test]
fn news_long_after_looking_ended_makes_it_shorter_down_to_a_bound() {
    let mut patience = Patience { span: SPAN_MAX, ..Patience::default() };
    patience.missed(Duration::from_secs(1));
    assert_eq!(span(&mut patience), SPAN_MAX / 2);
    for _ in 0..100 {
        patience.missed(Duration::from_secs(1));
    }
    assert_eq!(span(&mut patience), SPAN_MIN);
}

#[test]
fn news_while_looking_changes_nothing_but_begins_a_new_span() {
    let mut patience = Patience::default();
    let now = Instant::now();
    assert_eq!(patience.nothing(now), Next::Look);
    patience.news();
    assert_eq!(patience.nothing(now + SPAN_MIN), Next::Look);
    assert_eq!(patience.nothing(now + SPAN_MIN * 2), Next::Sleep);
    assert_eq!(span(&mut patience), SPAN_MIN);
}

#[test]
fn news_after_a_sleep_is_counted_once() {
    // Long ago, unless the machine has just been started.
    let asleep_since = Instant::now().checked_sub(SPAN_MAX * 2);
    let mut patience = Patience { span: SPAN_MAX, asleep_since, ..Patience::default() };
    patience.news();
    patience.news();
    assert_eq!(span(&mut patience), if asleep_since.is_some() { SPAN_MAX / 2 } else { SPAN_MAX });
}
