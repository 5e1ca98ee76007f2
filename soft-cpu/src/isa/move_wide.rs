// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! MOVN, MOVZ, MOVK (Arm ARM C4.1, "Move wide (immediate)"). The first two are constants by the time they run.

use super::{by_width, sized};
use crate::cpu::Cpu;
use crate::op::{Op, bit, bits, dest};

pub(super) fn decode(word: u32) -> Option<Op> {
    let (wide, half) = (bit(word, 31), bits(word, 22, 21));
    if !wide && half >= 2 {
        return None;
    }
    let shift = half * 16;
    let value = u64::from(bits(word, 20, 5)) << shift;
    let mut op = Op::new(word, constant);
    op.imm = match bits(word, 30, 29) {
        0b00 if wide => !value,
        0b00 => !value & 0xffff_ffff,
        0b10 => value,
        0b11 => {
            op.run = by_width!(word, keep);
            op.n = op.d;
            op.a = shift as u8;
            value
        }
        _ => return None,
    };
    op.d = dest(op.d);
    Some(op)
}

fn constant(cpu: &mut Cpu, op: &Op) {
    cpu.w(op.d, op.imm);
}

fn keep<const WIDE: bool>(cpu: &mut Cpu, op: &Op) {
    let value = cpu.r(op.n) & !(0xffff << (op.a & 63)) | op.imm;
    cpu.w(op.d, sized::<WIDE>(value));
}
