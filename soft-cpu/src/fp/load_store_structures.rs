// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! LD1-LD4 and ST1-ST4 of multiple and of single structures, LD1R-LD4R, with post-index (C4.1.66: "Advanced SIMD
//! load/store multiple structures", "single structure").
//!
//! An element that aborts leaves the registers of a load unwritten and the base unchanged; elements stored before it
//! stay stored, which the architecture allows.

use super::data::Fields;
use super::lanes::{Shape, Size, lane, splat, with_lane};
use super::state::{Aborted, Execute, Machine, handler};

/// Decodes the multiple structures class, with and without post-index.
pub fn multiple<M: Machine>(word: u32) -> Option<Execute<M>> {
    let fields = Fields(word);
    // Without post-index the register field is zero.
    if fields.bit(21) || !fields.bit(23) && fields.rm() != 0 {
        return None;
    }
    let (_, interleaved) = structure(word)?;
    let single_lane = fields.bits(10, 2) == 3 && !fields.q();
    (interleaved == 1 || !single_lane).then_some(handler!(access_multiple))
}

/// How often the structure repeats, and of how many registers it consists.
fn structure(word: u32) -> Option<(u32, u32)> {
    match Fields(word).bits(12, 4) {
        0b0000 => Some((1, 4)),
        0b0010 => Some((4, 1)),
        0b0100 => Some((1, 3)),
        0b0110 => Some((3, 1)),
        0b0111 => Some((1, 1)),
        0b1000 => Some((1, 2)),
        0b1010 => Some((2, 1)),
        _ => None,
    }
}

/// What a single-structure encoding means.
struct Single {
    size: Size,
    lane: u32,
    replicate: bool,
    registers: u32,
}

/// Decodes the single structure class, with and without post-index.
pub fn single<M: Machine>(word: u32) -> Option<Execute<M>> {
    let fields = Fields(word);
    if !fields.bit(23) && fields.rm() != 0 {
        return None;
    }
    structure_of_lane(word)?;
    Some(handler!(access_single))
}

fn structure_of_lane(word: u32) -> Option<Single> {
    let fields = Fields(word);
    let (q, s, size) = (fields.bits(30, 1), fields.bits(12, 1), fields.bits(10, 2));
    let registers = (fields.bits(13, 1) << 1 | fields.bits(21, 1)) + 1;
    let (size, lane, replicate) = match (fields.bits(14, 2), size) {
        (0, _) => (Size::B, q << 3 | s << 2 | size, false),
        (1, 0 | 2) => (Size::H, q << 2 | s << 1 | size >> 1, false),
        (2, 0) => (Size::S, q << 1 | s, false),
        (2, 1) if s == 0 => (Size::D, q, false),
        // Replication is for loads only.
        (3, _) if fields.bit(22) && s == 0 => (Size::from_bits(size), 0, true),
        _ => return None,
    };
    Some(Single { size, lane, replicate, registers })
}

/// Leaves the base register after `len` bytes, or after what the index register says.
fn post_index<M: Machine>(machine: &mut M, word: u32, base: u64, len: u32) {
    let fields = Fields(word);
    if fields.bit(23) {
        let step = if fields.rm() == 31 { u64::from(len) } else { machine.x(fields.rm()) };
        machine.set_base(fields.rn(), base.wrapping_add(step));
    }
}

fn access_multiple<M: Machine>(machine: &mut M, word: u32) {
    let Ok(base) = machine.base(Fields(word).rn()) else { return };
    if let Ok(len) = transfer_multiple(machine, word, base) {
        post_index(machine, word, base, len);
    }
}

/// Moves the structures; the bytes moved.
fn transfer_multiple<M: Machine>(machine: &mut M, word: u32, base: u64) -> Result<u32, Aborted> {
    let fields = Fields(word);
    let (repeats, interleaved) = structure(word).unwrap_or((1, 1));
    let first = fields.rd();
    let bytes = if fields.q() { 16 } else { 8 };
    if interleaved == 1 {
        return transfer_whole(machine, word, base, repeats);
    }
    let shape = Shape::vector(fields.size_at(10), fields.q());
    let step = shape.size.bytes();
    let mut registers = [0u128; 4];
    if !fields.bit(22) {
        for (at, register) in (0..).zip(&mut registers) {
            *register = machine.v(first + at);
        }
    }
    let mut address = base;
    for index in 0..shape.count() {
        for register in registers.iter_mut().take(interleaved as usize) {
            if fields.bit(22) {
                *register = with_lane(*register, shape.size, index, machine.load(address, step)? as u64);
            } else {
                machine.store(address, step, lane(*register, shape.size, index).into())?;
            }
            address = address.wrapping_add(step.into());
        }
    }
    if fields.bit(22) {
        for (at, register) in (0..interleaved).zip(registers) {
            machine.set_v(first + at, register);
        }
    }
    Ok(bytes * interleaved)
}

/// LD1 and ST1 of one to four registers: no interleaving, so whole registers are moved.
fn transfer_whole<M: Machine>(machine: &mut M, word: u32, base: u64, count: u32) -> Result<u32, Aborted> {
    let fields = Fields(word);
    let bytes = if fields.q() { 16 } else { 8 };
    let address = |at: u32| base.wrapping_add(u64::from(at * bytes));
    if !fields.bit(22) {
        for at in 0..count {
            machine.store(address(at), bytes, machine.v(fields.rd() + at))?;
        }
        return Ok(count * bytes);
    }
    let mut registers = [0u128; 4];
    for (at, register) in (0..count).zip(&mut registers) {
        *register = machine.load(address(at), bytes)?;
    }
    for (at, register) in (0..count).zip(registers) {
        machine.set_v(fields.rd() + at, register);
    }
    Ok(count * bytes)
}

fn access_single<M: Machine>(machine: &mut M, word: u32) {
    let Some(single) = structure_of_lane(word) else { return };
    let Ok(base) = machine.base(Fields(word).rn()) else { return };
    if transfer_single(machine, word, base, &single).is_ok() {
        post_index(machine, word, base, single.registers * single.size.bytes());
    }
}

fn transfer_single<M: Machine>(
    machine: &mut M,
    word: u32,
    base: u64,
    single: &Single,
) -> Result<(), Aborted> {
    let fields = Fields(word);
    let len = single.size.bytes();
    let address = |at: u32| base.wrapping_add(u64::from(at * len));
    if !fields.bit(22) {
        for at in 0..single.registers {
            let value = lane(machine.v(fields.rd() + at), single.size, single.lane);
            machine.store(address(at), len, value.into())?;
        }
        return Ok(());
    }
    let mut values = [0u64; 4];
    for (at, value) in (0..single.registers).zip(&mut values) {
        *value = machine.load(address(at), len)? as u64;
    }
    for (at, value) in (0..single.registers).zip(values) {
        let register = if single.replicate {
            splat(Shape::vector(single.size, fields.q()), value)
        } else {
            with_lane(machine.v(fields.rd() + at), single.size, single.lane, value)
        };
        machine.set_v(fields.rd() + at, register);
    }
    Ok(())
}
