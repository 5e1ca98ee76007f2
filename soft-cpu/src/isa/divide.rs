// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! UDIV and SDIV. Division by zero gives zero; the one signed overflow wraps.

use super::by_width;
use crate::cpu::Cpu;
use crate::op::{Op, bit, dest};

pub(super) fn decode(word: u32) -> Op {
    let run = if bit(word, 10) { by_width!(word, signed) } else { by_width!(word, unsigned) };
    let mut op = Op::new(word, run);
    op.d = dest(op.d);
    op
}

fn unsigned<const WIDE: bool>(cpu: &mut Cpu, op: &Op) {
    let (a, b) = (cpu.r(op.n), cpu.r(op.m));
    let value = if WIDE {
        a.checked_div(b).unwrap_or(0)
    } else {
        u64::from((a as u32).checked_div(b as u32).unwrap_or(0))
    };
    cpu.w(op.d, value);
}

fn signed<const WIDE: bool>(cpu: &mut Cpu, op: &Op) {
    let (a, b) = (cpu.r(op.n), cpu.r(op.m));
    let value = if WIDE {
        if b == 0 { 0 } else { (a as i64).wrapping_div(b as i64) as u64 }
    } else {
        let (a, b) = (a as i32, b as i32);
        if b == 0 { 0 } else { u64::from(a.wrapping_div(b) as u32) }
    };
    cpu.w(op.d, value);
}
