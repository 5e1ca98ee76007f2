// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Data processing with three sources: MADD, MSUB, the widening forms, SMULH, UMULH.

use super::{by_width, sized};
use crate::cpu::Cpu;
use crate::op::{Handler, Op, bit, bits, dest, reg};

pub(super) fn decode(word: u32) -> Option<Op> {
    if bits(word, 30, 29) != 0 {
        return None;
    }
    let subtract = bit(word, 15);
    let run: Handler = match (bit(word, 31), bits(word, 23, 21), subtract) {
        (_, 0b000, false) => by_width!(word, add),
        (_, 0b000, true) => by_width!(word, sub),
        (true, 0b001, false) => signed_add,
        (true, 0b001, true) => signed_sub,
        (true, 0b010, false) => signed_high,
        (true, 0b101, false) => unsigned_add,
        (true, 0b101, true) => unsigned_sub,
        (true, 0b110, false) => unsigned_high,
        _ => return None,
    };
    let mut op = Op::new(word, run);
    op.a = reg(word, 10);
    op.d = dest(op.d);
    Some(op)
}

fn add<const WIDE: bool>(cpu: &mut Cpu, op: &Op) {
    let value = cpu.r(op.a).wrapping_add(cpu.r(op.n).wrapping_mul(cpu.r(op.m)));
    cpu.w(op.d, sized::<WIDE>(value));
}

fn sub<const WIDE: bool>(cpu: &mut Cpu, op: &Op) {
    let value = cpu.r(op.a).wrapping_sub(cpu.r(op.n).wrapping_mul(cpu.r(op.m)));
    cpu.w(op.d, sized::<WIDE>(value));
}

fn signed_product(cpu: &Cpu, op: &Op) -> u64 {
    (i64::from(cpu.r(op.n) as i32) * i64::from(cpu.r(op.m) as i32)) as u64
}

fn unsigned_product(cpu: &Cpu, op: &Op) -> u64 {
    u64::from(cpu.r(op.n) as u32) * u64::from(cpu.r(op.m) as u32)
}

fn signed_add(cpu: &mut Cpu, op: &Op) {
    let value = cpu.r(op.a).wrapping_add(signed_product(cpu, op));
    cpu.w(op.d, value);
}

fn signed_sub(cpu: &mut Cpu, op: &Op) {
    let value = cpu.r(op.a).wrapping_sub(signed_product(cpu, op));
    cpu.w(op.d, value);
}

fn unsigned_add(cpu: &mut Cpu, op: &Op) {
    let value = cpu.r(op.a).wrapping_add(unsigned_product(cpu, op));
    cpu.w(op.d, value);
}

fn unsigned_sub(cpu: &mut Cpu, op: &Op) {
    let value = cpu.r(op.a).wrapping_sub(unsigned_product(cpu, op));
    cpu.w(op.d, value);
}

fn signed_high(cpu: &mut Cpu, op: &Op) {
    let product = i128::from(cpu.r(op.n) as i64) * i128::from(cpu.r(op.m) as i64);
    cpu.w(op.d, (product >> 64) as u64);
}

fn unsigned_high(cpu: &mut Cpu, op: &Op) {
    let product = u128::from(cpu.r(op.n)) * u128::from(cpu.r(op.m));
    cpu.w(op.d, (product >> 64) as u64);
}
