// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Atomic memory operations (FEAT_LSE): LDADD, LDCLR, LDEOR, LDSET, LDSMAX, LDSMIN, LDUMAX, LDUMIN, SWP, and
//! their ST forms, which are the same with the zero register. All are sequentially consistent on the host.

use super::exclusive;
use crate::cpu::Cpu;
use crate::mmu::Access;
use crate::op::{Handler, Op, base, bits, dest};
use crate::ram::Update;

/// By opc; the last is SWP.
const UPDATES: [Update; 9] = [
    Update::Add,
    Update::Clear,
    Update::Xor,
    Update::Set,
    Update::SignedMax,
    Update::SignedMin,
    Update::UnsignedMax,
    Update::UnsignedMin,
    Update::Swap,
];

pub(super) fn decode(word: u32) -> Option<Op> {
    let index = bits(word, 15, 12);
    if index == 0b1100 {
        return exclusive::decode_acquire(word);
    }
    if index as usize >= UPDATES.len() {
        return None;
    }
    let run: Handler = match bits(word, 31, 30) {
        0 => update::<0>,
        1 => update::<1>,
        2 => update::<2>,
        _ => update::<3>,
    };
    let mut op = Op::new(word, run);
    op.n = base(op.n);
    op.d = dest(op.d);
    op.a = index as u8;
    // A and R.
    op.imm = u64::from(bits(word, 23, 22));
    Some(op)
}

fn update<const LOG2: usize>(cpu: &mut Cpu, op: &Op) {
    let Some(va) = cpu.base(op) else { return };
    let operand = cpu.r(op.m);
    let what = UPDATES[usize::from(op.a)];
    let (acquire, release) = (op.imm & 2 != 0, op.imm & 1 != 0);
    cpu.order.before_update(acquire);
    let Some(spot) = cpu.atomic_spot::<LOG2>(va, Access::Read) else { return };
    let old = spot.update(what, operand);
    cpu.order.after_update(acquire, release);
    cpu.w(op.d, old);
}
