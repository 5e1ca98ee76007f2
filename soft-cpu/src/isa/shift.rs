// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! LSLV, LSRV, ASRV, RORV: shifts by a register, modulo the width.

use super::{by_width_and_kind, shifted};
use crate::cpu::Cpu;
use crate::op::{Op, bits, dest};

pub(super) fn decode(word: u32) -> Op {
    let mut op = Op::new(word, by_width_and_kind!(word, bits(word, 11, 10), by_register));
    op.d = dest(op.d);
    op
}

fn by_register<const WIDE: bool, const KIND: u8>(cpu: &mut Cpu, op: &Op) {
    let amount = cpu.r(op.m) as u8 & if WIDE { 63 } else { 31 };
    let value = shifted::<WIDE>(cpu.r(op.n), KIND, amount);
    cpu.w(op.d, value);
}
