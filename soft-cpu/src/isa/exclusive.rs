// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Exclusive loads and stores, load-acquire and store-release, compare-and-swap (Arm ARM C4.1, "Load/store
//! exclusive" and its neighbours; B2.9 for the monitors; B2.3 for the order).
//!
//! What keeps them in order: `order.rs`.

use crate::cpu::Cpu;
use crate::mmu::{Access, Fault};
use crate::op::{Handler, Op, base, bit, bits, dest, reg};

/// Flags in `imm`.
const ACQUIRE: u64 = 1;
const RELEASE: u64 = 2;

/// Picks a handler by access size.
macro_rules! sized {
    ($log2:expr, $handler:ident) => {
        match $log2 {
            0 => $handler::<0> as Handler,
            1 => $handler::<1>,
            2 => $handler::<2>,
            _ => $handler::<3>,
        }
    };
}

pub(super) fn decode(word: u32) -> Option<Op> {
    let size = bits(word, 31, 30);
    let (ordered, is_load, pair, release) = (bit(word, 23), bit(word, 22), bit(word, 21), bit(word, 15));
    let mut op = Op::new(word, |_, _| {});
    op.n = base(op.n);
    op.a = reg(word, 10);
    match (ordered, pair) {
        (false, false) => {
            op.run = if is_load { sized!(size, load_exclusive) } else { sized!(size, store_exclusive) };
        }
        (false, true) if size >= 2 => {
            op.run = match (is_load, size) {
                (true, 2) => load_exclusive_pair_narrow,
                (true, _) => load_exclusive_pair,
                (false, 2) => store_exclusive_pair_narrow,
                (false, _) => store_exclusive_pair,
            };
        }
        (false, true) => return decode_swap_pair(word, op),
        (true, false) if release => {
            op.run = if is_load { sized!(size, load_acquire) } else { sized!(size, store_release) };
            op.d = if is_load { dest(op.d) } else { op.d };
            return Some(op);
        }
        // LDLAR and STLLR need FEAT_LOR.
        (true, false) => return None,
        (true, true) if op.a == 31 => {
            op.run = sized!(size, compare_and_swap);
            op.imm = order_of_swap(word);
            return Some(op);
        }
        (true, true) => return None,
    }
    if is_load {
        op.d = dest(op.d);
        op.a = dest(op.a);
        op.imm = if release { ACQUIRE } else { 0 };
    } else {
        op.m = dest(op.m);
        op.imm = if release { RELEASE } else { 0 };
    }
    Some(op)
}

/// LDAPR (FEAT_LRCPC): an acquire that may pass an earlier store-release.
pub(super) fn decode_acquire(word: u32) -> Option<Op> {
    if bits(word, 23, 22) != 0b10 || reg(word, 16) != 31 {
        return None;
    }
    let mut op = Op::new(word, sized!(bits(word, 31, 30), load_acquire_pc));
    op.n = base(op.n);
    op.d = dest(op.d);
    Some(op)
}

impl Cpu {
    /// Exclusive and ordered accesses fault when not aligned, whatever SCTLR_EL1.A says.
    #[inline(always)]
    fn aligned(&mut self, va: u64, len: u64, access: Access) -> Option<()> {
        if va & (len - 1) == 0 { Some(()) } else { self.data_abort(va, access, Fault::Alignment) }
    }
}

fn load_acquire<const LOG2: usize>(cpu: &mut Cpu, op: &Op) {
    let Some(va) = cpu.base(op) else { return };
    if cpu.aligned(va, 1 << LOG2, Access::Read).is_none() {
        return;
    }
    cpu.order.before_load_acquire();
    let Some(value) = cpu.load::<LOG2>(va) else { return };
    cpu.order.after_load_acquire();
    cpu.w(op.d, value);
}

fn load_acquire_pc<const LOG2: usize>(cpu: &mut Cpu, op: &Op) {
    let Some(va) = cpu.base(op) else { return };
    if cpu.aligned(va, 1 << LOG2, Access::Read).is_none() {
        return;
    }
    let Some(value) = cpu.load::<LOG2>(va) else { return };
    cpu.order.after_load_acquire();
    cpu.w(op.d, value);
}

fn store_release<const LOG2: usize>(cpu: &mut Cpu, op: &Op) {
    let Some(va) = cpu.base(op) else { return };
    if cpu.aligned(va, 1 << LOG2, Access::Write).is_none() {
        return;
    }
    cpu.order.before_store_release();
    let value = cpu.r(op.d);
    if cpu.store::<LOG2>(va, value).is_some() {
        cpu.order.after_store_release();
    }
}

/// The load half of an exclusive access, of `len` bytes in words of `1 << LOG2`.
#[inline(always)]
fn load_and_hold<const LOG2: usize>(cpu: &mut Cpu, op: &Op, len: u8) -> Option<u128> {
    let va = cpu.base(op)?;
    cpu.aligned(va, u64::from(len), Access::Read)?;
    if op.imm & ACQUIRE != 0 {
        cpu.order.before_load_acquire();
    }
    let mut value = u128::from(cpu.load::<LOG2>(va)?);
    if len == 16 {
        // The halves need not be read at once: the store-exclusive verifies both.
        value |= u128::from(cpu.load::<3>(va.wrapping_add(8))?) << 64;
    }
    if op.imm & ACQUIRE != 0 {
        cpu.order.after_load_acquire();
    }
    cpu.monitor.hold(va, len, value);
    Some(value)
}

