// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Loads and stores of one general register: literal, scaled, unscaled, pre- and post-indexed, unprivileged,
//! register offset; prefetches, which do nothing.
//!
//! `LOG2` is the access size; the extension of a load is 0 zeros, 1 sign to 64 bits, 2 sign to 32 bits.
//! Loads into the base register of an indexed form leave the loaded value; stores of it store the old one.

use super::extend;
use crate::cpu::Cpu;
use crate::op::{Handler, Op, base, bit, bits, dest, sign_extend};

/// Picks a load by size and extension.
macro_rules! loads {
    ($log2:expr, $extension:expr, $handler:ident) => {
        match ($log2, $extension) {
            (0, 0) => $handler::<0, 0> as Handler,
            (0, 1) => $handler::<0, 1>,
            (0, _) => $handler::<0, 2>,
            (1, 0) => $handler::<1, 0>,
            (1, 1) => $handler::<1, 1>,
            (1, _) => $handler::<1, 2>,
            (2, 0) => $handler::<2, 0>,
            (2, _) => $handler::<2, 1>,
            _ => $handler::<3, 0>,
        }
    };
}

/// Picks a store by size.
macro_rules! stores {
    ($log2:expr, $handler:ident) => {
        match $log2 {
            0 => $handler::<0> as Handler,
            1 => $handler::<1>,
            2 => $handler::<2>,
            _ => $handler::<3>,
        }
    };
}

/// What size:opc stand for.
enum Kind {
    Store,
    Load { extension: u8 },
    Prefetch,
}

fn kind(word: u32) -> Option<Kind> {
    match (bits(word, 31, 30), bits(word, 23, 22)) {
        (_, 0b00) => Some(Kind::Store),
        (_, 0b01) => Some(Kind::Load { extension: 0 }),
        (3, 0b10) => Some(Kind::Prefetch),
        (_, 0b10) => Some(Kind::Load { extension: 1 }),
        (0 | 1, _) => Some(Kind::Load { extension: 2 }),
        _ => None,
    }
}

#[inline(always)]
fn extended<const LOG2: usize, const EXTENSION: u8>(value: u64) -> u64 {
    match (EXTENSION, LOG2) {
        (1, 0) => i64::from(value as i8) as u64,
        (1, 1) => i64::from(value as i16) as u64,
        (1, 2) => i64::from(value as i32) as u64,
        (2, 0) => u64::from(i32::from(value as i8) as u32),
        (2, 1) => u64::from(i32::from(value as i16) as u32),
        _ => value,
    }
}

pub(super) fn nothing(_: &mut Cpu, _: &Op) {}

/// Finishes an operation of one of the forms that share `kind`; the handlers given are for loads and stores.
fn finish(
    word: u32,
    mut op: Op,
    load: impl Fn(u32, u8) -> Handler,
    store: impl Fn(u32) -> Handler,
) -> Option<Op> {
    let log2 = bits(word, 31, 30);
    op.n = base(op.n);
    match kind(word)? {
        Kind::Store => op.run = store(log2),
        Kind::Load { extension } => {
            op.run = load(log2, extension);
            op.d = dest(op.d);
        }
        Kind::Prefetch => op.run = nothing,
    }
    Some(op)
}

pub(super) fn decode_scaled(word: u32) -> Option<Op> {
    let mut op = Op::new(word, nothing);
    op.imm = u64::from(bits(word, 21, 10)) << bits(word, 31, 30);
    finish(word, op, |log2, extension| loads!(log2, extension, load), |log2| stores!(log2, store))
}

pub(super) fn decode_unscaled(word: u32) -> Option<Op> {
    let mut op = Op::new(word, nothing);
    op.imm = sign_extend(u64::from(bits(word, 20, 12)), 9);
    let form = bits(word, 11, 10);
    if form != 0b00 && matches!(kind(word)?, Kind::Prefetch) {
        return None;
    }
    match form {
        0b00 => finish(word, op, |l, x| loads!(l, x, load), |l| stores!(l, store)),
        0b01 => finish(word, op, |l, x| loads!(l, x, load_post), |l| stores!(l, store_post)),
        0b10 => finish(word, op, |l, x| loads!(l, x, load_unprivileged), |l| stores!(l, store_unprivileged)),
        _ => finish(word, op, |l, x| loads!(l, x, load_pre), |l| stores!(l, store_pre)),
    }
}

pub(super) fn decode_register(word: u32) -> Option<Op> {
    if !bit(word, 14) {
        return None;
    }
    let mut op = Op::new(word, nothing);
    op.imm = u64::from(bits(word, 15, 13));
    op.a = if bit(word, 12) { bits(word, 31, 30) as u8 } else { 0 };
    finish(word, op, |l, x| loads!(l, x, load_register), |l| stores!(l, store_register))
}

pub(super) fn decode_literal(word: u32) -> Op {
    let run: Handler = match bits(word, 31, 30) {
        0b00 => load_literal::<2, 0>,
        0b01 => load_literal::<3, 0>,
        0b10 => load_literal::<2, 1>,
        _ => nothing,
    };
    let mut op = Op::new(word, run);
    op.imm = sign_extend(u64::from(bits(word, 23, 5)), 19) << 2;
    op.d = dest(op.d);
    op
}

