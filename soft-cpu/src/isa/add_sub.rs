// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! ADD, ADDS, SUB, SUBS: immediate, shifted register, extended register (Arm ARM C6.2.4 and on); CMP and CMN.
//!
//! The handlers' kind is the instruction's op:S bits: 0 ADD, 1 ADDS, 2 SUB, 3 SUBS.

use super::{by_width_and_kind, extend, shifted, sized};
use crate::cpu::{Cpu, Flags};
use crate::op::{Op, base, bit, bits, dest};

/// AddWithCarry: the sum and the flags it sets.
#[inline(always)]
pub(super) fn add_with_carry<const WIDE: bool>(a: u64, b: u64, carry: bool) -> (u64, Flags) {
    if WIDE {
        let (partial, carry1) = a.overflowing_add(b);
        let (sum, carry2) = partial.overflowing_add(u64::from(carry));
        let overflow = ((a ^ sum) & (b ^ sum)) >> 63 == 1;
        (sum, Flags { n: (sum as i64) < 0, z: sum == 0, c: carry1 | carry2, v: overflow })
    } else {
        let (a, b) = (a as u32, b as u32);
        let (partial, carry1) = a.overflowing_add(b);
        let (sum, carry2) = partial.overflowing_add(u32::from(carry));
        let overflow = ((a ^ sum) & (b ^ sum)) >> 31 == 1;
        (u64::from(sum), Flags { n: (sum as i32) < 0, z: sum == 0, c: carry1 | carry2, v: overflow })
    }
}

/// `add_with_carry(a, !b, true)`, in the form that host compilers know.
#[inline(always)]
pub(super) fn subtract<const WIDE: bool>(a: u64, b: u64) -> (u64, Flags) {
    if WIDE {
        let difference = a.wrapping_sub(b);
        let overflow = (a as i64).overflowing_sub(b as i64).1;
        (difference, Flags { n: (difference as i64) < 0, z: difference == 0, c: a >= b, v: overflow })
    } else {
        let (a, b) = (a as u32, b as u32);
        let difference = a.wrapping_sub(b);
        let overflow = (a as i32).overflowing_sub(b as i32).1;
        let flags = Flags { n: (difference as i32) < 0, z: difference == 0, c: a >= b, v: overflow };
        (u64::from(difference), flags)
    }
}

#[inline(always)]
fn compute<const WIDE: bool, const KIND: u8>(cpu: &mut Cpu, d: u8, a: u64, b: u64) {
    let result = match KIND {
        0 => sized::<WIDE>(a.wrapping_add(b)),
        2 => sized::<WIDE>(a.wrapping_sub(b)),
        _ => {
            let (result, flags) =
                if KIND == 1 { add_with_carry::<WIDE>(a, b, false) } else { subtract::<WIDE>(a, b) };
            cpu.flags = flags;
            result
        }
    };
    cpu.w(d, result);
}

pub(super) fn decode_immediate(word: u32) -> Option<Op> {
    let kind = bits(word, 30, 29);
    let mut op = Op::new(word, by_width_and_kind!(word, kind, immediate));
    op.imm = u64::from(bits(word, 21, 10)) << if bit(word, 22) { 12 } else { 0 };
    op.n = base(op.n);
    op.d = if bit(word, 29) { dest(op.d) } else { base(op.d) };
    Some(op)
}

fn immediate<const WIDE: bool, const KIND: u8>(cpu: &mut Cpu, op: &Op) {
    let a = cpu.r(op.n);
    compute::<WIDE, KIND>(cpu, op.d, a, op.imm);
}

pub(super) fn decode_shifted(word: u32) -> Option<Op> {
    let (kind, amount) = (bits(word, 23, 22), bits(word, 15, 10));
    if kind == 3 || (!bit(word, 31) && amount >= 32) {
        return None;
    }
    let operation = bits(word, 30, 29);
    let mut op = Op::new(word, by_width_and_kind!(word, operation, shifted_register));
    if amount == 0 {
        op.run = by_width_and_kind!(word, operation, plain_register);
    }
    op.d = dest(op.d);
    op.a = amount as u8;
    op.imm = u64::from(kind);
    Some(op)
}

fn plain_register<const WIDE: bool, const KIND: u8>(cpu: &mut Cpu, op: &Op) {
    let (a, b) = (cpu.r(op.n), cpu.r(op.m));
    compute::<WIDE, KIND>(cpu, op.d, a, b);
}

fn shifted_register<const WIDE: bool, const KIND: u8>(cpu: &mut Cpu, op: &Op) {
    let (a, b) = (cpu.r(op.n), shifted::<WIDE>(cpu.r(op.m), op.imm as u8, op.a));
    compute::<WIDE, KIND>(cpu, op.d, a, b);
}

pub(super) fn decode_extended(word: u32) -> Option<Op> {
    let amount = bits(word, 12, 10);
    if bits(word, 23, 22) != 0 || amount > 4 {
        return None;
    }
    let mut op = Op::new(word, by_width_and_kind!(word, bits(word, 30, 29), extended_register));
    op.n = base(op.n);
    op.d = if bit(word, 29) { dest(op.d) } else { base(op.d) };
    op.a = amount as u8;
    op.imm = u64::from(bits(word, 15, 13));
    Some(op)
}

fn extended_register<const WIDE: bool, const KIND: u8>(cpu: &mut Cpu, op: &Op) {
    let (a, b) = (cpu.r(op.n), extend(cpu.r(op.m), op.imm as u8) << (op.a & 7));
    compute::<WIDE, KIND>(cpu, op.d, a, b);
}
