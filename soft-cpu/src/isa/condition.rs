// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Conditions, and the instructions that are about them: CCMP, CCMN, CSEL, CSINC, CSINV, CSNEG.

use super::add_sub::{add_with_carry, subtract};
use super::{by_width, by_width_and_kind, sized};
use crate::cpu::{Cpu, Flags};
use crate::op::{Op, bit, bits, dest};

impl Flags {
    /// ConditionHolds.
    #[inline(always)]
    pub(crate) fn satisfy(self, condition: u8) -> bool {
        let holds = match condition >> 1 & 7 {
            0 => self.z,
            1 => self.c,
            2 => self.n,
            3 => self.v,
            4 => self.c && !self.z,
            5 => self.n == self.v,
            6 => self.n == self.v && !self.z,
            // AL, and NV, which is the same.
            _ => return true,
        };
        holds != (condition & 1 == 1)
    }
}

pub(super) fn decode_compare(word: u32) -> Option<Op> {
    if !bit(word, 29) || bit(word, 10) || bit(word, 4) {
        return None;
    }
    let run = match (bit(word, 30), bit(word, 11)) {
        (false, false) => by_width!(word, compare_negative_register),
        (false, true) => by_width!(word, compare_negative_immediate),
        (true, false) => by_width!(word, compare_register),
        (true, true) => by_width!(word, compare_immediate),
    };
    let mut op = Op::new(word, run);
    op.a = bits(word, 15, 12) as u8;
    op.d = bits(word, 3, 0) as u8;
    Some(op)
}

fn compare_register<const WIDE: bool>(cpu: &mut Cpu, op: &Op) {
    let (a, b) = (cpu.r(op.n), cpu.r(op.m));
    compare_if(cpu, op, || subtract::<WIDE>(a, b).1);
}

fn compare_immediate<const WIDE: bool>(cpu: &mut Cpu, op: &Op) {
    let a = cpu.r(op.n);
    compare_if(cpu, op, || subtract::<WIDE>(a, u64::from(op.m)).1);
}

fn compare_negative_register<const WIDE: bool>(cpu: &mut Cpu, op: &Op) {
    let (a, b) = (cpu.r(op.n), cpu.r(op.m));
    compare_if(cpu, op, || add_with_carry::<WIDE>(a, b, false).1);
}

fn compare_negative_immediate<const WIDE: bool>(cpu: &mut Cpu, op: &Op) {
    let a = cpu.r(op.n);
    compare_if(cpu, op, || add_with_carry::<WIDE>(a, u64::from(op.m), false).1);
}

#[inline(always)]
fn compare_if(cpu: &mut Cpu, op: &Op, flags: impl FnOnce() -> Flags) {
    cpu.flags = if cpu.flags.satisfy(op.a) { flags() } else { Flags::from_bits(op.d) };
}

pub(super) fn decode_select(word: u32) -> Option<Op> {
    if bit(word, 29) || bit(word, 11) {
        return None;
    }
    let kind = bits(word, 30, 30) << 1 | bits(word, 10, 10);
    let mut op = Op::new(word, by_width_and_kind!(word, kind, select));
    op.a = bits(word, 15, 12) as u8;
    op.d = dest(op.d);
    Some(op)
}

/// Kinds: 0 CSEL, 1 CSINC, 2 CSINV, 3 CSNEG.
fn select<const WIDE: bool, const KIND: u8>(cpu: &mut Cpu, op: &Op) {
    let value = if cpu.flags.satisfy(op.a) {
        cpu.r(op.n)
    } else {
        let other = cpu.r(op.m);
        match KIND {
            0 => other,
            1 => other.wrapping_add(1),
            2 => !other,
            _ => other.wrapping_neg(),
        }
    };
    cpu.w(op.d, sized::<WIDE>(value));
}
