// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The register image through two mappings, as a device and a vCPU process have it.

use std::thread;

use super::{GuestOwned, PAGE_LEN, RegisterPage};
use crate::shm::region::Region;

const CMDQ_PROD: u64 = 0x98;
const CMDQ_CONS: u64 = 0x9c;

fn pages() -> (RegisterPage, RegisterPage) {
    let region = RegisterPage::create("registers").unwrap();
    (RegisterPage::attach(&region).unwrap(), RegisterPage::attach(&region).unwrap())
}

#[test]
fn published_registers_are_read_at_both_widths_little_endian() {
    let (device, guest) = pages();
    device.store_u64(0x80, 0x1122_3344_5566_7788);
    assert_eq!(guest.load_u64(0x80), Some(0x1122_3344_5566_7788));
    assert_eq!((guest.load_u32(0x80), guest.load_u32(0x84)), (Some(0x5566_7788), Some(0x1122_3344)));
    device.store_u32(0x84, 9);
    assert_eq!(guest.load_u64(0x80), Some(0x9_5566_7788));
    device.store_u32(PAGE_LEN - 4, 5);
    assert_eq!(guest.load_u32(PAGE_LEN - 4), Some(5));
}

#[test]
fn offsets_that_name_no_register_read_nothing_and_change_nothing() {
    let (device, guest) = pages();
    for offset in [1, 2, PAGE_LEN - 2, PAGE_LEN, u64::MAX, u64::MAX - 3] {
        device.store_u32(offset, u32::MAX);
        assert_eq!(guest.load_u32(offset), None, "{offset:#x}");
    }
    for offset in [4, 0x7c, PAGE_LEN - 4, PAGE_LEN, u64::MAX - 7] {
        device.store_u64(offset, u64::MAX);
        assert_eq!(guest.load_u64(offset), None, "{offset:#x}");
    }
    assert!((0..PAGE_LEN).step_by(8).all(|offset| guest.load_u64(offset) == Some(0)));
}

#[test]
fn guest_owned_registers_are_stored_and_others_are_not() {
    let (device, guest) = pages();
    let owned = GuestOwned::new(guest, [0x98, 0x1_00ac]);
    assert!(owned.store_u32(CMDQ_PROD, 3) && owned.store_u32(0x1_00ac, 4));
    assert!(!owned.store_u32(CMDQ_CONS, 5));
    assert_eq!((device.load_u32(CMDQ_PROD), device.load_u32(CMDQ_CONS)), (Some(3), Some(0)));
}

#[test]
fn neighbours_written_by_two_processes_at_once_both_keep_every_write() {
    const WRITES: u32 = 20_000;
    let (device, guest) = pages();
    let owned = GuestOwned::new(guest.clone(), [0x98]);
    thread::scope(|scope| {
        scope.spawn(|| {
            for value in 1..=WRITES {
                owned.store_u32(CMDQ_PROD, value);
                assert_eq!(guest.load_u32(CMDQ_PROD), Some(value), "a guest reads back what it wrote");
            }
        });
        for value in 1..=WRITES {
            device.store_u32(CMDQ_CONS, value);
            assert_eq!(device.load_u32(CMDQ_CONS), Some(value));
        }
    });
    assert_eq!((guest.load_u32(CMDQ_PROD), guest.load_u32(CMDQ_CONS)), (Some(WRITES), Some(WRITES)));
}

#[test]
fn memory_of_another_size_is_refused() {
    let short = Region::create("short", PAGE_LEN / 2).unwrap();
    assert!(RegisterPage::attach(&short).is_err());
}
