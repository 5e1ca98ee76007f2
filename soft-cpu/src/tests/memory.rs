// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Loads and stores: sizes, extensions, addressing, alignment, pages, device memory.

use proptest::prelude::*;

use super::machine::{BusAccess, CODE, DATA, DEVICE, Guest, READ_ONLY, page};

const VALUE: u64 = 0x8182_8384_f5f6_f7f8;

/// Loads x0 from [x1], which holds `VALUE`.
#[track_caller]
fn loaded(word: u32) -> u64 {
    let mut guest = Guest::translated();
    guest.write(DATA, VALUE);
    guest.set_x(1, DATA);
    guest.step(word);
    guest.expect_none();
    guest.x(0)
}

#[test]
fn loads_extend_as_their_size_and_sign_say() {
    assert_eq!(loaded(0xf940_0020), VALUE);
    assert_eq!(loaded(0xb940_0020), 0xf5f6_f7f8);
    assert_eq!(loaded(0x7940_0020), 0xf7f8);
    assert_eq!(loaded(0x3940_0020), 0xf8);
    assert_eq!(loaded(0xb980_0020), 0xffff_ffff_f5f6_f7f8);
    assert_eq!(loaded(0x7980_0020), 0xffff_ffff_ffff_f7f8);
    assert_eq!(loaded(0x3980_0020), 0xffff_ffff_ffff_fff8);
    assert_eq!(loaded(0x79c0_0020), 0xffff_f7f8);
    assert_eq!(loaded(0x39c0_0020), 0xffff_fff8);
}

#[test]
fn indexed_forms_move_the_base() {
    let mut guest = Guest::translated();
    guest.write(DATA + 8, 11);
    guest.set_x(1, DATA);
    guest.step(0xf840_8c20); // ldr x0, [x1, #8]!
    assert_eq!((guest.x(0), guest.x(1)), (11, DATA + 8));
    guest.step(0xf85f_8420); // ldr x0, [x1], #-8
    assert_eq!((guest.x(0), guest.x(1)), (11, DATA));
    guest.set_x(0, 22);
    guest.set_x(2, 33);
    guest.step(0xa9bf_0820); // stp x0, x2, [x1, #-16]!
    assert_eq!(guest.x(1), DATA - 16);
    assert_eq!((guest.read(DATA - 16), guest.read(DATA - 8)), (22, 33));
    guest.step(0xa8c1_0820); // ldp x0, x2, [x1], #16
    assert_eq!((guest.x(0), guest.x(2), guest.x(1)), (22, 33, DATA));
}

#[test]
fn register_offsets_are_extended_and_scaled() {
    let mut guest = Guest::translated();
    guest.set_x(0, 44);
    guest.set_x(1, DATA);
    guest.set_x(2, 3);
    guest.step(0xf822_7820); // str x0, [x1, x2, lsl #3]
    assert_eq!(guest.read(DATA + 24), 44);
    guest.set_x(1, DATA + 32);
    guest.set_x(2, 0x1234_5678_ffff_ffff);
    guest.step(0xf862_d820); // ldr x0, [x1, w2, sxtw #3]
    assert_eq!(guest.x(0), 44);
}

#[test]
fn pairs_sign_extend_and_literals_are_relative() {
    let mut guest = Guest::translated();
    guest.write(DATA, 0x8000_0001_7fff_ffff);
    guest.set_x(1, DATA);
    guest.step(0x6940_0820); // ldpsw x0, x2, [x1]
    assert_eq!((guest.x(0), guest.x(2)), (0x7fff_ffff, 0xffff_ffff_8000_0001));
    guest.write(CODE + 8, 77);
    guest.step(0x5800_0040); // ldr x0, #8
    assert_eq!(guest.x(0), 77);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn unaligned_accesses_are_their_bytes(offset in 0xff0u64..0x1010, log2 in 0u32..4, value: u64) {
        let mut guest = Guest::translated();
        let len = 1u64 << log2;
        guest.set_x(1, DATA + offset);
        guest.set_x(0, value);
        guest.step(0x3900_0020 | log2 << 30); // str
        let bytes = |guest: &Guest| (0..len).fold(0, |all, i| {
            let at = DATA + offset + i;
            all | (guest.read(at & !7) >> (8 * (at & 7)) & 0xff) << (8 * i)
        });
        let expected = value & (u64::MAX >> (64 - 8 * len));
        prop_assert_eq!(bytes(&guest), expected);
        guest.set_x(0, 0);
        guest.step(0x3940_0020 | log2 << 30); // ldr
        prop_assert_eq!(guest.x(0), expected);
        // Nothing beside it was touched.
        prop_assert_eq!(guest.read((DATA + offset - 8) & !7) >> 56 & 0xff, if (DATA + offset) & 7 == 0 { 0 } else { guest.read((DATA + offset - 8) & !7) >> 56 & 0xff });
    }
}

#[test]
fn store_that_faults_in_its_second_page_stores_nothing() {
    let mut guest = Guest::translated();
    let last = DATA + 0xffff;
    guest.set_x(1, last - 3);
    guest.set_x(0, u64::MAX);
    guest.step(0xf900_0020); // str x0, [x1]
    guest.expect_exception(0x25, 0b00_0111 | 1 << 6, 0x200);
    assert_eq!(guest.vcpu.cpu.sys.far, last + 1);
    assert_eq!(guest.read(last & !7), 0);
    guest.set_x(1, last - 7);
    guest.set_x(2, u64::MAX);
    guest.step(0xa900_0820); // stp x0, x2, [x1]
    guest.expect_exception(0x25, 0b00_0111 | 1 << 6, 0x200);
    assert_eq!(guest.read(last & !7), 0);
}

