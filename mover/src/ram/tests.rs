// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Words and pages of RAM with two regions, the first of which does not fill its last word.

use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;

use ipc::addr::Gpa;
use ipc::migration::pages::Stretch;
use ipc::protocol::ram::{RamLayout, RamRegion};
use ipc::shm::region::Region;

use super::{PAGE_BYTES, Ram};

const FIRST: u64 = 0x4000_0000;
const SECOND: u64 = 0x8000_0000;
/// Where the second region is in the file.
const SECOND_AT: u64 = 100 * 4096;

fn ram() -> Ram {
    let layout = RamLayout::new(vec![
        RamRegion { gpa: Gpa(FIRST), len: 70 * 4096, file_offset: 4096 },
        RamRegion { gpa: Gpa(SECOND), len: 64 * 4096, file_offset: SECOND_AT },
    ]);
    let layout = layout.unwrap();
    let region = Region::create("ram", layout.file_len()).unwrap();
    Ram::new(Arc::clone(region.file()), layout)
}

fn byte(ram: &Ram, offset: u64) -> u8 {
    let mut byte = [0];
    ram.file.read_exact_at(&mut byte, offset).unwrap();
    byte[0]
}

#[test]
fn words_count_on_from_region_to_region() {
    let ram = ram();
    assert_eq!(ram.word_count(), 3);
    ram.fill(Stretch { word: 1, pages: 0b10_0000 }, &[7; PAGE_BYTES]).unwrap();
    assert_eq!(byte(&ram, 70 * 4096), 7, "the last page of the first region");
    ram.fill(Stretch { word: 2, pages: 1 << 63 | 1 }, &[[8; PAGE_BYTES], [9; PAGE_BYTES]].concat()).unwrap();
    assert_eq!((byte(&ram, SECOND_AT), byte(&ram, SECOND_AT + 63 * 4096)), (8, 9));
}

#[test]
fn pages_that_the_guest_has_not_got_are_refused_and_nothing_is_written() {
    let ram = ram();
    for (word, pages) in [(1, 1 << 6), (1, u64::MAX), (3, 1), (u64::MAX, 1)] {
        let stretch = Stretch { word, pages };
        assert!(ram.fill(stretch, &[1; 64 * PAGE_BYTES]).is_err(), "{stretch:?}");
        assert!(ram.clear(stretch).is_err(), "{stretch:?}");
        assert!(ram.append(stretch, &mut vec![]).is_err(), "{stretch:?}");
    }
    assert_eq!(ram.file.metadata().unwrap().blocks(), 0);
}

#[test]
fn pages_are_read_in_their_order_whatever_lies_between() {
    let ram = ram();
    let all = [u64::MAX, 1, 1 << 63, 0b1011_0110, 0xaaaa_aaaa_aaaa_aaaa, u64::MAX >> 1, u64::MAX << 1];
    for pages in all {
        let each = (1..=u8::MAX).take(pages.count_ones().try_into().unwrap());
        let bytes: Vec<u8> = each.flat_map(|page| [page; PAGE_BYTES]).collect();
        ram.fill(Stretch { word: 0, pages: u64::MAX }, &[0xff; 64 * PAGE_BYTES]).unwrap();
        ram.fill(Stretch { word: 0, pages }, &bytes).unwrap();
        let mut read = vec![1, 2, 3];
        assert_eq!(ram.append(Stretch { word: 0, pages }, &mut read).unwrap(), pages);
        assert!(read[..3] == [1, 2, 3] && read[3..] == bytes, "{pages:#x}");
        ram.append(Stretch { word: 0, pages: !pages }, &mut read).unwrap();
        assert!(read[3 + bytes.len()..].iter().all(|byte| *byte == 0xff), "{pages:#x}");
    }
}

#[test]
fn zero_pages_are_told_from_others_by_their_last_byte_too() {
    let ram = ram();
    ram.file.write_all_at(&[1], 4096 + 2 * 4096 - 1).unwrap();
    let mut bytes = vec![];
    assert_eq!(ram.append(Stretch { word: 0, pages: 0b111 }, &mut bytes).unwrap(), 0b010);
    assert_eq!(bytes.len(), PAGE_BYTES);
    assert_eq!(bytes.last(), Some(&1));
}

#[test]
fn a_page_that_was_never_touched_is_read_without_becoming_memory() {
    let ram = ram();
    let mut bytes = vec![];
    for word in 0..2 {
        assert_eq!(ram.append(Stretch { word, pages: 0x3f }, &mut bytes).unwrap(), 0);
    }
    ram.clear(Stretch { word: 0, pages: u64::MAX }).unwrap();
    assert!(bytes.is_empty());
    assert_eq!(ram.file.metadata().unwrap().blocks(), 0);
}

#[test]
fn a_page_that_was_filled_is_cleared_and_another_not_touched() {
    let ram = ram();
    ram.fill(Stretch { word: 0, pages: 1 }, &[5; PAGE_BYTES]).unwrap();
    // Not by `fill`: what was never filled from here is taken for zero.
    ram.file.write_all_at(&[6], 2 * 4096).unwrap();
    ram.clear(Stretch { word: 0, pages: 0b11 }).unwrap();
    assert_eq!((byte(&ram, 4096), byte(&ram, 2 * 4096)), (0, 6));
}
