// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Checks and unions.

use super::*;

#[test]
fn int_checks_ignore_the_upper_half_and_word_checks_do_not() {
    let with = |value| [0, value, 0, 0, 0, 0];
    assert!(Check::int(1, 5, "").passes(&with(0xffff_ffff_0000_0005)));
    assert!(!Check::int(1, 5, "").passes(&with(6)));
    assert!(Check::word(1, 5, "").passes(&with(5)));
    assert!(!Check::word(1, 5, "").passes(&with(0x1_0000_0005)));
    assert!(Check::without(1, 4, "").passes(&with(3)));
    assert!(!Check::without(1, 4, "").passes(&with(7)));
    assert!(Check::with_bits(1, 6, "").passes(&with(7)));
    assert!(!Check::with_bits(1, 6, "").passes(&with(5)));
    assert!(Check::only_bits(1, 6, "").passes(&with(0xff00_0000_0000_0002)));
    assert!(!Check::only_bits(1, 6, "").passes(&with(3)));
}

#[test]
fn union_keeps_every_alternative_and_any_wins() {
    let (a, b) = (Check::int(0, 1, "a"), Check::int(0, 2, "b"));
    let joined = union(&[
        &[Rule::when("ioctl", &[a]), Rule::any("read"), Rule::when("write", &[a])],
        &[Rule::when("ioctl", &[b]), Rule::when("read", &[a]), Rule::any("write")],
        &[Rule::when("ioctl", &[a])],
    ]);
    let names: Vec<&str> = joined.iter().map(|rule| rule.syscall).collect();
    assert_eq!(names, ["ioctl", "read", "write"]);
    assert_eq!(joined[0].when, [[a], [b]]);
    assert!(joined[1].when.is_empty() && joined[2].when.is_empty());
}

#[test]
fn nested_process_carries_its_parents_filters_too() {
    let of =
        |name| crate::profiles::all(Arch::host()).into_iter().find(|profile| profile.name == name).unwrap();
    assert_eq!(of("coordinator").filter_count_min(), 2);
    assert_eq!(of("smmu").filter_count_min(), 4);
}