/// A load whose address misses the TLB, or is not aligned. Out of the way of the handlers, which then need no
/// stack frame; the same goes for its neighbour.
#[cold]
#[inline(never)]
fn load_slowly<const LOG2: usize, const EXTENSION: u8>(cpu: &mut Cpu, op: &Op, va: u64) {
    let Some(value) = cpu.load::<LOG2>(va) else { return };
    cpu.w(op.d, extended::<LOG2, EXTENSION>(value));
}

#[cold]
#[inline(never)]
fn store_slowly<const LOG2: usize>(cpu: &mut Cpu, op: &Op, va: u64) {
    let value = cpu.r(op.d);
    cpu.store::<LOG2>(va, value);
}

#[inline(always)]
fn load_at<const LOG2: usize, const EXTENSION: u8>(cpu: &mut Cpu, op: &Op, va: u64) {
    let Some(spot) = cpu.tlb.read::<LOG2>(cpu.tlb.table(), va) else {
        return load_slowly::<LOG2, EXTENSION>(cpu, op, va);
    };
    let value = spot.load();
    cpu.w(op.d, extended::<LOG2, EXTENSION>(value));
}

#[inline(always)]
fn store_at<const LOG2: usize>(cpu: &mut Cpu, op: &Op, va: u64) {
    let value = cpu.r(op.d);
    match cpu.tlb.write::<LOG2>(cpu.tlb.table(), va) {
        Some(spot) => spot.store(value),
        None => store_slowly::<LOG2>(cpu, op, va),
    }
}

fn load<const LOG2: usize, const EXTENSION: u8>(cpu: &mut Cpu, op: &Op) {
    let Some(address) = cpu.base(op) else { return };
    load_at::<LOG2, EXTENSION>(cpu, op, address.wrapping_add(op.imm));
}

fn store<const LOG2: usize>(cpu: &mut Cpu, op: &Op) {
    let Some(address) = cpu.base(op) else { return };
    store_at::<LOG2>(cpu, op, address.wrapping_add(op.imm));
}

fn load_post<const LOG2: usize, const EXTENSION: u8>(cpu: &mut Cpu, op: &Op) {
    let Some(address) = cpu.base(op) else { return };
    let Some(value) = cpu.load::<LOG2>(address) else { return };
    cpu.w(op.n, address.wrapping_add(op.imm));
    cpu.w(op.d, extended::<LOG2, EXTENSION>(value));
}

fn store_post<const LOG2: usize>(cpu: &mut Cpu, op: &Op) {
    let Some(address) = cpu.base(op) else { return };
    let value = cpu.r(op.d);
    if cpu.store::<LOG2>(address, value).is_some() {
        cpu.w(op.n, address.wrapping_add(op.imm));
    }
}

fn load_pre<const LOG2: usize, const EXTENSION: u8>(cpu: &mut Cpu, op: &Op) {
    let Some(address) = cpu.base(op) else { return };
    let address = address.wrapping_add(op.imm);
    let Some(value) = cpu.load::<LOG2>(address) else { return };
    cpu.w(op.n, address);
    cpu.w(op.d, extended::<LOG2, EXTENSION>(value));
}

fn store_pre<const LOG2: usize>(cpu: &mut Cpu, op: &Op) {
    let Some(address) = cpu.base(op) else { return };
    let address = address.wrapping_add(op.imm);
    let value = cpu.r(op.d);
    if cpu.store::<LOG2>(address, value).is_some() {
        cpu.w(op.n, address);
    }
}

fn load_unprivileged<const LOG2: usize, const EXTENSION: u8>(cpu: &mut Cpu, op: &Op) {
    let Some(address) = cpu.base(op) else { return };
    let table = cpu.tlb.table_for(0);
    let Some(value) = cpu.load_in::<LOG2>(table, address.wrapping_add(op.imm)) else { return };
    cpu.w(op.d, extended::<LOG2, EXTENSION>(value));
}

fn store_unprivileged<const LOG2: usize>(cpu: &mut Cpu, op: &Op) {
    let Some(address) = cpu.base(op) else { return };
    let table = cpu.tlb.table_for(0);
    let value = cpu.r(op.d);
    cpu.store_in::<LOG2>(table, address.wrapping_add(op.imm), value);
}

fn load_register<const LOG2: usize, const EXTENSION: u8>(cpu: &mut Cpu, op: &Op) {
    let Some(address) = cpu.base(op) else { return };
    let offset = extend(cpu.r(op.m), op.imm as u8) << (op.a & 3);
    load_at::<LOG2, EXTENSION>(cpu, op, address.wrapping_add(offset));
}

fn store_register<const LOG2: usize>(cpu: &mut Cpu, op: &Op) {
    let Some(address) = cpu.base(op) else { return };
    let offset = extend(cpu.r(op.m), op.imm as u8) << (op.a & 3);
    store_at::<LOG2>(cpu, op, address.wrapping_add(offset));
}

fn load_literal<const LOG2: usize, const EXTENSION: u8>(cpu: &mut Cpu, op: &Op) {
    let address = cpu.this_pc().wrapping_add(op.imm);
    let Some(value) = cpu.load::<LOG2>(address) else { return };
    cpu.w(op.d, extended::<LOG2, EXTENSION>(value));
}
