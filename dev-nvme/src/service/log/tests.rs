// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Lines come back with time, and what was left out is counted.

use super::*;

#[test]
fn lines_are_bounded_whoever_causes_them() {
    const BURST: u32 = 16;
    const PAUSE: Duration = Duration::from_secs(300);
    let (limit, start) = (Limit::new(BURST, PAUSE), Instant::now());
    let said = (0..10_000).filter_map(|_| limit.allows(start)).count();
    assert_eq!(said, BURST as usize);
    assert_eq!(limit.allows(start + PAUSE - Duration::from_millis(1)), None);
    // One more after a while, which tells how many were left out.
    assert_eq!(limit.allows(start + PAUSE), Some(10_000 - u64::from(BURST) + 1));
    assert_eq!(limit.allows(start + PAUSE), None);
    assert_eq!(limit.allows(start + 2 * PAUSE), Some(1));
    // A quiet day makes room for a burst again, and not for a day's worth.
    let next_day = start + Duration::from_secs(86_400);
    assert_eq!((0..100).filter_map(|_| limit.allows(next_day)).count(), BURST as usize);
    // Time that goes backwards changes nothing.
    assert_eq!(limit.allows(start), None);
}

#[test]
fn limits_of_different_things_are_apart() {
    let start = Instant::now();
    assert!((0..100).any(|_| CLIENTS.allows(start).is_none()));
    assert!(IMAGE.allows(start).is_some());
}
