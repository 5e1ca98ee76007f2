// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! ADR and ADRP.

use crate::cpu::Cpu;
use crate::op::{Op, bit, bits, dest, sign_extend};

pub(super) fn decode(word: u32) -> Option<Op> {
    let offset = sign_extend(u64::from(bits(word, 23, 5) << 2 | bits(word, 30, 29)), 21);
    let mut op = Op::new(word, address);
    op.imm = offset;
    if bit(word, 31) {
        op.run = page;
        op.imm = offset << 12;
    }
    op.d = dest(op.d);
    Some(op)
}

fn address(cpu: &mut Cpu, op: &Op) {
    let value = cpu.this_pc().wrapping_add(op.imm);
    cpu.w(op.d, value);
}

fn page(cpu: &mut Cpu, op: &Op) {
    let value = (cpu.this_pc() & !0xfff).wrapping_add(op.imm);
    cpu.w(op.d, value);
}
