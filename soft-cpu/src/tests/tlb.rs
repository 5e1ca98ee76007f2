// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the TLBs remember and forget, seen through loads and jumps.

use super::machine::{CODE, DATA, Guest, NOP, TABLES, page};

const VA: u64 = 0x12_3456_7000;
const LDR: u32 = 0xf940_0020; // ldr x0, [x1]
const OTHER: u64 = DATA + 0x1000;

fn guest(descriptor: u64) -> Guest {
    let mut guest = Guest::translated();
    guest.map(VA, DATA | descriptor);
    guest.write(DATA, 1);
    guest.write(OTHER, 2);
    guest.set_x(1, VA);
    guest.step(LDR);
    assert_eq!(guest.x(0), 1);
    // The table changes; what was read stays until it is invalidated.
    guest.map(VA, OTHER | descriptor);
    guest.step(LDR);
    assert_eq!(guest.x(0), 1);
    guest
}

/// Runs TLBI with `argument` in x1, then loads from VA again.
fn load_after(guest: &mut Guest, tlbi: u32, argument: u64) -> u64 {
    guest.set_x(1, argument);
    guest.step(tlbi);
    guest.set_x(1, VA);
    guest.step(LDR);
    guest.x(0)
}

fn set_asid(guest: &mut Guest, asid: u64) {
    guest.set_x(0, TABLES | asid << 48);
    guest.step(0xd518_2000); // msr ttbr0_el1, x0
}

#[test]
fn invalidations_forget_what_they_name() {
    for (text, tlbi, argument, expected) in [
        ("all", 0xd508_871f, 0, 2),
        ("the page", 0xd508_8321, VA >> 12, 2),
        ("another page", 0xd508_8321, VA >> 12 ^ 1, 1),
        ("the ASID", 0xd508_8741, 0, 2),
        ("another ASID", 0xd508_8741, 7 << 48, 1),
    ] {
        let mut guest = guest(page::KERNEL | page::NOT_GLOBAL);
        assert_eq!(load_after(&mut guest, tlbi, argument), expected, "{text}");
    }
    let mut global = guest(page::KERNEL);
    assert_eq!(load_after(&mut global, 0xd508_8741, 0), 1, "an ASID is not for global pages");
}

#[test]
fn page_of_a_block_is_forgotten_with_its_block() {
    let mut guest = Guest::translated();
    let level2 = {
        guest.map(VA, 0);
        let level1 = TABLES + (VA >> 30 & 0x1ff) * 8;
        (guest.read(level1) & 0xffff_ffff_f000) + (VA >> 21 & 0x1ff) * 8
    };
    let block = VA & !0x1f_ffff;
    guest.write(level2, 0x4000_0000 | page::KERNEL & !2);
    let page_va = block + (DATA - 0x4000_0000);
    guest.write(DATA, 1);
    guest.set_x(1, page_va);
    guest.step(LDR);
    assert_eq!(guest.x(0), 1);
    guest.write(level2, 0);
    // Any address in the block will do.
    guest.set_x(1, (block >> 12) + 5);
    guest.step(0xd508_8321); // tlbi vae1is, x1
    guest.set_x(1, page_va);
    guest.step(LDR);
    guest.expect_exception(0x25, 0b00_0110, 0x200);
}

#[test]
fn page_of_a_huge_block_is_forgotten_with_its_block() {
    let mut guest = Guest::translated();
    let level1 = TABLES + (VA >> 30 & 0x1ff) * 8;
    let block = VA & !0x3fff_ffff;
    for offset in [0x5000, 0x40_0000, 0x1234_5000, 0x3fff_f000] {
        guest.write(level1, 0x4000_0000 | page::KERNEL & !2);
        guest.write(DATA, 1);
        guest.set_x(1, block + (DATA - 0x4000_0000));
        guest.step(LDR);
        assert_eq!(guest.x(0), 1);
        guest.write(level1, 0);
        // Any address in the block will do, however far from what was used.
        guest.set_x(1, (block + offset) >> 12);
        guest.step(0xd508_8321); // tlbi vae1is, x1
        guest.set_x(1, block + (DATA - 0x4000_0000));
        guest.step(LDR);
        guest.expect_exception(0x25, 0b00_0101, 0x200);
        guest.step(0xd508_871f); // tlbi vmalle1
    }
}

#[test]
fn address_spaces_do_not_see_each_other() {
    let mut guest = guest(page::KERNEL | page::NOT_GLOBAL);
    set_asid(&mut guest, 5);
    guest.set_x(1, VA);
    guest.step(LDR);
    assert_eq!(guest.x(0), 2);
    // Back in the first one, nothing was flushed.
    set_asid(&mut guest, 0);
    guest.step(LDR);
    assert_eq!(guest.x(0), 1);
    // More address spaces than banks push the first one out.
    for asid in 10..20 {
        set_asid(&mut guest, asid);
    }
    set_asid(&mut guest, 0);
    guest.step(LDR);
    assert_eq!(guest.x(0), 2);
}

#[test]
fn invalidation_of_a_page_reaches_address_spaces_not_in_use() {
    let mut guest = guest(page::KERNEL | page::NOT_GLOBAL);
    set_asid(&mut guest, 5);
    guest.set_x(1, VA >> 12);
    guest.step(0xd508_8321); // tlbi vae1is, x1 (for ASID 0)
    set_asid(&mut guest, 0);
    guest.set_x(1, VA);
    guest.step(LDR);
    assert_eq!(guest.x(0), 2);
}

#[test]
fn read_permission_does_not_let_a_store_through() {
    let mut guest = Guest::translated();
    guest.map(VA, DATA | page::KERNEL | page::READ_ONLY);
    guest.set_x(1, VA);
    guest.run(&[LDR, 0xf900_0020]); // ldr; str x0, [x1]
    guest.expect_exception(0x25, 0b00_1111 | 1 << 6, 0x200);
}

#[test]
fn el0_does_not_use_entries_of_el1() {
    let mut guest = Guest::translated();
    guest.map(CODE, CODE | page::KERNEL | page::EL0 | page::READ_ONLY);
    guest.map(VA, DATA | page::KERNEL);
    guest.set_x(1, VA);
    guest.step(LDR);
    guest.expect_none();
    guest.drop_to_el0();
    guest.step(LDR);
    guest.expect_exception(0x24, 0b00_1111, 0x400);
}

#[test]
fn new_code_runs_after_its_line_is_invalidated() {
    let mut guest = Guest::translated();
    let target = DATA + 0x100;
    guest.place(target, &[0xd280_0020, 0xd61f_0040]); // mov x0, #1; br x2
    let call = |guest: &mut Guest, before: &[u32]| {
        let mut code = before.to_vec();
        code.extend([0xd61f_0060, NOP]); // br x3
        guest.place(CODE, &code);
        guest.vcpu.cpu.code_changes.push(crate::code::CodeChange::Line(CODE));
        guest.set_x(1, target);
        guest.set_x(2, CODE + 0x40);
        guest.set_x(3, target);
        guest.vcpu.cpu.pc = CODE;
        guest.vcpu.run_steps(before.len() as u32 + 3);
        guest.expect_none();
        guest.x(0)
    };
    assert_eq!(call(&mut guest, &[]), 1);
    guest.place(target, &[0xd280_0040]); // mov x0, #2
    assert_eq!(call(&mut guest, &[NOP]), 1, "the old decoding is still there");
    assert_eq!(call(&mut guest, &[0xd50b_7521]), 2); // ic ivau, x1
    guest.place(target, &[0xd280_0060]); // mov x0, #3
    assert_eq!(call(&mut guest, &[0xd508_751f]), 3); // ic iallu
}
