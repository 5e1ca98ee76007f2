// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
use std::io::Write;

use super::*;
use crate::iommu::fault_queue::Losses;

fn events(bytes: &[u8]) -> Events {
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(bytes).unwrap();
    Events::new(reader.into())
}

fn event(sequence: u32, record: [u64; 4]) -> Vec<u8> {
    let head = [0, sequence].map(u32::to_le_bytes).concat();
    [head, record.map(u64::to_le_bytes).concat()].concat()
}

fn lost(sequence: u32) -> Vec<u8> {
    [1, sequence].map(u32::to_le_bytes).concat()
}

#[test]
fn records_and_marks_come_in_order_with_their_numbers() {
    let record = [0x8_0000_0010, 1, 0x1000, 3];
    let mut events = events(&[event(0, record), event(1, [9; 4]), lost(5)].concat());
    assert_eq!(events.take(), Some(Entry { sequence: 0, fault: Some(Fault::Record(record)) }));
    assert_eq!(events.take(), Some(Entry { sequence: 1, fault: Some(Fault::Record([9; 4])) }));
    assert_eq!(events.take(), Some(Entry { sequence: 5, fault: None }));
    assert_eq!(events.take(), None);
    assert_eq!((events.count, events.misread), (2, 0));
}

#[test]
fn losses_are_found_by_gap_and_by_mark_also_where_the_numbers_wrap() {
    let last = SEQUENCES - 1;
    let bytes = [event(0, [0; 4]), event(3, [0; 4]), lost(9), event(last, [0; 4]), event(0, [0; 4])];
    let mut events = events(&bytes.concat());
    let mut losses = Losses::default();
    let lost: Vec<u32> = std::iter::from_fn(|| events.take()).map(|entry| losses.before(&entry)).collect();
    // 1 and 2; 4 to 9; 10 to the last but one; none where the numbers begin again.
    assert_eq!(lost, [0, 2, 6, last - 10, 0]);
}

#[test]
fn half_a_record_is_counted_and_never_an_event() {
    let whole = event(0, [7; 4]);
    let mut events = events(&[whole.as_slice(), &whole[..39]].concat());
    assert!(events.take().is_some());
    assert_eq!(events.take(), None);
    assert_eq!((events.count, events.misread), (1, 39));
}
