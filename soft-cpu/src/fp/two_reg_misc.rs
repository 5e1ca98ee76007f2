// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! "Advanced SIMD two-register miscellaneous" and its scalar form: functions of one operand, the integer ones and
//! dispatch. The floating-point half of the opcode space is in `two_reg_misc_float`.

use super::data::{Fields, with_operands};
use super::float::Env;
use super::integer::{extend, leading_sign_bits, leading_zeros, saturate};
use super::lanes::{Shape, Size, build, lane, map, map2, truth};
use super::state::{Execute, Machine, handler};
use super::three_different::{half, write_half};
use super::two_reg_misc_float;

/// An operation on whole registers: `d` (the old destination) and `n`.
type Operation = fn(&mut Env, Shape, u128, u128) -> u128;

/// Decodes the vector form.
pub fn vector<M: Machine>(word: u32) -> Option<Execute<M>> {
    let fields = Fields(word);
    let (size, not_double) = (fields.size(), fields.size() != Size::D);
    let allowed = match (fields.u(), fields.bits(12, 5)) {
        (false, 0b00000) => not_double,
        (true, 0b00000) => size < Size::S,
        (false, 0b00001 | 0b00101) => size == Size::B,
        (_, 0b00010 | 0b00100 | 0b00110) => not_double,
        (true, 0b00101) => size < Size::S,
        (_, 0b00011 | 0b00111..=0b01001 | 0b01011) | (false, 0b01010) => {
            Shape::vector(size, fields.q()).count() > 1
        }
        (_, 0b10010 | 0b10100) => return not_double.then_some(handler!(execute_narrow)),
        (true, 0b10011) => return not_double.then_some(handler!(execute_shift_left_long)),
        _ => return two_reg_misc_float::vector(word),
    };
    allowed.then_some(handler!(execute_vector))
}

/// Decodes the scalar form.
pub fn scalar<M: Machine>(word: u32) -> Option<Execute<M>> {
    let fields = Fields(word);
    match (fields.u(), fields.bits(12, 5)) {
        (_, 0b00011 | 0b00111) => Some(handler!(execute_scalar)),
        (_, 0b01000 | 0b01001 | 0b01011) | (false, 0b01010) => {
            (fields.size() == Size::D).then_some(handler!(execute_scalar))
        }
        (true, 0b10010) | (_, 0b10100) => {
            (fields.size() != Size::D).then_some(handler!(execute_narrow_scalar))
        }
        _ => two_reg_misc_float::scalar(word),
    }
}

fn execute_vector<M: Machine>(machine: &mut M, word: u32) {
    execute(machine, word, Shape::vector(Fields(word).size(), Fields(word).q()));
}

fn execute_scalar<M: Machine>(machine: &mut M, word: u32) {
    execute(machine, word, Shape::scalar(Fields(word).size()));
}

fn execute<M: Machine>(machine: &mut M, word: u32, shape: Shape) {
    with_operands(machine, word, |env, d, n| match operation(word) {
        Some(operation) => operation(env, shape, d, n),
        None => d,
    });
}

fn operation(word: u32) -> Option<Operation> {
    let fields = Fields(word);
    Some(match (fields.u(), fields.bits(12, 5)) {
        (false, 0b00000) => |_, shape, _, n| reverse(shape, n, 64),
        (true, 0b00000) => |_, shape, _, n| reverse(shape, n, 32),
        (false, 0b00001) => |_, shape, _, n| reverse(shape, n, 16),
        (false, 0b00010) => |_, shape, _, n| add_pairs(shape, true, 0, n),
        (true, 0b00010) => |_, shape, _, n| add_pairs(shape, false, 0, n),
        (false, 0b00011) => |env, shape, d, n| accumulate_saturating(env, shape, true, d, n),
        (true, 0b00011) => |env, shape, d, n| accumulate_saturating(env, shape, false, d, n),
        (false, 0b00100) => |_, shape, _, n| map(shape, n, |n| leading_sign_bits(shape.size, n)),
        (true, 0b00100) => |_, shape, _, n| map(shape, n, |n| leading_zeros(shape.size, n)),
        (false, 0b00101) => |_, shape, _, n| map(shape, n, |n| n.count_ones().into()),
        (true, 0b00101) => |_, shape, _, n| match shape.size {
            Size::B => !n & shape.mask(),
            // RBIT works on bytes although its size field says otherwise.
            _ => map(Shape { size: Size::B, ..shape }, n, |n| u64::from((n as u8).reverse_bits())),
        },
        (false, 0b00110) => |_, shape, d, n| add_pairs(shape, true, d, n),
        (true, 0b00110) => |_, shape, d, n| add_pairs(shape, false, d, n),
        (false, 0b00111) => |env, shape, _, n| magnitude_saturating(env, shape, n, i128::abs),
        (true, 0b00111) => |env, shape, _, n| magnitude_saturating(env, shape, n, |n| -n),
        (false, 0b01000) => |_, shape, _, n| test(shape, n, |n| n > 0),
        (true, 0b01000) => |_, shape, _, n| test(shape, n, |n| n >= 0),
        (false, 0b01001) => |_, shape, _, n| test(shape, n, |n| n == 0),
        (true, 0b01001) => |_, shape, _, n| test(shape, n, |n| n <= 0),
        (false, 0b01010) => |_, shape, _, n| test(shape, n, |n| n < 0),
        (false, 0b01011) => |_, shape, _, n| map(shape, n, |n| shape.size.signed(n).unsigned_abs()),
        (true, 0b01011) => |_, shape, _, n| map(shape, n, u64::wrapping_neg),
        _ => return None,
    })
}

