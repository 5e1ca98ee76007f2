// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Stage 1 translation: faults with their levels, permissions, granules, tags, AT.

use super::machine::{CODE, DATA, Guest, RAM, TABLES, TCR, page};
use crate::mmu::{Access, Fault};

const VA: u64 = 0x12_3456_7000;
const HIGH: u64 = 0xffff_ff80_0000_0000;

fn check(guest: &Guest, va: u64, access: Access, el: u8) -> Result<u64, Fault> {
    guest.vcpu.cpu.translate(va, access, el).map(|found| found.pa)
}

#[test]
fn faults_name_the_level_of_the_walk() {
    let mut guest = Guest::translated();
    let at = |guest: &Guest| check(guest, VA, Access::Read, 1);
    assert_eq!(at(&guest), Err(Fault::Translation(1)));
    let descriptor = guest.descriptor_at(VA);
    assert_eq!(at(&guest), Err(Fault::Translation(3)));
    guest.write(descriptor, DATA | page::VALID);
    assert_eq!(at(&guest), Err(Fault::AccessFlag(3)));
    guest.write(descriptor, DATA | page::KERNEL);
    assert_eq!(at(&guest), Ok(DATA));
    guest.write(descriptor, 1 << 41 | page::KERNEL);
    assert_eq!(at(&guest), Err(Fault::AddressSize(3)));
    guest.write(descriptor, DATA | page::KERNEL & !2);
    assert_eq!(at(&guest), Err(Fault::Translation(3)));
    // A table outside memory.
    let level1 = TABLES + (VA >> 30 & 0x1ff) * 8;
    guest.write(level1, 0x0a00_0000 | 3);
    assert_eq!(at(&guest), Err(Fault::ExternalOnWalk(2)));
    guest.write(level1, 1 << 42 | 3);
    assert_eq!(at(&guest), Err(Fault::AddressSize(1)));
}

#[test]
fn addresses_between_the_halves_fault_at_level_0() {
    let guest = Guest::translated();
    for va in [1 << 39, HIGH - 1, 1 << 63, 0x0100_0000_4000_1000] {
        assert_eq!(check(&guest, va, Access::Read, 1), Err(Fault::Translation(0)), "{va:#x}");
    }
}

#[test]
fn permissions_follow_the_descriptor() {
    use Access::{Execute, Read, Write};
    let mut guest = Guest::translated();
    // Descriptor bits, and what EL1 and EL0 may do.
    let cases: &[(u64, &[Access], &[Access])] = &[
        (0, &[Read, Write, Execute], &[Execute]),
        (page::EL0, &[Read, Write], &[Read, Write, Execute]),
        (page::READ_ONLY, &[Read, Execute], &[Execute]),
        (page::READ_ONLY | page::EL0, &[Read, Execute], &[Read, Execute]),
        (page::UXN, &[Read, Write, Execute], &[]),
        (page::PXN | page::EL0, &[Read, Write], &[Read, Write, Execute]),
        (page::PXN | page::UXN | page::READ_ONLY | page::EL0, &[Read], &[Read]),
    ];
    for (extra, el1, el0) in cases {
        guest.map(VA, DATA | page::KERNEL | extra);
        for access in [Read, Write, Execute] {
            for (el, allowed) in [(1, el1), (0, el0)] {
                let expected = if allowed.contains(&access) { Ok(DATA) } else { Err(Fault::Permission(3)) };
                assert_eq!(check(&guest, VA, access, el), expected, "{extra:#x} {access:?} at EL{el}");
            }
        }
    }
}

#[test]
fn tables_can_take_permissions_away() {
    let mut guest = Guest::translated();
    guest.map(VA, DATA | page::USER);
    let level1 = TABLES + (VA >> 30 & 0x1ff) * 8;
    let plain = guest.read(level1);
    guest.write(level1, plain | 1 << 62); // APTable: read-only
    assert_eq!(check(&guest, VA, Access::Write, 1), Err(Fault::Permission(3)));
    assert_eq!(check(&guest, VA, Access::Read, 0), Ok(DATA));
    guest.write(level1, plain | 1 << 61); // APTable: not at EL0
    assert_eq!(check(&guest, VA, Access::Read, 0), Err(Fault::Permission(3)));
    guest.write(level1, plain | 1 << 60); // UXNTable
    assert_eq!(check(&guest, VA, Access::Execute, 0), Err(Fault::Permission(3)));
}

#[test]
fn writable_memory_is_not_executable_with_wxn() {
    let mut guest = Guest::translated();
    guest.map(VA, DATA | page::USER);
    guest.vcpu.cpu.sys.sctlr |= 1 << 19;
    guest.vcpu.cpu.update_regime();
    assert_eq!(check(&guest, VA, Access::Execute, 0), Err(Fault::Permission(3)));
    assert_eq!(check(&guest, CODE, Access::Execute, 1), Err(Fault::Permission(3)));
    guest.map(VA, DATA | page::USER | page::READ_ONLY);
    assert_eq!(check(&guest, VA, Access::Execute, 0), Ok(DATA));
}

