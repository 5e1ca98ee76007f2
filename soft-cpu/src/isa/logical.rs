// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! AND, ORR, EOR, ANDS and their negated forms: immediate and shifted register; MOV, MVN, TST.
//!
//! The handlers' kind is the instruction's opc: 0 AND, 1 ORR, 2 EOR, 3 ANDS.

use super::{by_width_and_kind, shifted, sized};
use crate::cpu::{Cpu, Flags};
use crate::op::{Op, base, bit, bits, dest};

/// DecodeBitMasks' first result: the immediate of N:imms:immr, or `None` if reserved.
pub(crate) fn bit_mask(n: u32, imms: u32, immr: u32, wide: bool) -> Option<u64> {
    // The position of the highest bit of N:NOT(imms) gives the element size.
    let selector = n << 6 | (!imms & 0x3f);
    let len = selector.checked_ilog2().filter(|&len| len >= 1)?;
    let size = 1u32 << len;
    if !wide && size == 64 {
        return None;
    }
    let levels = size - 1;
    let (ones, rotation) = (imms & levels, immr & levels);
    if ones == levels {
        return None;
    }
    let element_mask = u64::MAX >> (64 - size);
    let run = (1u64 << (ones + 1)) - 1;
    let element =
        if rotation == 0 { run } else { (run >> rotation | run << (size - rotation)) & element_mask };
    let mut mask = 0;
    for start in (0..64).step_by(size as usize) {
        mask |= element << start;
    }
    Some(if wide { mask } else { mask & 0xffff_ffff })
}

#[inline(always)]
fn compute<const WIDE: bool, const KIND: u8>(cpu: &mut Cpu, d: u8, a: u64, b: u64) {
    let result = sized::<WIDE>(match KIND {
        1 => a | b,
        2 => a ^ b,
        _ => a & b,
    });
    if KIND == 3 {
        let negative = if WIDE { (result as i64) < 0 } else { (result as i32) < 0 };
        cpu.flags = Flags { n: negative, z: result == 0, c: false, v: false };
    }
    cpu.w(d, result);
}

pub(super) fn decode_immediate(word: u32) -> Option<Op> {
    let kind = bits(word, 30, 29);
    let mut op = Op::new(word, by_width_and_kind!(word, kind, immediate));
    op.imm = bit_mask(bits(word, 22, 22), bits(word, 15, 10), bits(word, 21, 16), bit(word, 31))?;
    op.d = if kind == 3 { dest(op.d) } else { base(op.d) };
    Some(op)
}

fn immediate<const WIDE: bool, const KIND: u8>(cpu: &mut Cpu, op: &Op) {
    let a = cpu.r(op.n);
    compute::<WIDE, KIND>(cpu, op.d, a, op.imm);
}

pub(super) fn decode_shifted(word: u32) -> Option<Op> {
    let amount = bits(word, 15, 10);
    if !bit(word, 31) && amount >= 32 {
        return None;
    }
    let (kind, shift, negate) = (bits(word, 30, 29), bits(word, 23, 22), bit(word, 21));
    let mut op = Op::new(word, by_width_and_kind!(word, kind, shifted_register));
    op.d = dest(op.d);
    op.a = amount as u8;
    op.imm = u64::from(shift) | u64::from(negate) << 2;
    if amount == 0 && !negate {
        op.run = by_width_and_kind!(word, kind, plain_register);
        if kind == 1 && op.n == 31 {
            op.run = if bit(word, 31) { move_register::<true> } else { move_register::<false> };
        }
    }
    Some(op)
}

fn move_register<const WIDE: bool>(cpu: &mut Cpu, op: &Op) {
    let value = sized::<WIDE>(cpu.r(op.m));
    cpu.w(op.d, value);
}

fn plain_register<const WIDE: bool, const KIND: u8>(cpu: &mut Cpu, op: &Op) {
    let (a, b) = (cpu.r(op.n), cpu.r(op.m));
    compute::<WIDE, KIND>(cpu, op.d, a, b);
}

fn shifted_register<const WIDE: bool, const KIND: u8>(cpu: &mut Cpu, op: &Op) {
    let a = cpu.r(op.n);
    let b = shifted::<WIDE>(cpu.r(op.m), op.imm as u8, op.a);
    let b = if op.imm & 4 != 0 { !b } else { b };
    compute::<WIDE, KIND>(cpu, op.d, a, b);
}
