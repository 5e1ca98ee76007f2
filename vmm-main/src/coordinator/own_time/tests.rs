// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How long a countdown takes, of a coordinator that runs, is slow, or is stopped meanwhile.

use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;

use super::{Countdown, LATE, STEP};

/// How long a countdown of `span` takes if its waits end late by these, one after the other, and then on time.
fn takes(span: Duration, late: &[Duration]) -> Duration {
    let start = Instant::now();
    let mut countdown = Countdown::from(span, start);
    let mut late = late.iter();
    loop {
        let now = countdown.until + late.next().copied().unwrap_or_default();
        if countdown.wake(now) {
            return now - start;
        }
    }
}

#[test]
fn countdown_of_a_coordinator_that_runs_takes_its_span() {
    for millis in [0, 1, 999, 1000, 1001, 10_000] {
        let span = Duration::from_millis(millis);
        assert_eq!(takes(span, &[]), span);
    }
}

#[test]
fn time_in_which_the_coordinator_is_stopped_does_not_count() {
    let (span, stopped) = (Duration::from_secs(10), Duration::from_secs(15));
    // After three waits: they are made again.
    assert_eq!(
        takes(span, &[Duration::ZERO, Duration::ZERO, stopped]),
        Duration::from_secs(3) + stopped + span
    );
    // At the last wait, too.
    let late: Vec<_> = std::iter::repeat_n(Duration::ZERO, 9).chain([stopped]).collect();
    assert_eq!(takes(span, &late), span + stopped + span);
}

proptest! {
    /// The span passes after the last stop, and not much later, whatever came before.
    #[test]
    fn countdown_ends_a_span_after_the_last_stop(
        span in 1_u64..60_000,
        late in proptest::collection::vec(prop_oneof![0_u64..1000, 1001_u64..100_000], 0..40),
    ) {
        let span = Duration::from_millis(span);
        let late: Vec<_> = late.into_iter().map(Duration::from_millis).collect();
        let start = Instant::now();
        let mut countdown = Countdown::from(span, start);
        let mut since_stop = start;
        let mut slow = Duration::ZERO;
        let mut delays = late.iter();
        let mut over = false;
        while !over {
            let delay = delays.next().copied().unwrap_or_default();
            let now = countdown.until + delay;
            over = countdown.wake(now);
            if delay > LATE {
                prop_assert!(!over, "over in a wait that the coordinator was stopped in");
                (since_stop, slow) = (now, Duration::ZERO);
            } else {
                slow += delay;
            }
            if over {
                prop_assert_eq!(now - since_stop, span + slow);
            }
            prop_assert!(countdown.until - now <= STEP);
        }
    }
}
