// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! ADC, ADCS, SBC, SBCS; NGC. The kind is op:S as in `add_sub.rs`.

use super::add_sub::add_with_carry;
use super::by_width_and_kind;
use crate::cpu::Cpu;
use crate::op::{Op, bits, dest};

pub(super) fn decode(word: u32) -> Option<Op> {
    if bits(word, 15, 10) != 0 {
        return None;
    }
    let mut op = Op::new(word, by_width_and_kind!(word, bits(word, 30, 29), with_carry));
    op.d = dest(op.d);
    Some(op)
}

fn with_carry<const WIDE: bool, const KIND: u8>(cpu: &mut Cpu, op: &Op) {
    let b = cpu.r(op.m);
    let b = if KIND & 2 != 0 { !b } else { b };
    let (result, flags) = add_with_carry::<WIDE>(cpu.r(op.n), b, cpu.flags.c);
    if KIND & 1 != 0 {
        cpu.flags = flags;
    }
    cpu.w(op.d, result);
}
