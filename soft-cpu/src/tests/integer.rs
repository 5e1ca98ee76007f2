// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Results of integer instructions, worked out by hand from the architecture's definitions.

use super::machine::{CODE, Guest};
use crate::cpu::Flags;

/// One instruction on x0 to x3 and NZCV, and what it leaves in x0 and NZCV.
struct Case {
    text: &'static str,
    word: u32,
    x: [u64; 4],
    flags: u8,
    result: u64,
    flags_after: u8,
}

const fn case(text: &'static str, word: u32, x: [u64; 4], result: u64) -> Case {
    Case { text, word, x, flags: 0b0101, result, flags_after: 0b0101 }
}

const fn flagged(
    text: &'static str,
    word: u32,
    x: [u64; 4],
    flags: u8,
    result: u64,
    flags_after: u8,
) -> Case {
    Case { text, word, x, flags, result, flags_after }
}

const ONES: u64 = u64::MAX;
const MIN: u64 = 1 << 63;

const CASES: &[Case] = &[
    case("add x0, x1, #4095", 0x913f_fc20, [0, 1, 0, 0], 0x1000),
    case("add x0, x1, #4095, lsl #12", 0x917f_fc20, [0, 1, 0, 0], 0x00ff_f001),
    case("sub w0, w1, #1", 0x5100_0420, [0, 0xffff_ffff_0000_0000, 0, 0], 0xffff_ffff),
    flagged("adds x0, x1, x2", 0xab02_0020, [0, MIN - 1, 1, 0], 0, MIN, 0b1001),
    flagged("adds x0, x1, x2", 0xab02_0020, [0, ONES, 1, 0], 0, 0, 0b0110),
    flagged("adds w0, w1, w2", 0x2b02_0020, [0, ONES, 1, 0], 0, 0, 0b0110),
    flagged("adds w0, w1, w2", 0x2b02_0020, [0, 0x7fff_ffff, 1, 0], 0, 0x8000_0000, 0b1001),
    flagged("subs x0, x1, x2", 0xeb02_0020, [0, 5, 5, 0], 0, 0, 0b0110),
    flagged("subs x0, x1, x2", 0xeb02_0020, [0, 3, 5, 0], 0, ONES - 1, 0b1000),
    flagged("subs x0, x1, x2", 0xeb02_0020, [0, MIN, 1, 0], 0, MIN - 1, 0b0011),
    flagged("subs w0, w1, w2", 0x6b02_0020, [0, 0, 0x8000_0000, 0], 0, 0x8000_0000, 0b1001),
    case("add x0, x1, w2, sxtb #3", 0x8b22_8c20, [0, 100, 0xffff_ff80, 0], 0xffff_ffff_ffff_fc64),
    case("sub x0, x1, x2, asr #4", 0xcb82_1020, [0, 0, 0xffff_ffff_ffff_ff00, 0], 16),
    flagged("adc x0, x1, x2", 0x9a02_0020, [0, 1, 2, 0], 0b0010, 4, 0b0010),
    flagged("sbcs w0, w1, w2", 0x7a02_0020, [0, 0, 0, 0], 0b0000, 0xffff_ffff, 0b1000),
    flagged("sbcs w0, w1, w2", 0x7a02_0020, [0, 0, 0, 0], 0b0010, 0, 0b0110),
    case("and x0, x1, #0x0f0f0f0f0f0f0f0f", 0x9200_cc20, [0, ONES, 0, 0], 0x0f0f_0f0f_0f0f_0f0f),
    case("orr w0, wzr, #0x80000001", 0x3201_07e0, [0, 0, 0, 0], 0x8000_0001),
    case("eor x0, x1, x2, ror #8", 0xcac2_2020, [0, 0, 0x12, 0], 0x1200_0000_0000_0000),
    flagged("bics x0, x1, x2", 0xea22_0020, [0, 0xff, 0x0f, 0], 0b0011, 0xf0, 0b0000),
    flagged("bics x0, x1, x2", 0xea22_0020, [0, 0xff, 0xff, 0], 0b1011, 0, 0b0100),
    case("orn w0, w1, w2", 0x2a22_0020, [0, 0, 0xffff, 0], 0xffff_0000),
    case("movz x0, #0x1234, lsl #32", 0xd2c2_4680, [ONES, 0, 0, 0], 0x1234_0000_0000),
    case("movn x0, #0", 0x9280_0000, [0, 0, 0, 0], ONES),
    case("movn w0, #0", 0x1280_0000, [0, 0, 0, 0], 0xffff_ffff),
    case("movk x0, #0xabcd, lsl #48", 0xf2f5_79a0, [0x1111_2222_3333_4444, 0, 0, 0], 0xabcd_2222_3333_4444),
    case("movk w0, #0xabcd, lsl #16", 0x72b5_79a0, [0x1111_2222_3333_4444, 0, 0, 0], 0xabcd_4444),
    case("sbfx x0, x1, #4, #8", 0x9344_2c20, [0, 0xf80, 0, 0], 0xffff_ffff_ffff_fff8),
    case("sbfiz x0, x1, #4, #8", 0x937c_1c20, [0, 0x80, 0, 0], 0xffff_ffff_ffff_f800),
    case("lsr w0, w1, #28", 0x531c_7c20, [0, 0xffff_ffff_a000_0000, 0, 0], 0xa),
    case("bfi x0, x1, #8, #8", 0xb378_1c20, [0x1111_1111_1111_1111, 0xab, 0, 0], 0x1111_1111_1111_ab11),
    case("bfxil x0, x1, #8, #8", 0xb348_3c20, [0x1111_1111_1111_1111, 0xcd00, 0, 0], 0x1111_1111_1111_11cd),
    case("lsl x0, x1, #63", 0xd341_0020, [0, 3, 0, 0], MIN),
    case("asr w0, w1, #31", 0x131f_7c20, [0, 0x8000_0000, 0, 0], 0xffff_ffff),
    case("ror x0, x1, #4", 0x93c1_1020, [0, 1, 0, 0], 0x1000_0000_0000_0000),
    case("extr w0, w1, w2, #8", 0x1382_2020, [0, 0x1122_3344, 0x5566_7788, 0], 0x4455_6677),
    case("lslv w0, w1, w2", 0x1ac2_2020, [0, 1, 33, 0], 2),
    case("asrv x0, x1, x2", 0x9ac2_2820, [0, ONES - 7, 65, 0], ONES - 3),
    case("rorv w0, w1, w2", 0x1ac2_2c20, [0, 1, 1, 0], 0x8000_0000),
    case("madd x0, x1, x2, x3", 0x9b02_0c20, [0, 3, 4, 5], 17),
    case("msub w0, w1, w2, w3", 0x1b02_8c20, [0, 3, 4, 5], 0xffff_fff9),
    case("smaddl x0, w1, w2, x3", 0x9b22_0c20, [0, 0xffff_fffe, 3, 10], 4),
    case("umsubl x0, w1, w2, x3", 0x9ba2_8c20, [0, 0xffff_ffff, 2, 0], 0xffff_fffe_0000_0002),
    case("smulh x0, x1, x2", 0x9b42_7c20, [0, MIN, 2, 0], ONES),
    case("umulh x0, x1, x2", 0x9bc2_7c20, [0, ONES, ONES, 0], ONES - 1),
    case("udiv x0, x1, x2", 0x9ac2_0820, [0, 7, 2, 0], 3),
    case("udiv x0, x1, x2", 0x9ac2_0820, [9, 7, 0, 0], 0),
    case("sdiv x0, x1, x2", 0x9ac2_0c20, [0, 0u64.wrapping_sub(7), 2, 0], 0u64.wrapping_sub(3)),
    case("sdiv x0, x1, x2", 0x9ac2_0c20, [0, MIN, ONES, 0], MIN),
    case("sdiv w0, w1, w2", 0x1ac2_0c20, [0, 0x8000_0000, 0xffff_ffff, 0], 0x8000_0000),
    case("rbit w0, w1", 0x5ac0_0020, [0, 1, 0, 0], 0x8000_0000),
    case("rev16 x0, x1", 0xdac0_0420, [0, 0x0102_0304_0506_0708, 0, 0], 0x0201_0403_0605_0807),
    case("rev32 x0, x1", 0xdac0_0820, [0, 0x0102_0304_0506_0708, 0, 0], 0x0403_0201_0807_0605),
    case("rev x0, x1", 0xdac0_0c20, [0, 0x0102_0304_0506_0708, 0, 0], 0x0807_0605_0403_0201),
    case("rev w0, w1", 0x5ac0_0820, [0, 0x0102_0304_0506_0708, 0, 0], 0x0807_0605),
    case("clz x0, x1", 0xdac0_1020, [0, 1, 0, 0], 63),
    case("clz x0, x1", 0xdac0_1020, [9, 0, 0, 0], 64),
    case("cls w0, w1", 0x5ac0_1420, [0, 0, 0, 0], 31),
    case("cls w0, w1", 0x5ac0_1420, [0, 0xc000_0000, 0, 0], 1),
    case("cls w0, w1", 0x5ac0_1420, [9, 0x4000_0000, 0, 0], 0),
    flagged("csel x0, x1, x2, eq", 0x9a82_0020, [0, 11, 22, 0], 0b0100, 11, 0b0100),
    flagged("csel x0, x1, x2, eq", 0x9a82_0020, [0, 11, 22, 0], 0b1011, 22, 0b1011),
    flagged("csinc w0, w1, w2, ne", 0x1a82_1420, [0, 11, ONES, 0], 0b0100, 0, 0b0100),
    flagged("csinv x0, x1, x2, lt", 0xda82_b020, [0, 11, 22, 0], 0b1001, ONES - 22, 0b1001),
    flagged("csneg x0, x1, x2, hi", 0xda82_8420, [0, 11, 22, 0], 0b0110, 0u64.wrapping_sub(22), 0b0110),
    flagged("ccmp x1, #5, #15, ne", 0xfa45_182f, [7, 5, 0, 0], 0b0000, 7, 0b0110),
    flagged("ccmp x1, #5, #15, ne", 0xfa45_182f, [7, 5, 0, 0], 0b0100, 7, 0b1111),
    flagged("ccmn w1, w2, #3, ge", 0x3a42_a023, [7, 0x8000_0000, 0x8000_0000, 0], 0b1001, 7, 0b0111),
    flagged("ccmn w1, w2, #3, ge", 0x3a42_a023, [7, 0, 0, 0], 0b1000, 7, 0b0011),
    case("adr x0, #-4", 0x10ff_ffe0, [0, 0, 0, 0], CODE - 4),
    case("adrp x0, #4096", 0xb000_0000, [0, 0, 0, 0], CODE + 0x1000),
];