#[test]
fn blocks_map_at_the_levels_that_have_them() {
    let guest = Guest::translated();
    let level1 = TABLES + (VA >> 30 & 0x1ff) * 8;
    guest.write(level1, RAM | page::KERNEL & !2);
    assert_eq!(check(&guest, VA, Access::Read, 1), Ok(RAM | VA & 0x3fff_ffff));
    assert_eq!(guest.vcpu.cpu.translate(VA, Access::Read, 1).unwrap().traits.block_log2, 30);
}

#[test]
fn high_half_uses_its_own_table_and_can_be_disabled() {
    let mut guest = Guest::translated();
    guest.map(HIGH + 0x5000, DATA | page::KERNEL);
    assert_eq!(check(&guest, HIGH + 0x5008, Access::Read, 1), Ok(DATA + 8));
    guest.vcpu.cpu.sys.tcr = TCR | 1 << 23;
    guest.vcpu.cpu.update_regime();
    assert_eq!(check(&guest, HIGH + 0x5008, Access::Read, 1), Err(Fault::Translation(0)));
}

#[test]
fn tags_are_ignored_where_the_regime_says_so() {
    let mut guest = Guest::translated();
    guest.map(VA, DATA | page::KERNEL);
    let tagged = VA | 0x5a << 56;
    assert_eq!(check(&guest, tagged, Access::Read, 1), Err(Fault::Translation(0)));
    guest.vcpu.cpu.sys.tcr = TCR | 1 << 37;
    guest.vcpu.cpu.update_regime();
    assert_eq!(check(&guest, tagged, Access::Read, 1), Ok(DATA));
    // Through the TLB too, also after an invalidation by the untagged address.
    guest.write(DATA, 4);
    guest.set_x(1, tagged);
    guest.step(0xf940_0020); // ldr x0, [x1]
    assert_eq!(guest.x(0), 4);
    guest.map(VA, (DATA + 0x1000) | page::KERNEL);
    guest.set_x(1, VA >> 12);
    guest.step(0xd508_8321); // tlbi vae1is, x1
    guest.set_x(1, tagged);
    guest.step(0xf940_0020);
    assert_eq!(guest.x(0), 0);
    // A jump to a tagged address goes to the untagged one.
    guest.set_x(1, (CODE + 8) | (0x5a << 56));
    guest.run(&[0xd61f_0020, 0, 0xd503_201f]); // br x1; -; nop
    assert!(guest.vcpu.cpu.pc < 1 << 56);
}

#[test]
fn larger_granules_walk_with_their_strides() {
    // TG0, page log2, input bits: 16 KiB with 36 bits has levels 2 and 3, 64 KiB with 42 bits the same.
    for (tg0, page_log2, input_bits) in [(2u64, 14, 36), (1, 16, 42)] {
        let mut guest = Guest::new();
        let stride = page_log2 - 3;
        let va = 3u64 << (page_log2 + stride) | 5 << page_log2 | 0x123;
        let table2 = RAM + 0x8_0000;
        let table3 = RAM + 0xa_0000;
        guest.write(table2 + 3 * 8, table3 | 3);
        guest.write(table3 + 5 * 8, RAM | page::KERNEL);
        guest.write(table2 + 4 * 8, RAM & !((1 << (page_log2 + stride)) - 1) | page::KERNEL & !2);
        let sys = &mut guest.vcpu.cpu.sys;
        sys.tcr = (64 - input_bits) | tg0 << 14 | 2 << 32 | 1 << 23;
        sys.ttbr0 = table2;
        sys.mair = 0xff;
        sys.sctlr |= 1;
        guest.vcpu.cpu.update_regime();
        assert_eq!(check(&guest, va, Access::Read, 1), Ok(RAM + 0x123), "TG0 {tg0}");
        let block = 4u64 << (page_log2 + stride);
        assert!(check(&guest, block, Access::Read, 1).is_ok());
        assert_eq!(check(&guest, va + (1 << page_log2), Access::Read, 1), Err(Fault::Translation(3)));
    }
}

#[test]
fn address_translation_instructions_report_in_par() {
    let mut guest = Guest::translated();
    guest.map(VA, DATA | page::KERNEL | 3 << 8);
    guest.set_x(1, VA + 0x123);
    guest.run(&[0xd508_7801, 0xd538_7400]); // at s1e1r, x1; mrs x0, par_el1
    assert_eq!(guest.x(0), 0xff << 56 | DATA | 1 << 11 | 1 << 9 | 3 << 7);
    guest.run(&[0xd508_7861, 0xd538_7400]); // at s1e0w, x1; mrs x0, par_el1
    assert_eq!(guest.x(0), 1 << 11 | 0b00_1111 << 1 | 1);
    guest.expect_none();
}

#[test]
fn unprivileged_accesses_have_the_rights_of_el0() {
    let mut guest = Guest::translated();
    guest.map(VA, DATA | page::KERNEL);
    guest.set_x(1, VA);
    guest.step(0xf940_0020); // ldr x0, [x1]
    guest.expect_none();
    guest.step(0xf840_0820); // ldtr x0, [x1]
    guest.expect_exception(0x25, 0b00_1111, 0x200);
    guest.map(VA, DATA | page::USER);
    guest.run(&[0xd508_871f, 0xf840_0820, 0xf800_0820]); // tlbi vmalle1; ldtr; sttr
    guest.expect_none();
}
