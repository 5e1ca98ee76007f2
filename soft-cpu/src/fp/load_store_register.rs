// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Loads and stores of one or two SIMD&FP registers: literal, unscaled, pre- and post-indexed, register offset,
//! unsigned offset, and pairs with and without the non-temporal hint (C4.1.66 ff., the encodings with `V` set).
//!
//! Nothing is written, neither registers nor the base, unless every access of the instruction succeeded.

use super::data::Fields;
use super::state::{Aborted, Execute, Machine, handler};

/// Decodes the class "load register (literal)".
pub fn literal<M: Machine>(word: u32) -> Option<Execute<M>> {
    (Fields(word).bits(30, 2) != 3).then_some(handler!(load_literal))
}

/// Decodes the pair classes.
pub fn pair<M: Machine>(word: u32) -> Option<Execute<M>> {
    (Fields(word).bits(30, 2) != 3).then_some(handler!(access_pair))
}

/// Decodes the single register classes.
pub fn single<M: Machine>(word: u32) -> Option<Execute<M>> {
    let fields = Fields(word);
    // size:opc<1> is the binary logarithm of the length, at most 16 bytes.
    if fields.bit(23) && fields.bits(30, 2) != 0 {
        return None;
    }
    match (fields.bit(24), fields.bit(21), fields.bits(10, 2)) {
        (true, _, _) => Some(handler!(access_unsigned_offset)),
        // Option 0xx would extend from less than a word.
        (false, true, 0b10) => fields.bit(14).then_some(handler!(access_register_offset)),
        (false, false, 0b00) => Some(handler!(access_unscaled)),
        (false, false, 0b01) => Some(handler!(access_post_indexed)),
        (false, false, 0b11) => Some(handler!(access_pre_indexed)),
        _ => None,
    }
}

fn sign_extend(value: u32, width: u32) -> u64 {
    (i64::from(value) << (64 - width) >> (64 - width)) as u64
}

fn load_literal<M: Machine>(machine: &mut M, word: u32) {
    let fields = Fields(word);
    let address = machine.pc().wrapping_add(sign_extend(fields.bits(5, 19), 19) << 2);
    if let Ok(value) = machine.load(address, 4 << fields.bits(30, 2)) {
        machine.set_v(fields.rd(), value);
    }
}

fn log2(word: u32) -> u32 {
    Fields(word).bits(23, 1) << 2 | Fields(word).bits(30, 2)
}

/// Loads or stores Vt; whether that worked.
fn transfer<M: Machine>(machine: &mut M, word: u32, address: u64) -> Result<(), Aborted> {
    let (fields, len) = (Fields(word), 1 << log2(word));
    if fields.bit(22) {
        let value = machine.load(address, len)?;
        machine.set_v(fields.rd(), value);
        Ok(())
    } else {
        machine.store(address, len, machine.v(fields.rd()))
    }
}

fn at_offset<M: Machine>(machine: &mut M, word: u32, offset: u64) {
    if let Ok(base) = machine.base(Fields(word).rn()) {
        // An abort has been taken by the machine; there is nothing left to do here.
        let _ = transfer(machine, word, base.wrapping_add(offset));
    }
}

fn access_unsigned_offset<M: Machine>(machine: &mut M, word: u32) {
    at_offset(machine, word, u64::from(Fields(word).bits(10, 12)) << log2(word));
}

fn access_unscaled<M: Machine>(machine: &mut M, word: u32) {
    at_offset(machine, word, sign_extend(Fields(word).bits(12, 9), 9));
}

fn access_register_offset<M: Machine>(machine: &mut M, word: u32) {
    let fields = Fields(word);
    let offset = machine.x(fields.rm());
    let offset = match fields.bits(13, 3) {
        0b010 => offset & 0xffff_ffff,
        0b110 => offset as i32 as u64,
        _ => offset,
    };
    at_offset(machine, word, offset << if fields.bit(12) { log2(word) } else { 0 });
}

fn access_post_indexed<M: Machine>(machine: &mut M, word: u32) {
    with_write_back(machine, word, 0, sign_extend(Fields(word).bits(12, 9), 9), transfer);
}

fn access_pre_indexed<M: Machine>(machine: &mut M, word: u32) {
    let offset = sign_extend(Fields(word).bits(12, 9), 9);
    with_write_back(machine, word, offset, offset, transfer);
}

/// Accesses at `base + offset` and, if that worked, leaves `base + update` in the base register.
fn with_write_back<M: Machine>(
    machine: &mut M,
    word: u32,
    offset: u64,
    update: u64,
    access: fn(&mut M, u32, u64) -> Result<(), Aborted>,
) {
    let rn = Fields(word).rn();
    if let Ok(base) = machine.base(rn)
        && access(machine, word, base.wrapping_add(offset)).is_ok()
    {
        machine.set_base(rn, base.wrapping_add(update));
    }
}

fn access_pair<M: Machine>(machine: &mut M, word: u32) {
    let fields = Fields(word);
    let offset = sign_extend(fields.bits(15, 7), 7) << (2 + fields.bits(30, 2));
    match fields.bits(23, 2) {
        0b01 => with_write_back(machine, word, 0, offset, transfer_pair),
        0b11 => with_write_back(machine, word, offset, offset, transfer_pair),
        // Signed offset, or no-allocate.
        _ => {
            if let Ok(base) = machine.base(fields.rn()) {
                // As in `at_offset`.
                let _ = transfer_pair(machine, word, base.wrapping_add(offset));
            }
        }
    }
}

fn transfer_pair<M: Machine>(machine: &mut M, word: u32, address: u64) -> Result<(), Aborted> {
    let fields = Fields(word);
    let len = 4 << fields.bits(30, 2);
    let (first, second) = (fields.rd(), fields.bits(10, 5));
    let next = address.wrapping_add(u64::from(len));
    if fields.bit(22) {
        let low = machine.load(address, len)?;
        let high = machine.load(next, len)?;
        machine.set_v(first, low);
        machine.set_v(second, high);
        Ok(())
    } else {
        machine.store(address, len, machine.v(first))?;
        machine.store(next, len, machine.v(second))
    }
}
