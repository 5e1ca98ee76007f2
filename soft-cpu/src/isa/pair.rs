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
    macro_rules! indexed {
        ($handler:ident, $log2:literal) => {
            match index {
                POST => $handler::<$log2, POST> as Handler,
                PRE => $handler::<$log2, PRE>,
                // Signed offset, and the non-temporal form, which is the same without the hint.
                _ => $handler::<$log2, 0>,
            }
        };
    }
    let run = match (bits(word, 31, 30), is_load) {
        (0b00, false) => indexed!(store, 2),
        (0b00, true) => indexed!(load, 2),
        // There is no non-temporal LDPSW.
        (0b01, true) if index != 0 => indexed!(load_signed, 2),
        (0b10, false) => indexed!(store, 3),
        (0b10, true) => indexed!(load, 3),
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

#[inline(always)]
fn load_both<const LOG2: usize>(cpu: &mut Cpu, address: u64) -> Option<(u64, u64)> {
    if let Some((first, second)) = cpu.tlb.read_pair::<LOG2>(cpu.tlb.table(), address) {
        return Some((first.load(), second.load()));
    }
    let first = cpu.load::<LOG2>(address)?;
    let second = cpu.load::<LOG2>(address.wrapping_add(1 << LOG2))?;
    Some((first, second))
}

fn load<const LOG2: usize, const INDEX: u8>(cpu: &mut Cpu, op: &Op) {
    let Some((address, after)) = addresses::<INDEX>(cpu, op) else { return };
    let Some((first, second)) = load_both::<LOG2>(cpu, address) else { return };
    if INDEX != 0 {
        cpu.w(op.n, after);
    }
    cpu.w(op.d, first);
    cpu.w(op.m, second);
}

fn load_signed<const LOG2: usize, const INDEX: u8>(cpu: &mut Cpu, op: &Op) {
    let Some((address, after)) = addresses::<INDEX>(cpu, op) else { return };
    let Some((first, second)) = load_both::<LOG2>(cpu, address) else { return };
    if INDEX != 0 {
        cpu.w(op.n, after);
    }
    cpu.w(op.d, i64::from(first as i32) as u64);
    cpu.w(op.m, i64::from(second as i32) as u64);
}

fn store<const LOG2: usize, const INDEX: u8>(cpu: &mut Cpu, op: &Op) {
    let Some((address, after)) = addresses::<INDEX>(cpu, op) else { return };
    let (first, second) = (cpu.r(op.d), cpu.r(op.m));
    if let Some((first_spot, second_spot)) = cpu.tlb.write_pair::<LOG2>(cpu.tlb.table(), address) {
        first_spot.store(first);
        second_spot.store(second);
    } else if store_both_slow::<LOG2>(cpu, address, first, second).is_none() {
        return;
    }
    if INDEX != 0 {
        cpu.w(op.n, after);
    }
}

#[cold]
fn store_both_slow<const LOG2: usize>(cpu: &mut Cpu, address: u64, first: u64, second: u64) -> Option<()> {
    let next = address.wrapping_add(1 << LOG2);
    let last = next.wrapping_add((1 << LOG2) - 1);
    if (address ^ last) & !(PAGE_LEN - 1) != 0 {
        cpu.probe_store(address)?;
        cpu.probe_store(last)?;
    }
    cpu.store::<LOG2>(address, first)?;
    cpu.store::<LOG2>(next, second)
}
