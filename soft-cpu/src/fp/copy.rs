// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! "Advanced SIMD copy": DUP, INS, SMOV, UMOV and the scalar DUP (MOV).
//!
//! `imm5` holds the element size as its lowest set bit and the element's index above it.

use super::data::{Fields, with_operands};
use super::lanes::{Shape, Size, lane, splat, with_lane};
use super::state::{Execute, Machine, handler};

/// Element size and index of `imm5`.
fn element(word: u32) -> Option<(Size, u32)> {
    let imm5 = Fields(word).bits(16, 5);
    let size = Size::from_lowest_bit(imm5)?;
    Some((size, imm5 >> (size as u32 + 1)))
}

/// The same once [`vector`] or [`scalar`] has accepted the encoding.
fn known_element(word: u32) -> (Size, u32) {
    element(word).unwrap_or((Size::D, 0))
}

/// Decodes the vector form.
pub fn vector<M: Machine>(word: u32) -> Option<Execute<M>> {
    let fields = Fields(word);
    let (size, _) = element(word)?;
    if fields.u() {
        return fields.q().then_some(handler!(insert_element));
    }
    match fields.bits(11, 4) {
        0b0000 => (size != Size::D || fields.q()).then_some(handler!(duplicate_element)),
        0b0001 => (size != Size::D || fields.q()).then_some(handler!(duplicate_general)),
        0b0011 => fields.q().then_some(handler!(insert_general)),
        0b0101 => (size < if fields.q() { Size::D } else { Size::S }).then_some(handler!(move_signed)),
        0b0111 => ((size == Size::D) == fields.q()).then_some(handler!(move_unsigned)),
        _ => None,
    }
}

/// Decodes the scalar form.
pub fn scalar<M: Machine>(word: u32) -> Option<Execute<M>> {
    let fields = Fields(word);
    element(word)?;
    (!fields.u() && fields.bits(11, 4) == 0).then_some(handler!(duplicate_scalar))
}

fn duplicate_element<M: Machine>(machine: &mut M, word: u32) {
    let (size, index) = known_element(word);
    with_operands(machine, word, |_, _, n| {
        splat(Shape::vector(size, Fields(word).q()), lane(n, size, index))
    });
}

fn duplicate_scalar<M: Machine>(machine: &mut M, word: u32) {
    let (size, index) = known_element(word);
    with_operands(machine, word, |_, _, n| u128::from(lane(n, size, index)));
}

fn duplicate_general<M: Machine>(machine: &mut M, word: u32) {
    let fields = Fields(word);
    let (size, _) = known_element(word);
    let value = splat(Shape::vector(size, fields.q()), machine.x(fields.rn()));
    machine.set_v(fields.rd(), value);
}

fn insert_general<M: Machine>(machine: &mut M, word: u32) {
    let fields = Fields(word);
    let (size, index) = known_element(word);
    let value = machine.x(fields.rn());
    with_operands(machine, word, |_, d, _| with_lane(d, size, index, value));
}

fn insert_element<M: Machine>(machine: &mut M, word: u32) {
    let (size, index) = known_element(word);
    let source = Fields(word).bits(11, 4) >> size as u32;
    with_operands(machine, word, |_, d, n| with_lane(d, size, index, lane(n, size, source)));
}

/// SMOV.
fn move_signed<M: Machine>(machine: &mut M, word: u32) {
    let fields = Fields(word);
    let (size, index) = known_element(word);
    let value = size.signed(lane(machine.v(fields.rn()), size, index)) as u64;
    machine.set_x(fields.rd(), if fields.q() { value } else { value & Size::S.mask() });
}

/// UMOV.
fn move_unsigned<M: Machine>(machine: &mut M, word: u32) {
    let fields = Fields(word);
    let (size, index) = known_element(word);
    let value = lane(machine.v(fields.rn()), size, index);
    machine.set_x(fields.rd(), value);
}
