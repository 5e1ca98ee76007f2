// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
use super::*;

#[test]
fn list_of_a_device_in_every_slot_has_room() {
    let mut told = Inspect::new();
    for device in 0..31 {
        for value in 0..24 {
            told.counter(format!("vfio{device}.accesses-of-kind-{value}"), u64::MAX);
        }
    }
    assert_eq!((told.entries().len(), told.refused()), (31 * 24, 0));
}

#[test]
fn list_never_outgrows_a_frame_and_says_what_it_has_left_out() {
    let mut told = Inspect::new();
    for entry in 0..2 * ENTRIES_MAX {
        told.text(format!("{entry:090}"), "x".repeat(2 * TEXT_LEN_MAX));
    }
    let bytes = postcard::to_allocvec(&told).unwrap();
    assert!(bytes.len() < BODY_LEN_MAX as usize, "{}", bytes.len());
    assert_eq!(told.entries().len() + usize::try_from(told.refused()).unwrap(), 2 * ENTRIES_MAX);
    assert_eq!(postcard::from_bytes::<Inspect>(&bytes).unwrap().entries(), told.entries());
    let mut short = Inspect::new();
    (0..=ENTRIES_MAX).for_each(|_| short.counter("n", 1));
    assert_eq!((short.entries().len(), short.refused()), (ENTRIES_MAX, 1));
}
