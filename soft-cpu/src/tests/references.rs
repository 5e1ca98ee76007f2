// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Properties against naive references: bit by bit, or in wider arithmetic, as the pseudocode has it.

use proptest::prelude::*;

use super::machine::{CODE, Guest};
use crate::cpu::Flags;
use crate::isa::bit_mask;

/// AddWithCarry as the manual writes it: unsigned and signed sums in unbounded integers.
fn add_with_carry(a: u64, b: u64, carry: bool, width: u32) -> (u64, u8) {
    let mask = u128::from(u64::MAX >> (64 - width));
    let (a, b) = (u128::from(a) & mask, u128::from(b) & mask);
    let sign = |value: u128| (value as i128) << (128 - width) >> (128 - width);
    let unsigned = a + b + u128::from(carry);
    let signed = sign(a) + sign(b) + i128::from(carry);
    let result = unsigned & mask;
    let flags = u8::from(result >> (width - 1) & 1 == 1) << 3
        | u8::from(result == 0) << 2
        | u8::from(result != unsigned) << 1
        | u8::from(sign(result) != signed);
    (result as u64, flags)
}

/// ConditionHolds by name.
fn holds(condition: u32, nzcv: u8) -> bool {
    let (n, z, c, v) = (nzcv & 8 != 0, nzcv & 4 != 0, nzcv & 2 != 0, nzcv & 1 != 0);
    match condition {
        0 => z,
        1 => !z,
        2 => c,
        3 => !c,
        4 => n,
        5 => !n,
        6 => v,
        7 => !v,
        8 => c && !z,
        9 => !c || z,
        10 => n == v,
        11 => n != v,
        12 => !z && n == v,
        13 => z || n != v,
        _ => true,
    }
}

fn shift_bit_by_bit(value: u64, kind: u32, amount: u32, width: u32) -> u64 {
    let mut value = value & (u64::MAX >> (64 - width));
    let top = 1u64 << (width - 1);
    for _ in 0..amount {
        value = match kind {
            0 => value << 1 & (u64::MAX >> (64 - width)),
            1 => value >> 1,
            2 => value >> 1 | value & top,
            _ => value >> 1 | if value & 1 == 1 { top } else { 0 },
        };
    }
    value
}

/// A logical immediate by the words of the manual: a run of ones, rotated, repeated.
fn mask_by_definition(n: u32, imms: u32, immr: u32, width: u32) -> Option<u64> {
    let size = (1..=6).rev().map(|log2| 1u32 << log2).find(|size| {
        // N:NOT(imms) has its highest one at the position of log2 of the size.
        let field = n << 6 | !imms & 0x3f;
        field >> (size.trailing_zeros()) == 1
    })?;
    let ones = (imms & (size - 1)) + 1;
    if size > width || ones == size {
        return None;
    }
    let rotation = immr & (size - 1);
    let bit = |position: u32| {
        let within = position % size;
        (within + rotation) % size < ones
    };
    Some((0..width).filter(|&position| bit(position)).fold(0, |mask, position| mask | 1 << position))
}

/// Interesting values: small, near the limits, single bits, and random.
fn value() -> impl Strategy<Value = u64> {
    prop_oneof![
        0u64..4,
        (0u64..4).prop_map(|v| u64::MAX - v),
        (0u64..4).prop_map(|v| 0x7fff_fffe + v),
        (0u64..4).prop_map(|v| 0x7fff_ffff_ffff_fffe + v),
        (0u32..64).prop_map(|v| 1 << v),
        any::<u64>(),
    ]
}

/// Runs one word on x1, x2, x3 and NZCV; x0 and NZCV afterwards.
fn run(word: u32, x: [u64; 3], nzcv: u8) -> (u64, u8) {
    let mut guest = Guest::new();
    for (slot, value) in (1..).zip(x) {
        guest.set_x(slot, value);
    }
    guest.vcpu.cpu.flags = Flags::from_bits(nzcv);
    guest.step(word);
    assert_eq!(guest.vcpu.cpu.pc, CODE + 4, "{word:08x} took an exception");
    (guest.x(0), guest.vcpu.cpu.flags.bits())
}

