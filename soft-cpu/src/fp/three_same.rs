// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! "Advanced SIMD three same" and its scalar form: `Vd = f(Vn, Vm)` lane by lane on lanes of one size, integers and
//! dispatch (C4.1.96). The floating-point half of the opcode space is in `three_same_float`.
//!
//! [`integer`] names the operation of an encoding; [`vector`] and [`scalar`] say which sizes each form allows. The
//! indexed-element class reuses the same operations.

use super::data::{Fields, three_registers};
use super::float::Env;
use super::integer::{Shift, doubling_high, extend, polynomial, saturate};
use super::lanes::{Shape, Size, map2, map2_signed, map3, pairwise, truth};
use super::state::{Execute, Machine, handler};
use super::three_same_float;

/// An operation on whole registers: `d` (the old destination), `n`, `m`.
pub type Operation = fn(&mut Env, Shape, u128, u128, u128) -> u128;

/// Decodes the vector form.
pub fn vector<M: Machine>(word: u32) -> Option<Execute<M>> {
    let fields = Fields(word);
    let shape = Shape::vector(fields.size(), fields.q());
    if fields.bits(11, 5) >= 0b11000 {
        let shape = Shape::vector(three_same_float::size(word), fields.q());
        three_same_float::operation(word)?;
        return (shape.count() > 1).then_some(handler!(execute_float_vector));
    }
    integer(word)?;
    let allowed = match fields.bits(11, 5) {
        // Logical operations: `size` is part of the opcode.
        0b00011 => true,
        0b00000 | 0b00010 | 0b00100 | 0b01100..=0b01111 | 0b10010 | 0b10100 | 0b10101 => {
            shape.size != Size::D
        }
        0b10011 if fields.u() => shape.size == Size::B,
        0b10011 => shape.size != Size::D,
        0b10110 => matches!(shape.size, Size::H | Size::S),
        _ => shape.count() > 1,
    };
    allowed.then_some(handler!(execute_vector))
}

/// Decodes the scalar form.
pub fn scalar<M: Machine>(word: u32) -> Option<Execute<M>> {
    let fields = Fields(word);
    if fields.bits(11, 5) >= 0b11000 {
        three_same_float::operation(word)?;
        return three_same_float::has_scalar(word).then_some(handler!(execute_float_scalar));
    }
    integer(word)?;
    let allowed = match fields.bits(11, 5) {
        0b00001 | 0b00101 | 0b01001 | 0b01011 => true,
        0b00110 | 0b00111 | 0b01000 | 0b01010 | 0b10000 | 0b10001 => fields.size() == Size::D,
        0b10110 => matches!(fields.size(), Size::H | Size::S),
        _ => false,
    };
    allowed.then_some(handler!(execute_scalar))
}

fn execute_vector<M: Machine>(machine: &mut M, word: u32) {
    let fields = Fields(word);
    three_registers(machine, word, integer(word), Shape::vector(fields.size(), fields.q()));
}

fn execute_scalar<M: Machine>(machine: &mut M, word: u32) {
    three_registers(machine, word, integer(word), Shape::scalar(Fields(word).size()));
}

fn execute_float_vector<M: Machine>(machine: &mut M, word: u32) {
    let shape = Shape::vector(three_same_float::size(word), Fields(word).q());
    three_registers(machine, word, three_same_float::operation(word), shape);
}

fn execute_float_scalar<M: Machine>(machine: &mut M, word: u32) {
    three_registers(
        machine,
        word,
        three_same_float::operation(word),
        Shape::scalar(three_same_float::size(word)),
    );
}

