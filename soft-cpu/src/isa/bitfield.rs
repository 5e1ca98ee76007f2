// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! SBFM, BFM, UBFM and so the immediate shifts, extensions, extracts and inserts.
//!
//! With imms >= immr a field is moved down from bit immr to bit 0; otherwise it is moved up to bit
//! (width - immr). Decode tells the two apart: `imm` is the mask of the field at its low end, `a` the distance.

use super::{by_width, sized};
use crate::cpu::Cpu;
use crate::op::{Handler, Op, bit, bits, dest};

pub(super) fn decode(word: u32) -> Option<Op> {
    let wide = bit(word, 31);
    let (immr, imms) = (bits(word, 21, 16), bits(word, 15, 10));
    if bit(word, 22) != wide || (!wide && (immr >= 32 || imms >= 32)) {
        return None;
    }
    let width = if wide { 64 } else { 32 };
    let down = imms >= immr;
    let field_len = if down { imms - immr + 1 } else { imms + 1 };
    let run: Handler = match (bits(word, 30, 29), down) {
        (0b00, true) => by_width!(word, signed_down),
        (0b00, false) => by_width!(word, signed_up),
        (0b01, true) => by_width!(word, insert_down),
        (0b01, false) => by_width!(word, insert_up),
        (0b10, true) => unsigned_down,
        (0b10, false) => unsigned_up,
        _ => return None,
    };
    let mut op = Op::new(word, run);
    op.imm = u64::MAX >> (64 - field_len);
    op.a = if down { immr } else { width - immr } as u8;
    // The old destination is a source of the inserts; the length of the field one of the signed forms.
    op.m = if bits(word, 30, 29) == 0 { (64 - field_len) as u8 } else { op.d };
    op.d = dest(op.d);
    Some(op)
}

fn unsigned_down(cpu: &mut Cpu, op: &Op) {
    let value = cpu.r(op.n) >> (op.a & 63) & op.imm;
    cpu.w(op.d, value);
}

fn unsigned_up(cpu: &mut Cpu, op: &Op) {
    let value = (cpu.r(op.n) & op.imm) << (op.a & 63);
    cpu.w(op.d, value);
}

/// The field in the low bits of `value`, sign-extended; `above` is 64 less its length.
#[inline(always)]
fn signed(value: u64, above: u8) -> u64 {
    let above = u32::from(above & 63);
    ((value << above) as i64 >> above) as u64
}

fn signed_down<const WIDE: bool>(cpu: &mut Cpu, op: &Op) {
    let value = signed(cpu.r(op.n) >> (op.a & 63), op.m);
    cpu.w(op.d, sized::<WIDE>(value));
}

fn signed_up<const WIDE: bool>(cpu: &mut Cpu, op: &Op) {
    let value = signed(cpu.r(op.n), op.m) << (op.a & 63);
    cpu.w(op.d, sized::<WIDE>(value));
}

fn insert_down<const WIDE: bool>(cpu: &mut Cpu, op: &Op) {
    let value = cpu.r(op.n) >> (op.a & 63) & op.imm | cpu.r(op.m) & !op.imm;
    cpu.w(op.d, sized::<WIDE>(value));
}

fn insert_up<const WIDE: bool>(cpu: &mut Cpu, op: &Op) {
    let mask = op.imm << (op.a & 63);
    let value = cpu.r(op.n) << (op.a & 63) & mask | cpu.r(op.m) & !mask;
    cpu.w(op.d, sized::<WIDE>(value));
}
