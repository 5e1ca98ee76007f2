// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! RAM layouts that must not exist.

use super::{RAM_LEN_MAX, RamLayout, RamRegion};
use crate::addr::Gpa;

fn region(gpa: u64, len: u64, file_offset: u64) -> RamRegion {
    RamRegion { gpa: Gpa(gpa), len, file_offset }
}

#[test]
fn layout_of_two_regions_has_their_sum_and_the_file_end() {
    let layout =
        RamLayout::new(vec![region(0x4000_0000, 0x10_0000, 0), region(0x8000_0000, 0x20_0000, 0x30_0000)])
            .unwrap();
    assert_eq!(layout.ram_len(), 0x30_0000);
    assert_eq!(layout.file_len(), 0x50_0000);
}

#[test]
fn layout_with_a_bad_region_is_refused() {
    let good = region(0x4000_0000, 0x1000, 0);
    for (bad, why) in [
        (vec![], "none"),
        (vec![good; 9], "too many"),
        (vec![region(0x4000_0800, 0x1000, 0)], "gpa"),
        (vec![region(0x4000_0000, 0x1001, 0)], "len"),
        (vec![region(0x4000_0000, 0x1000, 1)], "offset"),
        (vec![region(0x4000_0000, 0, 0)], "empty"),
        (vec![region(!0xfff, 0x2000, 0)], "gpa overflow"),
        (vec![region(0, 0x1000, !0xfff)], "offset overflow"),
        (vec![region(0, RAM_LEN_MAX + 0x1000, 0)], "total"),
        (vec![good, region(0x4000_0000, 0x1000, 0x1000)], "gpa overlap"),
        (vec![good, region(0x5000_0000, 0x1000, 0)], "file overlap"),
        (vec![region(0x5000_0000, 0x1000, 0), region(0x4000_0000, 0x1000, 0x1000)], "order"),
    ] {
        assert!(RamLayout::new(bad.clone()).is_err(), "{why}");
        let bytes = postcard::to_stdvec(&bad).unwrap();
        assert!(postcard::from_bytes::<RamLayout>(&bytes).is_err(), "decoded: {why}");
    }
}