/// The integer operation of an encoding, whatever its size.
fn integer(word: u32) -> Option<Operation> {
    let fields = Fields(word);
    Some(match (fields.u(), fields.bits(11, 5)) {
        (false, 0b00000) => |_, shape, _, n, m| map2_signed(shape, n, m, |n, m| (n + m) >> 1),
        (true, 0b00000) => |_, shape, _, n, m| map2(shape, n, m, |n, m| (n + m) >> 1),
        (false, 0b00001) => |env, shape, _, n, m| add_saturating(env, shape, true, n, m),
        (true, 0b00001) => |env, shape, _, n, m| add_saturating(env, shape, false, n, m),
        (false, 0b00010) => |_, shape, _, n, m| map2_signed(shape, n, m, |n, m| (n + m + 1) >> 1),
        (true, 0b00010) => |_, shape, _, n, m| map2(shape, n, m, |n, m| (n + m + 1) >> 1),
        (u, 0b00011) => return Some(logical(u, fields.bits(22, 2))),
        (false, 0b00100) => |_, shape, _, n, m| map2_signed(shape, n, m, |n, m| (n - m) >> 1),
        (true, 0b00100) => |_, shape, _, n, m| map2(shape, n, m, |n, m| n.wrapping_sub(m) >> 1),
        (false, 0b00101) => |env, shape, _, n, m| sub_saturating(env, shape, true, n, m),
        (true, 0b00101) => |env, shape, _, n, m| sub_saturating(env, shape, false, n, m),
        (false, 0b00110) => |_, shape, _, n, m| map2_signed(shape, n, m, |n, m| truth(n > m) as i64),
        (true, 0b00110) => |_, shape, _, n, m| map2(shape, n, m, |n, m| truth(n > m)),
        (false, 0b00111) => |_, shape, _, n, m| map2_signed(shape, n, m, |n, m| truth(n >= m) as i64),
        (true, 0b00111) => |_, shape, _, n, m| map2(shape, n, m, |n, m| truth(n >= m)),
        (u, opcode @ 0b01000..=0b01011) => return Some(variable_shift(u, opcode)),
        (false, 0b01100) => |_, shape, _, n, m| map2_signed(shape, n, m, i64::max),
        (true, 0b01100) => |_, shape, _, n, m| map2(shape, n, m, u64::max),
        (false, 0b01101) => |_, shape, _, n, m| map2_signed(shape, n, m, i64::min),
        (true, 0b01101) => |_, shape, _, n, m| map2(shape, n, m, u64::min),
        (false, 0b01110) => |_, shape, _, n, m| map2_signed(shape, n, m, |n, m| n.abs_diff(m) as i64),
        (true, 0b01110) => |_, shape, _, n, m| map2(shape, n, m, u64::abs_diff),
        (false, 0b01111) => |_, shape, d, n, m| {
            let size = shape.size;
            map3(shape, d, n, m, |d, n, m| d.wrapping_add(size.signed(n).abs_diff(size.signed(m))))
        },
        (true, 0b01111) => |_, shape, d, n, m| map3(shape, d, n, m, |d, n, m| d.wrapping_add(n.abs_diff(m))),
        (false, 0b10000) => |_, shape, _, n, m| map2(shape, n, m, u64::wrapping_add),
        (true, 0b10000) => |_, shape, _, n, m| map2(shape, n, m, u64::wrapping_sub),
        (false, 0b10001) => |_, shape, _, n, m| map2(shape, n, m, |n, m| truth(n & m != 0)),
        (true, 0b10001) => |_, shape, _, n, m| map2(shape, n, m, |n, m| truth(n == m)),
        (false, 0b10010) => multiply_add,
        (true, 0b10010) => multiply_sub,
        (false, 0b10011) => multiply,
        (true, 0b10011) => |_, shape, _, n, m| map2(shape, n, m, polynomial),
        (false, 0b10100) => |_, shape, _, n, m| pairwise_signed(shape, n, m, i64::max),
        (true, 0b10100) => |_, shape, _, n, m| pairwise(shape, n, m, u64::max),
        (false, 0b10101) => |_, shape, _, n, m| pairwise_signed(shape, n, m, i64::min),
        (true, 0b10101) => |_, shape, _, n, m| pairwise(shape, n, m, u64::min),
        (false, 0b10110) => doubling_multiply_high,
        (true, 0b10110) => rounding_doubling_multiply_high,
        (false, 0b10111) => |_, shape, _, n, m| pairwise(shape, n, m, u64::wrapping_add),
        _ => return None,
    })
}