#[test]
fn pair_load_that_faults_changes_no_register() {
    let mut guest = Guest::translated();
    guest.set_x(0, 1);
    guest.set_x(1, DATA + 0xfff8);
    guest.step(0xa8c1_0820); // ldp x0, x2, [x1], #16
    guest.expect_exception(0x25, 0b00_0111, 0x200);
    assert_eq!((guest.x(0), guest.x(1)), (1, DATA + 0xfff8));
}

#[test]
fn device_memory_goes_to_the_bus_in_its_size() {
    let mut guest = Guest::translated();
    guest.map(DEVICE, DEVICE | page::KERNEL | page::DEVICE);
    guest.set_x(1, DEVICE + 4);
    guest.step(0xb940_0020); // ldr w0, [x1]
    assert_eq!(guest.x(0), 0x4433_2211);
    guest.set_x(0, 0xaabb_ccdd_eeff_0011);
    guest.step(0x3900_0420); // strb w0, [x1, #1]
    let expected = [
        BusAccess::Read { gpa: DEVICE + 4, size: 4 },
        BusAccess::Write { gpa: DEVICE + 5, size: 1, value: 0x11 },
    ];
    assert_eq!(*guest.world.accesses.lock().unwrap(), expected);
}

#[test]
fn unaligned_access_to_device_memory_faults() {
    let mut guest = Guest::translated();
    guest.map(DEVICE, DEVICE | page::KERNEL | page::DEVICE);
    guest.map(DEVICE + 0x1000, DATA | page::KERNEL | page::DEVICE);
    for address in [DEVICE + 1, DEVICE + 0x1001] {
        guest.set_x(1, address);
        guest.step(0xf940_0020); // ldr x0, [x1]
        guest.expect_exception(0x25, 0b10_0001, 0x200);
        assert_eq!(guest.vcpu.cpu.sys.far, address);
        guest.step(0xf900_0020); // str x0, [x1]
        guest.expect_exception(0x25, 0b10_0001 | 1 << 6, 0x200);
    }
    assert!(guest.world.accesses.lock().unwrap().is_empty());
}

#[test]
fn alignment_check_makes_every_unaligned_access_fault() {
    let mut guest = Guest::translated();
    guest.vcpu.cpu.sys.sctlr |= 2;
    guest.vcpu.cpu.update_regime();
    guest.set_x(1, DATA + 1);
    guest.step(0xb940_0020); // ldr w0, [x1]
    guest.expect_exception(0x25, 0b10_0001, 0x200);
    guest.set_x(1, DATA + 4);
    guest.step(0xb940_0020);
    guest.expect_none();
}

#[test]
fn with_translation_off_data_is_device_memory() {
    let mut guest = Guest::new();
    guest.set_x(1, DATA + 1);
    guest.step(0xb940_0020); // ldr w0, [x1]
    guest.expect_exception(0x25, 0b10_0001, 0x200);
    guest.set_x(1, 1 << 40);
    guest.step(0xf940_0020);
    guest.expect_exception(0x25, 0b00_0000, 0x200);
}

#[test]
fn misaligned_stack_pointer_faults_when_checked() {
    let mut guest = Guest::translated();
    guest.vcpu.cpu.w(crate::op::SP, DATA + 8);
    guest.step(0xf940_03e0); // ldr x0, [sp]
    guest.expect_none();
    guest.vcpu.cpu.sys.sctlr |= 8;
    guest.vcpu.cpu.update_regime();
    guest.step(0xf940_03e0);
    guest.expect_exception(0x26, 0, 0x200);
}

#[test]
fn read_only_pages_answer_reads_and_pass_writes_on() {
    let mut guest = Guest::translated();
    guest.map(READ_ONLY, READ_ONLY | page::KERNEL | page::DEVICE);
    guest.set_x(1, READ_ONLY + 8);
    guest.step(0xf940_0020); // ldr x0, [x1]
    assert_eq!(guest.x(0), 0);
    guest.set_x(0, 5);
    guest.step(0xf900_0020); // str x0, [x1]
    guest.step(0xf940_0020);
    assert_eq!(guest.x(0), 0);
    let write = BusAccess::Write { gpa: READ_ONLY + 8, size: 8, value: 5 };
    assert_eq!(*guest.world.accesses.lock().unwrap(), [write]);
}

#[test]
fn zeroing_a_block_zeroes_64_bytes() {
    let mut guest = Guest::translated();
    for offset in (0..192).step_by(8) {
        guest.write(DATA + offset, u64::MAX);
    }
    guest.set_x(1, DATA + 100);
    guest.run(&[0xd50b_7421, 0xd50b_7421]); // dc zva, x1, twice: miss and hit
    for offset in (0..192).step_by(8) {
        assert_eq!(guest.read(DATA + offset) == 0, (64..128).contains(&offset), "{offset}");
    }
}

#[test]
fn dirty_log_is_told_once_per_page_until_the_flush() {
    let mut guest = Guest::translated();
    guest.set_x(1, DATA);
    guest.step(0xf940_0020); // ldr x0, [x1]
    assert!(guest.world.marks.lock().unwrap().is_empty());
    guest.run(&[0xf900_0020, 0x3900_0420]); // str, strb
    assert_eq!(*guest.world.marks.lock().unwrap(), [(DATA, 0x1000)]);
    let handle = guest.parts.cluster.handle(0).unwrap();
    handle.flush_write_tlb();
    guest.step(0xf900_0020);
    assert_eq!(guest.world.marks.lock().unwrap().len(), 2);
}
