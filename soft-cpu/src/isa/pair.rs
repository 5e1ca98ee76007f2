// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! LDP, STP, LDPSW, LDNP, STNP.
//!
//! Both registers are written, and the base updated, only after both loads succeeded. A pair that would fault
//! in its second page stores nothing.

use crate::cpu::Cpu;
use crate::op::{Handler, Op, base, bit, bits, dest, reg, sign_extend};
use crate::ram::PAGE_LEN;

/// Where the address comes from, and what becomes of the base: the encoding's index field.
const POST: u8 = 1;
const PRE: u8 = 3;

pub(super) fn decode(word: u32) -> Option<Op> {
    let is_load = bit(word, 22);
    let index = bits(word, 24, 23) as u8;
    // Signed offset, and the non-temporal form, which is the same without the hint, are the third kind.
    macro_rules! loads {
        ($log2:literal, $signed:literal) => {
            match index {
                POST => load::<$log2, $signed, POST> as Handler,
                PRE => load::<$log2, $signed, PRE>,
                _ => load::<$log2, $signed, 0>,
            }
        };
    }
    macro_rules! stores {
        ($log2:literal) => {
            match index {
                POST => store::<$log2, POST> as Handler,
                PRE => store::<$log2, PRE>,
                _ => store::<$log2, 0>,
            }
        };
    }
    let run = match (bits(word, 31, 30), is_load) {
        (0b00, false) => stores!(2),
        (0b00, true) => loads!(2, false),
        // There is no non-temporal LDPSW.
        (0b01, true) if index != 0 => loads!(2, true),
        (0b10, false) => stores!(3),
        (0b10, true) => loads!(3, false),
        _ => return None,
    };
    let mut op = Op::new(word, run);
    let scale = if bits(word, 31, 30) == 0b10 { 3 } else { 2 };
    op.imm = sign_extend(u64::from(bits(word, 21, 15)), 7) << scale;
    op.n = base(op.n);
    op.m = reg(word, 10);
    if is_load {
        op.d = dest(op.d);
        op.m = dest(op.m);
    }
    Some(op)
}

/// The address of the access, and the base afterwards.
#[inline(always)]
fn addresses<const INDEX: u8>(cpu: &mut Cpu, op: &Op) -> Option<(u64, u64)> {
    let start = cpu.base(op)?;
    let moved = start.wrapping_add(op.imm);
    Some(if INDEX == POST { (start, moved) } else { (moved, moved) })
}

/// Finishes a load of both values, zero- or sign-extended from their size.
#[inline(always)]
fn finish_load<const SIGNED: bool, const INDEX: u8>(
    cpu: &mut Cpu,
    op: &Op,
    after: u64,
    first: u64,
    second: u64,
) {
    if INDEX != 0 {
        cpu.w(op.n, after);
    }
    let extend = |value: u64| if SIGNED { i64::from(value as i32) as u64 } else { value };
    cpu.w(op.d, extend(first));
    cpu.w(op.m, extend(second));
}

fn load<const LOG2: usize, const SIGNED: bool, const INDEX: u8>(cpu: &mut Cpu, op: &Op) {
    let Some((address, after)) = addresses::<INDEX>(cpu, op) else { return };
    let Some((first, second)) = cpu.tlb.read_pair::<LOG2>(cpu.tlb.table(), address) else {
        return load_slowly::<LOG2, SIGNED, INDEX>(cpu, op, address, after);
    };
    let (first, second) = (first.load(), second.load());
    finish_load::<SIGNED, INDEX>(cpu, op, after, first, second);
}

#[cold]
#[inline(never)]
fn load_slowly<const LOG2: usize, const SIGNED: bool, const INDEX: u8>(
    cpu: &mut Cpu,
    op: &Op,
    address: u64,
    after: u64,
) {
    let Some(first) = cpu.load::<LOG2>(address) else { return };
    let Some(second) = cpu.load::<LOG2>(address.wrapping_add(1 << LOG2)) else { return };
    finish_load::<SIGNED, INDEX>(cpu, op, after, first, second);
}

fn store<const LOG2: usize, const INDEX: u8>(cpu: &mut Cpu, op: &Op) {
    let Some((address, after)) = addresses::<INDEX>(cpu, op) else { return };
    let (first, second) = (cpu.r(op.d), cpu.r(op.m));
    let Some((first_spot, second_spot)) = cpu.tlb.write_pair::<LOG2>(cpu.tlb.table(), address) else {
        return store_slowly::<LOG2, INDEX>(cpu, op, address, after);
    };
    first_spot.store(first);
    second_spot.store(second);
    if INDEX != 0 {
        cpu.w(op.n, after);
    }
}

#[cold]
#[inline(never)]
fn store_slowly<const LOG2: usize, const INDEX: u8>(cpu: &mut Cpu, op: &Op, address: u64, after: u64) {
    let (first, second) = (cpu.r(op.d), cpu.r(op.m));
    if store_both::<LOG2>(cpu, address, first, second).is_some() && INDEX != 0 {
        cpu.w(op.n, after);
    }
}

fn store_both<const LOG2: usize>(cpu: &mut Cpu, address: u64, first: u64, second: u64) -> Option<()> {
    let next = address.wrapping_add(1 << LOG2);
    let last = next.wrapping_add((1 << LOG2) - 1);
    if (address ^ last) & !(PAGE_LEN - 1) != 0 {
        cpu.probe_store(address)?;
        cpu.probe_store(last)?;
    }
    cpu.store::<LOG2>(address, first)?;
    cpu.store::<LOG2>(next, second)
}