fn load_exclusive<const LOG2: usize>(cpu: &mut Cpu, op: &Op) {
    if let Some(value) = load_and_hold::<LOG2>(cpu, op, 1 << LOG2) {
        cpu.w(op.d, value as u64);
    }
}

fn load_exclusive_pair_narrow(cpu: &mut Cpu, op: &Op) {
    if let Some(value) = load_and_hold::<3>(cpu, op, 8) {
        cpu.w(op.d, value as u64 & 0xffff_ffff);
        cpu.w(op.a, (value as u64) >> 32);
    }
}

fn load_exclusive_pair(cpu: &mut Cpu, op: &Op) {
    if let Some(value) = load_and_hold::<3>(cpu, op, 16) {
        cpu.w(op.d, value as u64);
        cpu.w(op.a, (value >> 64) as u64);
    }
}

/// The store half: writes the status register, unless an exception was taken.
#[inline(always)]
fn store_if_held<const LOG2: usize>(cpu: &mut Cpu, op: &Op, value: u64) {
    let Some(va) = cpu.base(op) else { return };
    if cpu.aligned(va, 1 << LOG2, Access::Write).is_none() {
        return;
    }
    let mut status = 1;
    if let Some(expected) = cpu.monitor.take(va, 1 << LOG2) {
        let Some(spot) = cpu.atomic_spot::<LOG2>(va, Access::Write) else { return };
        let expected = expected as u64;
        status = u64::from(spot.compare_exchange(expected, value) != expected);
        cpu.order.after_update(false, op.imm & RELEASE != 0);
    }
    cpu.w(op.m, status);
}

fn store_exclusive<const LOG2: usize>(cpu: &mut Cpu, op: &Op) {
    let value = cpu.r(op.d);
    store_if_held::<LOG2>(cpu, op, value);
}

fn store_exclusive_pair_narrow(cpu: &mut Cpu, op: &Op) {
    let value = cpu.r(op.d) & 0xffff_ffff | cpu.r(op.a) << 32;
    store_if_held::<3>(cpu, op, value);
}

fn store_exclusive_pair(cpu: &mut Cpu, op: &Op) {
    let value = u128::from(cpu.r(op.a)) << 64 | u128::from(cpu.r(op.d));
    let Some(va) = cpu.base(op) else { return };
    if cpu.aligned(va, 16, Access::Write).is_none() {
        return;
    }
    let mut status = 1;
    if let Some(expected) = cpu.monitor.take(va, 16) {
        let Some(spot) = cpu.atomic_spot::<4>(va, Access::Write) else { return };
        status = u64::from(spot.compare_exchange_wide(expected, value) != expected);
        cpu.order.after_update(false, op.imm & RELEASE != 0);
    }
    cpu.w(op.m, status);
}

fn compare_and_swap<const LOG2: usize>(cpu: &mut Cpu, op: &Op) {
    let Some(va) = cpu.base(op) else { return };
    let (expected, new) = (cpu.r(op.m) & (u64::MAX >> (64 - (8 << LOG2))), cpu.r(op.d));
    cpu.order.before_update(op.imm & ACQUIRE != 0);
    let Some(spot) = cpu.atomic_spot::<LOG2>(va, Access::Read) else { return };
    let old = spot.compare_exchange(expected, new);
    cpu.order.after_update(op.imm & ACQUIRE != 0, op.imm & RELEASE != 0);
    cpu.w(dest(op.m), old);
}

/// The order of CAS and CASP.
fn order_of_swap(word: u32) -> u64 {
    (if bit(word, 22) { ACQUIRE } else { 0 }) | (if bit(word, 15) { RELEASE } else { 0 })
}

/// CASP. Both register pairs start at an even number.
fn decode_swap_pair(word: u32, mut op: Op) -> Option<Op> {
    if op.a != 31 || op.m & 1 == 1 || op.d & 1 == 1 {
        return None;
    }
    op.run = if bit(word, 30) { compare_and_swap_pair } else { compare_and_swap_pair_narrow };
    op.imm = order_of_swap(word);
    Some(op)
}

fn compare_and_swap_pair_narrow(cpu: &mut Cpu, op: &Op) {
    let Some(va) = cpu.base(op) else { return };
    let both = |cpu: &Cpu, first: u8| cpu.r(first) & 0xffff_ffff | cpu.r(first + 1) << 32;
    let (expected, new) = (both(cpu, op.m), both(cpu, op.d));
    cpu.order.before_update(op.imm & ACQUIRE != 0);
    let Some(spot) = cpu.atomic_spot::<3>(va, Access::Read) else { return };
    let old = spot.compare_exchange(expected, new);
    cpu.order.after_update(op.imm & ACQUIRE != 0, op.imm & RELEASE != 0);
    cpu.w(op.m, old & 0xffff_ffff);
    cpu.w(dest(op.m + 1), old >> 32);
}

fn compare_and_swap_pair(cpu: &mut Cpu, op: &Op) {
    let Some(va) = cpu.base(op) else { return };
    let both = |cpu: &Cpu, first: u8| u128::from(cpu.r(first + 1)) << 64 | u128::from(cpu.r(first));
    let (expected, new) = (both(cpu, op.m), both(cpu, op.d));
    cpu.order.before_update(op.imm & ACQUIRE != 0);
    let Some(spot) = cpu.atomic_spot::<4>(va, Access::Read) else { return };
    let old = spot.compare_exchange_wide(expected, new);
    cpu.order.after_update(op.imm & ACQUIRE != 0, op.imm & RELEASE != 0);
    cpu.w(op.m, old as u64);
    cpu.w(dest(op.m + 1), (old >> 64) as u64);
}