#[inline]
fn test(shape: Shape, n: u128, f: impl Fn(i64) -> bool) -> u128 {
    map(shape, n, |n| truth(f(shape.size.signed(n))))
}

/// Reverses the lanes inside each container of `container` bits.
fn reverse(shape: Shape, n: u128, container: u32) -> u128 {
    let flip = container / shape.size.bits() - 1;
    build(shape, |index| lane(n, shape.size, index ^ flip))
}

/// SADDLP and SADALP: sums of neighbours, in lanes of twice the width, onto `d`.
fn add_pairs(shape: Shape, signed: bool, d: u128, n: u128) -> u128 {
    let wide = Shape { size: shape.size.doubled().unwrap_or(Size::D), ..shape };
    build(wide, |index| {
        let part = |at| extend(shape.size, signed, lane(n, shape.size, at)) as u64;
        lane(d, wide.size, index).wrapping_add(part(2 * index)).wrapping_add(part(2 * index + 1))
    })
}

/// SUQADD (signed sum, unsigned addend) and USQADD (the reverse).
fn accumulate_saturating(env: &mut Env, shape: Shape, signed: bool, d: u128, n: u128) -> u128 {
    let size = shape.size;
    map2(shape, d, n, |d, n| saturate(env, size, signed, extend(size, signed, d) + extend(size, !signed, n)))
}

fn magnitude_saturating(env: &mut Env, shape: Shape, n: u128, f: fn(i128) -> i128) -> u128 {
    map(shape, n, |n| saturate(env, shape.size, true, f(extend(shape.size, true, n))))
}

/// XTN, SQXTUN, SQXTN, UQXTN.
fn execute_narrow<M: Machine>(machine: &mut M, word: u32) {
    let fields = Fields(word);
    let shape = Shape::vector(fields.size(), false);
    with_operands(machine, word, |env, d, n| write_half(d, narrow(env, word, shape, n), fields.q()));
}

fn execute_narrow_scalar<M: Machine>(machine: &mut M, word: u32) {
    let shape = Shape::scalar(Fields(word).size());
    with_operands(machine, word, |env, _, n| narrow(env, word, shape, n));
}

fn narrow(env: &mut Env, word: u32, shape: Shape, n: u128) -> u128 {
    let fields = Fields(word);
    let wide = shape.size.doubled().unwrap_or(Size::D);
    build(shape, |index| {
        let value = lane(n, wide, index);
        match (fields.u(), fields.bits(12, 5)) {
            (false, 0b10010) => value,
            (true, 0b10010) => saturate(env, shape.size, false, extend(wide, true, value)),
            (u, _) => saturate(env, shape.size, !u, extend(wide, !u, value)),
        }
    })
}

/// SHLL: widens and shifts left by the narrow width.
fn execute_shift_left_long<M: Machine>(machine: &mut M, word: u32) {
    let (fields, size) = (Fields(word), Fields(word).size());
    let wide = Shape::vector(size.doubled().unwrap_or(Size::D), true);
    with_operands(machine, word, |_, _, n| {
        let n = half(n, fields.q());
        build(wide, |index| lane(n, size, index) << size.bits())
    });
}
