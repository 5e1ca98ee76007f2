// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! EXTR, and so ROR by an immediate.

use super::by_width;
use crate::cpu::Cpu;
use crate::op::{Op, bit, bits, dest};

pub(super) fn decode(word: u32) -> Option<Op> {
    let wide = bit(word, 31);
    let amount = bits(word, 15, 10);
    if bits(word, 30, 29) != 0 || bit(word, 22) != wide || bit(word, 21) || (!wide && amount >= 32) {
        return None;
    }
    let mut op = Op::new(word, by_width!(word, extract));
    op.d = dest(op.d);
    op.a = amount as u8;
    Some(op)
}

fn extract<const WIDE: bool>(cpu: &mut Cpu, op: &Op) {
    let (high, low) = (cpu.r(op.n), cpu.r(op.m));
    let value = if WIDE {
        ((u128::from(high) << 64 | u128::from(low)) >> (op.a & 63)) as u64
    } else {
        (high << 32 | low & 0xffff_ffff) >> (op.a & 31) & 0xffff_ffff
    };
    cpu.w(op.d, value);
}
