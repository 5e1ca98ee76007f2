// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Branches: B, BL, B.cond, CBZ, CBNZ, TBZ, TBNZ, BR, BLR, RET, ERET.
//!
//! `imm` is the distance from the following instruction, where the program counter already is.

use super::{by_width, sized};
use crate::cpu::Cpu;
use crate::op::{Op, bit, bits, reg, sign_extend};

/// The link register.
const LINK: u8 = 30;

fn distance(field: u32, width: u32) -> u64 {
    (sign_extend(u64::from(field), width) << 2).wrapping_sub(4)
}

#[inline(always)]
fn jump(cpu: &mut Cpu, op: &Op) {
    cpu.pc = cpu.pc.wrapping_add(op.imm);
}

pub(super) fn decode_immediate(word: u32) -> Op {
    let mut op = Op::new(word, if bit(word, 31) { call } else { jump });
    op.imm = distance(bits(word, 25, 0), 26);
    op
}

fn call(cpu: &mut Cpu, op: &Op) {
    cpu.w(LINK, cpu.pc);
    jump(cpu, op);
}

pub(super) fn decode_conditional(word: u32) -> Option<Op> {
    if bit(word, 24) || bit(word, 4) || bit(word, 25) {
        return None;
    }
    let mut op = Op::new(
        word,
        match bits(word, 3, 0) {
            0 => conditional::<0>,
            1 => conditional::<1>,
            2 => conditional::<2>,
            3 => conditional::<3>,
            4 => conditional::<4>,
            5 => conditional::<5>,
            6 => conditional::<6>,
            7 => conditional::<7>,
            8 => conditional::<8>,
            9 => conditional::<9>,
            10 => conditional::<10>,
            11 => conditional::<11>,
            12 => conditional::<12>,
            13 => conditional::<13>,
            _ => jump,
        },
    );
    op.imm = distance(bits(word, 23, 5), 19);
    Some(op)
}

fn conditional<const CONDITION: u8>(cpu: &mut Cpu, op: &Op) {
    if cpu.flags.satisfy(CONDITION) {
        jump(cpu, op);
    }
}

pub(super) fn decode_compare(word: u32) -> Op {
    let run = if bit(word, 24) { by_width!(word, if_not_zero) } else { by_width!(word, if_zero) };
    let mut op = Op::new(word, run);
    op.imm = distance(bits(word, 23, 5), 19);
    op
}

fn if_zero<const WIDE: bool>(cpu: &mut Cpu, op: &Op) {
    if sized::<WIDE>(cpu.r(op.d)) == 0 {
        jump(cpu, op);
    }
}

fn if_not_zero<const WIDE: bool>(cpu: &mut Cpu, op: &Op) {
    if sized::<WIDE>(cpu.r(op.d)) != 0 {
        jump(cpu, op);
    }
}

pub(super) fn decode_test(word: u32) -> Op {
    let mut op = Op::new(word, if bit(word, 24) { if_bit_set } else { if_bit_clear });
    op.imm = distance(bits(word, 18, 5), 14);
    op.a = (bits(word, 31, 31) << 5 | bits(word, 23, 19)) as u8;
    op
}

fn if_bit_set(cpu: &mut Cpu, op: &Op) {
    if cpu.r(op.d) >> (op.a & 63) & 1 == 1 {
        jump(cpu, op);
    }
}

fn if_bit_clear(cpu: &mut Cpu, op: &Op) {
    if cpu.r(op.d) >> (op.a & 63) & 1 == 0 {
        jump(cpu, op);
    }
}

pub(super) fn decode_register(word: u32) -> Option<Op> {
    if bits(word, 20, 10) != 0b111_1100_0000 || bits(word, 4, 0) != 0 {
        return None;
    }
    match bits(word, 24, 21) {
        0b0000 | 0b0010 => Some(Op::new(word, to_register)),
        0b0001 => Some(Op::new(word, call_register)),
        0b0100 if reg(word, 5) == 31 => Some(Op::new(word, exception_return)),
        _ => None,
    }
}

fn to_register(cpu: &mut Cpu, op: &Op) {
    cpu.pc = cpu.r(op.n);
}

fn call_register(cpu: &mut Cpu, op: &Op) {
    let target = cpu.r(op.n);
    cpu.w(LINK, cpu.pc);
    cpu.pc = target;
}

fn exception_return(cpu: &mut Cpu, _: &Op) {
    if cpu.el == 0 {
        cpu.undefined();
    } else {
        cpu.exception_return();
    }
}