const RD0_RN1_RM2: u32 = 2 << 16 | 1 << 5;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn adding_is_the_sum(a in value(), b in value(), nzcv in 0u8..16, op in 0u32..4, wide: bool) {
        let width = if wide { 64 } else { 32 };
        let word = u32::from(wide) << 31 | op << 29 | 0x0b00_0000 | RD0_RN1_RM2;
        let (sum, flags) = add_with_carry(a, if op & 2 != 0 { !b } else { b }, op & 2 != 0, width);
        prop_assert_eq!(run(word, [a, b, 0], nzcv), (sum, if op & 1 != 0 { flags } else { nzcv }));
    }

    #[test]
    fn adding_with_carry_is_the_sum(a in value(), b in value(), nzcv in 0u8..16, op in 0u32..4, wide: bool) {
        let width = if wide { 64 } else { 32 };
        let word = u32::from(wide) << 31 | op << 29 | 0x1a00_0000 | RD0_RN1_RM2;
        let (sum, flags) = add_with_carry(a, if op & 2 != 0 { !b } else { b }, nzcv & 2 != 0, width);
        prop_assert_eq!(run(word, [a, b, 0], nzcv), (sum, if op & 1 != 0 { flags } else { nzcv }));
    }

    #[test]
    fn logic_on_a_shifted_register(
        a in value(), b in value(), nzcv in 0u8..16, op in 0u32..4, kind in 0u32..4, negate: bool, amount in 0u32..64, wide: bool,
    ) {
        let width = if wide { 64 } else { 32 };
        let amount = amount % width;
        let word = u32::from(wide) << 31 | op << 29 | 0x0a00_0000 | kind << 22 | u32::from(negate) << 21
            | amount << 10 | RD0_RN1_RM2;
        let shifted = shift_bit_by_bit(b, kind, amount, width);
        let operand = if negate { !shifted } else { shifted };
        let result = match op { 0 | 3 => a & operand, 1 => a | operand, _ => a ^ operand } & (u64::MAX >> (64 - width));
        let flags = u8::from(result >> (width - 1) & 1 == 1) << 3 | u8::from(result == 0) << 2;
        prop_assert_eq!(run(word, [a, b, 0], nzcv), (result, if op == 3 { flags } else { nzcv }));
    }

    #[test]
    fn bitfields_move_bit_by_bit(a in value(), old in value(), op in 0u32..3, immr in 0u32..64, imms in 0u32..64, wide: bool) {
        let width = if wide { 64 } else { 32 };
        let (immr, imms) = (immr % width, imms % width);
        let word = u32::from(wide) << 31 | op << 29 | 0x1300_0000 | u32::from(wide) << 22 | immr << 16 | imms << 10 | 1 << 5;
        // Destination bits in order: from the field, of its sign, or of what was there.
        let (from, to, len) = if imms >= immr { (immr, 0, imms - immr + 1) } else { (0, width - immr, imms + 1) };
        let mut expected = 0;
        for position in 0..width {
            let bit = if position >= to && position < to + len {
                a >> (from + position - to) & 1
            } else if op == 1 {
                old >> position & 1
            } else if op == 0 && position >= to + len {
                a >> (from + len - 1) & 1
            } else {
                0
            };
            expected |= bit << position;
        }
        let mut guest = Guest::new();
        guest.set_x(0, old);
        guest.set_x(1, a);
        guest.step(word);
        prop_assert_eq!(guest.x(0), expected);
    }

    #[test]
    fn shifts_by_a_register(a in value(), b in value(), kind in 0u32..4, wide: bool) {
        let width = if wide { 64 } else { 32 };
        let word = u32::from(wide) << 31 | 0x1ac0_2000 | kind << 10 | RD0_RN1_RM2;
        let expected = shift_bit_by_bit(a, kind, (b % u64::from(width)) as u32, width);
        prop_assert_eq!(run(word, [a, b, 0], 0).0, expected);
    }

    #[test]
    fn high_halves_of_products(a in value(), b in value()) {
        // Schoolbook on 32-bit digits for the unsigned one, and the correction for the signs.
        let (ah, al, bh, bl) = (a >> 32, a & 0xffff_ffff, b >> 32, b & 0xffff_ffff);
        let middle = ah * bl + ((al * bl) >> 32);
        let high = ah * bh + (middle >> 32) + ((al * bh + (middle & 0xffff_ffff)) >> 32);
        prop_assert_eq!(run(0x9bc0_7c00 | RD0_RN1_RM2, [a, b, 0], 0).0, high);
        let signed = high
            .wrapping_sub(if a >> 63 == 1 { b } else { 0 })
            .wrapping_sub(if b >> 63 == 1 { a } else { 0 });
        prop_assert_eq!(run(0x9b40_7c00 | RD0_RN1_RM2, [a, b, 0], 0).0, signed);
    }

    #[test]
    fn division_inverts_multiplication(a in value(), b in value()) {
        let quotient = run(0x9ac0_0800 | RD0_RN1_RM2, [a, b, 0], 0).0;
        if b == 0 {
            prop_assert_eq!(quotient, 0);
        } else {
            prop_assert!(quotient.checked_mul(b).is_some_and(|product| product <= a && a - product < b));
        }
        let quotient = run(0x9ac0_0c00 | RD0_RN1_RM2, [a, b, 0], 0).0 as i64;
        let (a, b) = (i128::from(a as i64), i128::from(b as i64));
        prop_assert_eq!(quotient, if b == 0 { 0 } else { (a / b) as i64 });
    }

    #[test]
    fn selections_follow_the_condition(a in value(), b in value(), nzcv in 0u8..16, condition in 0u32..16, kind in 0u32..4, wide: bool) {
        let word = u32::from(wide) << 31 | (kind >> 1) << 30 | (kind & 1) << 10 | 0x1a80_0000 | condition << 12 | RD0_RN1_RM2;
        let other = match kind { 0 => b, 1 => b.wrapping_add(1), 2 => !b, _ => 0u64.wrapping_sub(b) };
        let expected = if holds(condition, nzcv) { a } else { other };
        prop_assert_eq!(run(word, [a, b, 0], nzcv).0, if wide { expected } else { expected & 0xffff_ffff });
    }

    #[test]
    fn counts_are_counted(a in value(), wide: bool) {
        let width = if wide { 64 } else { 32 };
        let bit = |position: u32| a >> position & 1;
        let zeros = (0..width).rev().take_while(|&position| bit(position) == 0).count() as u64;
        let signs = (0..width - 1).rev().take_while(|&position| bit(position) == bit(width - 1)).count() as u64;
        prop_assert_eq!(run(u32::from(wide) << 31 | 0x5ac0_1020, [a, 0, 0], 0).0, zeros);
        prop_assert_eq!(run(u32::from(wide) << 31 | 0x5ac0_1420, [a, 0, 0], 0).0, signs);
        let reversed = (0..width).fold(0, |value, position| value | bit(position) << (width - 1 - position));
        prop_assert_eq!(run(u32::from(wide) << 31 | 0x5ac0_0020, [a, 0, 0], 0).0, reversed);
    }

    #[test]
    fn branches_follow_the_condition(nzcv in 0u8..16, condition in 0u32..16, offset in -1000i32..1000) {
        let mut guest = Guest::new();
        guest.vcpu.cpu.flags = Flags::from_bits(nzcv);
        guest.step(0x5400_0000 | (offset as u32 & 0x7_ffff) << 5 | condition);
        let target = if holds(condition, nzcv) { CODE.wrapping_add_signed(i64::from(offset) * 4) } else { CODE + 4 };
        prop_assert_eq!(guest.vcpu.cpu.pc, target);
    }
}

#[test]
fn every_logical_immediate_is_its_definition() {
    for n in 0..2 {
        for imms in 0..64 {
            for immr in 0..64 {
                for (wide, width) in [(true, 64), (false, 32)] {
                    let expected = mask_by_definition(n, imms, immr, width);
                    assert_eq!(
                        bit_mask(n, imms, immr, wide),
                        expected,
                        "n {n} imms {imms} immr {immr} of {width}"
                    );
                }
            }
        }
    }
}
