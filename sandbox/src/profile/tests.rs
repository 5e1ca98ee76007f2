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

#[test]
fn rule_about_a_descriptor_lets_nothing_through_until_its_number_is_known() {
    let of = |slot| vec![Check::descriptor(0, slot, "whose"), Check::int(1, 9, "what")];
    let alternatives = vec![of("kvm"), of("iommufd"), vec![Check::int(1, 7, "any")]];
    let rule = Rule::alternatives("ioctl", alternatives);
    let profile = Profile { rules: vec![rule], ..crate::profiles::smmu() };
    let passes = |profile: &Profile, args: [u64; 2]| {
        let args = [args[0], args[1], 0, 0, 0, 0];
        profile.rules[0].when.iter().any(|checks| checks.iter().all(|check| check.passes(&args)))
    };
    let any = u64::from(u32::MAX);
    assert!(!passes(&profile, [any, 9]) && passes(&profile, [any, 7]));
    assert_eq!(profile.unknown_slot(), Some("kvm"));

    let known = profile.with_numbers(|slot| if slot == "kvm" { vec![4, 6] } else { Vec::new() });
    let passed: Vec<u64> = (0..16).filter(|fd| passes(&known, [*fd, 9])).collect();
    assert_eq!(passed, [4, 6], "each of its numbers, and no other");
    assert_eq!(known.unknown_slot(), Some("iommufd"));
    let known = known.with_numbers(|_| vec![5]);
    assert_eq!((passes(&known, [5, 9]), known.unknown_slot()), (true, None));
}
