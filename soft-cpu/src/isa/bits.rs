// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Data processing with one source: RBIT, REV16, REV32, REV, CLZ, CLS.

use super::by_width;
use crate::cpu::Cpu;
use crate::op::{Op, bit, bits, dest};

pub(super) fn decode(word: u32) -> Option<Op> {
    if bit(word, 29) || bits(word, 20, 16) != 0 {
        return None;
    }
    let run = match (bit(word, 31), bits(word, 15, 10)) {
        (_, 0b000000) => by_width!(word, reverse_bits),
        (_, 0b000001) => by_width!(word, reverse_halfwords),
        (false, 0b000010) | (true, 0b000011) => by_width!(word, reverse_bytes),
        (true, 0b000010) => reverse_words,
        (_, 0b000100) => by_width!(word, leading_zeros),
        (_, 0b000101) => by_width!(word, leading_signs),
        _ => return None,
    };
    let mut op = Op::new(word, run);
    op.d = dest(op.d);
    Some(op)
}

fn reverse_bits<const WIDE: bool>(cpu: &mut Cpu, op: &Op) {
    let value = cpu.r(op.n);
    let value = if WIDE { value.reverse_bits() } else { u64::from((value as u32).reverse_bits()) };
    cpu.w(op.d, value);
}

fn reverse_halfwords<const WIDE: bool>(cpu: &mut Cpu, op: &Op) {
    let value = cpu.r(op.n);
    let low_bytes = if WIDE { 0x00ff_00ff_00ff_00ff } else { 0x00ff_00ff };
    let value = (value & low_bytes) << 8 | value >> 8 & low_bytes;
    cpu.w(op.d, value);
}

fn reverse_words(cpu: &mut Cpu, op: &Op) {
    let value = cpu.r(op.n).swap_bytes().rotate_left(32);
    cpu.w(op.d, value);
}

fn reverse_bytes<const WIDE: bool>(cpu: &mut Cpu, op: &Op) {
    let value = cpu.r(op.n);
    let value = if WIDE { value.swap_bytes() } else { u64::from((value as u32).swap_bytes()) };
    cpu.w(op.d, value);
}

fn leading_zeros<const WIDE: bool>(cpu: &mut Cpu, op: &Op) {
    let value = cpu.r(op.n);
    let count = if WIDE { value.leading_zeros() } else { (value as u32).leading_zeros() };
    cpu.w(op.d, u64::from(count));
}

/// How many bits below the sign equal it.
fn leading_signs<const WIDE: bool>(cpu: &mut Cpu, op: &Op) {
    let value = cpu.r(op.n);
    let count = if WIDE {
        let changes = value ^ (value as i64 >> 1) as u64;
        changes.leading_zeros() - 1
    } else {
        let value = value as u32;
        let changes = value ^ (value as i32 >> 1) as u32;
        changes.leading_zeros() - 1
    };
    cpu.w(op.d, u64::from(count));
}