fn logical(u: bool, opcode: u32) -> Operation {
    match (u, opcode) {
        (false, 0b00) => |_, shape, _, n, m| n & m & shape.mask(),
        (false, 0b01) => |_, shape, _, n, m| n & !m & shape.mask(),
        (false, 0b10) => |_, shape, _, n, m| (n | m) & shape.mask(),
        (false, _) => |_, shape, _, n, m| (n | !m) & shape.mask(),
        (true, 0b00) => |_, shape, _, n, m| (n ^ m) & shape.mask(),
        // BSL, BIT and BIF differ in which register selects.
        (true, 0b01) => |_, shape, d, n, m| (m ^ (m ^ n) & d) & shape.mask(),
        (true, 0b10) => |_, shape, d, n, m| (d ^ (d ^ n) & m) & shape.mask(),
        (true, _) => |_, shape, d, n, m| (d ^ (d ^ n) & !m) & shape.mask(),
    }
}

/// SSHL, SQSHL, SRSHL, SQRSHL and the unsigned ones: bit 0 of the opcode saturates, bit 1 rounds.
fn variable_shift(u: bool, opcode: u32) -> Operation {
    fn shift<const SIGNED: bool, const OPCODE: u32>(
        env: &mut Env,
        shape: Shape,
        _: u128,
        n: u128,
        m: u128,
    ) -> u128 {
        let shift = Shift { signed: SIGNED, rounding: OPCODE & 2 != 0, saturating: OPCODE & 1 != 0 };
        // The amount is the lowest byte of the lane, signed.
        map2(shape, n, m, |n, m| shift.apply(env, shape.size, n, i32::from(m as i8)))
    }
    match (u, opcode & 3) {
        (false, 0) => shift::<true, 0>,
        (false, 1) => shift::<true, 1>,
        (false, 2) => shift::<true, 2>,
        (false, _) => shift::<true, 3>,
        (true, 0) => shift::<false, 0>,
        (true, 1) => shift::<false, 1>,
        (true, 2) => shift::<false, 2>,
        (true, _) => shift::<false, 3>,
    }
}

fn add_saturating(env: &mut Env, shape: Shape, signed: bool, n: u128, m: u128) -> u128 {
    let size = shape.size;
    map2(shape, n, m, |n, m| saturate(env, size, signed, extend(size, signed, n) + extend(size, signed, m)))
}

fn sub_saturating(env: &mut Env, shape: Shape, signed: bool, n: u128, m: u128) -> u128 {
    let size = shape.size;
    map2(shape, n, m, |n, m| saturate(env, size, signed, extend(size, signed, n) - extend(size, signed, m)))
}

fn pairwise_signed(shape: Shape, n: u128, m: u128, f: fn(i64, i64) -> i64) -> u128 {
    pairwise(shape, n, m, |a, b| f(shape.size.signed(a), shape.size.signed(b)) as u64)
}

/// MLA.
pub fn multiply_add(_: &mut Env, shape: Shape, d: u128, n: u128, m: u128) -> u128 {
    map3(shape, d, n, m, |d, n, m| d.wrapping_add(n.wrapping_mul(m)))
}

/// MLS.
pub fn multiply_sub(_: &mut Env, shape: Shape, d: u128, n: u128, m: u128) -> u128 {
    map3(shape, d, n, m, |d, n, m| d.wrapping_sub(n.wrapping_mul(m)))
}

/// MUL.
pub fn multiply(_: &mut Env, shape: Shape, _: u128, n: u128, m: u128) -> u128 {
    map2(shape, n, m, u64::wrapping_mul)
}

/// SQDMULH.
pub fn doubling_multiply_high(env: &mut Env, shape: Shape, _: u128, n: u128, m: u128) -> u128 {
    map2(shape, n, m, |n, m| doubling_high(env, shape.size, false, n, m))
}

/// SQRDMULH.
pub fn rounding_doubling_multiply_high(env: &mut Env, shape: Shape, _: u128, n: u128, m: u128) -> u128 {
    map2(shape, n, m, |n, m| doubling_high(env, shape.size, true, n, m))
}