#[test]
fn recorded_cases_give_the_recorded_results() {
    let mut guest = Guest::new();
    for case in CASES {
        for (slot, value) in (0..).zip(case.x) {
            guest.set_x(slot, value);
        }
        guest.vcpu.cpu.flags = Flags::from_bits(case.flags);
        guest.step(case.word);
        assert_eq!(guest.x(0), case.result, "{} of {:x?} gives {:#x}", case.text, case.x, guest.x(0));
        assert_eq!(guest.vcpu.cpu.flags.bits(), case.flags_after, "flags of {} {:x?}", case.text, case.x);
        assert_eq!(guest.vcpu.cpu.pc, CODE + 4, "{}", case.text);
    }
}

#[test]
fn stack_pointer_and_zero_register_are_told_apart() {
    let mut guest = Guest::new();
    guest.set_x(1, 0x1000);
    // add sp, x1, #16; add x0, sp, #0; adds xzr, x1, x1; mov x2, xzr
    guest.run(&[0x9100_403f, 0x9100_03e0, 0xab01_003f, 0xaa1f_03e2]);
    assert_eq!(guest.x(0), 0x1010);
    assert_eq!(guest.x(2), 0);
    assert_eq!(guest.x(31), 0);
}

#[test]
fn checksums_give_the_published_check_values() {
    let mut guest = Guest::new();
    // The checks of both polynomials are those of the digits 1 to 9.
    for (eight, one, check) in
        [(0x9ac2_4c00, 0x1ac3_4000, 0xcbf4_3926), (0x9ac2_5c00, 0x1ac3_5000, 0xe306_9283)]
    {
        guest.set_x(0, 0xffff_ffff);
        guest.set_x(2, u64::from_le_bytes(*b"12345678"));
        guest.set_x(3, u64::from(b'9'));
        guest.run(&[eight, one]);
        assert_eq!(guest.x(0) ^ 0xffff_ffff, check);
    }
}

#[test]
fn reserved_encodings_are_undefined() {
    for (text, word) in [
        ("add with a shift of 3", 0x8bc2_0020),
        ("add w with a shift amount of 32", 0x0b02_8020),
        ("add extended by 5", 0x8b22_9420),
        ("and w with N set", 0x1240_0020),
        ("and x of all ones", 0x9240_fc20),
        ("movz w at bit 32", 0x5240_0000),
        ("move wide with opc 1", 0xb280_0000),
        ("ubfm w with N set", 0x5340_0020),
        ("crc32x with a w register", 0x1ac2_4c20),
        ("ldpsw non-temporal", 0x6840_0000),
        ("unallocated system register class", 0xd500_0000),
        ("udf", 0x0000_0000),
    ] {
        let mut guest = Guest::new();
        guest.step(word);
        assert_eq!(guest.syndrome().0, 0, "{text} ({word:08x})");
        assert_eq!(guest.vcpu.cpu.sys.elr, CODE, "{text}");
    }
}
