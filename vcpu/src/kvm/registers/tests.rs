// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
use super::*;

fn unique<T: Ord + Copy + std::fmt::Debug>(list: &[T]) {
    let set: std::collections::BTreeSet<T> = list.iter().copied().collect();
    assert_eq!(set.len(), list.len(), "{list:x?}");
}

#[test]
fn distributor_has_every_spi_and_is_on_before_any_is_pending() {
    let offsets = distributor();
    unique(&offsets);
    assert_eq!(offsets[..2], [0x8, 0x0]);
    // GICD_ISENABLER1..3, GICD_IPRIORITYR8..31, GICD_ICFGR2..7, GICD_IROUTER32..127.
    for (range, count) in
        [(0x104..=0x10c, 3), (0x420..=0x47c, 24), (0xc08..=0xc1c, 6), (0x6100..=0x63fc, 192)]
    {
        assert_eq!(offsets.iter().filter(|offset| range.contains(*offset)).count(), count, "{range:x?}");
    }
    assert_eq!(level_words().collect::<Vec<_>>(), [32, 64, 96]);
}

#[test]
fn redistributor_has_private_interrupts_and_enables_lpis_last() {
    let offsets = redistributor();
    unique(&offsets);
    assert_eq!(offsets.last(), Some(&0));
    let place = |wanted| offsets.iter().position(|offset| *offset == wanted).unwrap();
    assert!(place(0x7c) < place(0x0), "pending tables have a place before they are used");
    assert!(place(0x1_0c04) < place(0x1_0200), "an edge is known as one before it is pending");
    assert!(place(0x1_041c) < place(0x1_0100));
}

#[test]
fn cpu_interface_has_as_many_active_priorities_as_bits_ask_for() {
    assert_eq!([5, 6, 7].map(|bits| cpu_interface(bits).len()), [9, 11, 15]);
    // ICC_AP1R0_EL1 is S3_0_C12_C9_0.
    assert_eq!(cpu_interface(5).last(), Some(&0xc648));
    assert_eq!(cpu_interface(5)[1], ICC_CTLR_EL1);
    assert_eq!((priority_bits(0x400), priority_bits(0x600)), (5, 7));
}

#[test]
fn its_is_told_its_format_first_and_switched_on_last() {
    let offsets: Vec<u64> = its().collect();
    unique(&offsets);
    assert_eq!((offsets.len(), offsets[0], offsets[1], offsets[12]), (13, 0x4, 0x80, GITS_CTLR));
    assert_eq!(offsets[2..4], [0x90, 0x88], "the queue's ends, after its base has set them to zero");
}

#[test]
fn ids_are_those_of_the_kernel_s_interface() {
    assert_eq!((core::X0, core::PC), (0x6030_0000_0010_0000, 0x6030_0000_0010_0040));
    assert_eq!(COUNTERS, [0x6030_0000_0013_df1a, 0x6030_0000_0013_df01]);
    assert_eq!(
        [0x6030_0000_0010_0000, 0x6040_0000_0010_0054, 0x6020_0000_0011_0000].map(size_of_id),
        [8, 16, 4]
    );
    assert_eq!(affinity(17), 0x101 << 32);
}
