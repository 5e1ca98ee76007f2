// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Addresses at the edges of their spaces.

use super::{Bdf, Gpa, GpaRange};

#[test]
fn range_at_the_top_of_the_space_may_end_there_and_not_beyond() {
    assert!(GpaRange::new(Gpa(u64::MAX), 0).is_some());
    assert!(GpaRange::new(Gpa(u64::MAX - 4095), 4095).is_some());
    assert!(GpaRange::new(Gpa(u64::MAX), 1).is_none());
    assert!(GpaRange::new(Gpa(1), u64::MAX).is_none());
}

#[test]
fn range_decoded_from_overflowing_numbers_is_refused() {
    let good = postcard::to_stdvec(&(0x1000_u64, 0x1000_u64)).unwrap();
    let range: GpaRange = postcard::from_bytes(&good).unwrap();
    assert_eq!((range.start(), range.end()), (Gpa(0x1000), Gpa(0x2000)));
    let bad = postcard::to_stdvec(&(u64::MAX, 2_u64)).unwrap();
    assert!(postcard::from_bytes::<GpaRange>(&bad).is_err());
}

#[test]
fn range_intersection_is_symmetric_and_empty_when_they_only_touch() {
    let low = GpaRange::new(Gpa(0x1000), 0x2000).unwrap();
    let high = GpaRange::new(Gpa(0x2000), 0x2000).unwrap();
    let both = GpaRange::new(Gpa(0x2000), 0x1000);
    assert_eq!(low.intersection(high), both);
    assert_eq!(high.intersection(low), both);
    assert_eq!(low.intersection(GpaRange::new(Gpa(0x3000), 1).unwrap()), None);
    assert!(!low.contains(Gpa(0x3000)) && low.contains(Gpa(0x2fff)));
}

#[test]
fn addresses_that_wrap_do_not_exist() {
    assert_eq!(Gpa(u64::MAX).checked_add(1), None);
    assert_eq!(Gpa(4).checked_offset_from(Gpa(5)), None);
    assert_eq!(Gpa(0x1fff).page(), Gpa(0x1000));
}

#[test]
fn bdf_splits_into_bus_device_function() {
    let bdf = Bdf(0x01fb);
    assert_eq!((bdf.bus(), bdf.device(), bdf.function()), (1, 31, 3));
    assert_eq!(bdf.to_string(), "01:1f.3");
}
