// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What waits, by the registers that say so.

use super::*;

const LOG2_SIZE: u8 = 3;
const SIZE: u32 = 1 << LOG2_SIZE;

/// The page of an SMMU with an enabled queue of eight commands.
fn page() -> RegisterPage {
    let page = RegisterPage::attach(&RegisterPage::create("page").unwrap()).unwrap();
    store(&page, Register::IDR1, Idr1::new().with_cmdqs(8).into_bits());
    store(&page, Register::CR0ACK, Cr0::new().with_cmdqen(true).into_bits());
    let base = QueueBase::new().with_addr_51_5(0x1000).with_log2size(LOG2_SIZE);
    page.store_u64(Register::CMDQ_BASE.offset(), base.into_bits());
    page
}

fn store(page: &RegisterPage, register: Register, value: u32) {
    page.store_u32(register.offset(), value);
}

/// Sets both pointers, and says what waits.
fn waiting(page: &RegisterPage, cons: u32, prod: u32) -> Option<Waiting> {
    store(page, Register::CMDQ_CONS, cons);
    store(page, Register::CMDQ_PROD, prod);
    CommandQueue::new(page.clone()).waiting()
}

#[test]
fn commands_wait_between_the_pointers_of_an_enabled_queue_without_an_error() {
    let page = page();
    assert_eq!(waiting(&page, 5, 5), None);
    assert_eq!(waiting(&page, 5, 7).unwrap().count, 2);
    assert_eq!(waiting(&page, 2 * SIZE - 1, 1).unwrap().count, 2, "past the wrap flag");
    assert_eq!(waiting(&page, 5, 5 + SIZE).unwrap().count, SIZE, "full");
    // Reserved bits, and CMDQ_CONS.ERR, are no part of a pointer.
    assert_eq!(waiting(&page, 5 | 1 << 24, 5 | 0xfff0_0000), None);
    let error = Gerror::new().with_cmdq_err(true).into_bits();
    store(&page, Register::GERROR, error);
    assert_eq!(waiting(&page, 5, 7), None, "the error is the guest's to acknowledge");
    store(&page, Register::GERRORN, error);
    assert!(waiting(&page, 5, 7).is_some());
    store(&page, Register::CR0ACK, 0);
    assert_eq!(waiting(&page, 5, 7), None);
}

#[test]
fn commands_are_consumed_when_the_read_pointer_has_passed_them_and_not_before() {
    let page = page();
    for cons in 0..2 * SIZE {
        let at = |pointer: u32| pointer % (2 * SIZE);
        let oldest = waiting(&page, cons, at(cons + 3)).unwrap();
        for moved in 0..3 {
            let later = waiting(&page, at(cons + moved), at(cons + 5)).unwrap();
            assert!(!oldest.are_consumed_at(&later), "{moved} from {cons}");
        }
        let later = waiting(&page, at(cons + 3), at(cons + 5)).unwrap();
        assert!(oldest.are_consumed_at(&later));
    }
}

#[test]
fn queue_of_another_size_is_another_queue() {
    let page = page();
    let oldest = waiting(&page, 0, 3).unwrap();
    let base = QueueBase::new().with_log2size(LOG2_SIZE + 1);
    page.store_u64(Register::CMDQ_BASE.offset(), base.into_bits());
    assert!(oldest.are_consumed_at(&waiting(&page, 0, 3).unwrap()));
    // A size beyond what the SMMU has is cut, as the SMMU does.
    page.store_u64(Register::CMDQ_BASE.offset(), base.with_log2size(31).into_bits());
    assert_eq!(waiting(&page, 0, 1 << 9), None);
}
