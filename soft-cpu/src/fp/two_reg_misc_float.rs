// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The floating-point operations of "two-register miscellaneous", vector and scalar: rounding, conversion, comparison
//! with zero, estimates, and the lengthening and narrowing converts. Called by `two_reg_misc`.
//!
//! `U` and the upper bit of `size` belong to the opcode; the lower bit of `size` is the format.

use super::data::{Fields, format, with_operands};
use super::float::compare::{equal, greater, greater_equal};
use super::float::convert::{Integer, convert, from_fixed, round_to_integral, to_fixed};
use super::float::{Env, Format, Rounding, absolute, estimate, negate, sqrt};
use super::lanes::{Shape, Size, build, lane, map, truth};
use super::state::{Execute, Machine, handler};
use super::three_different::{half, write_half};
use super::three_same_float;

/// A floating-point function of one lane.
type Unary = fn(&mut Env, Format, u64) -> u64;

/// Decodes the vector form.
pub fn vector<M: Machine>(word: u32) -> Option<Execute<M>> {
    let fields = Fields(word);
    match (fields.u(), fields.bit(23), fields.bits(12, 5)) {
        (false, false, 0b10110) => Some(handler!(execute_convert_narrow)),
        (true, false, 0b10110) => fields.bit(22).then_some(handler!(execute_convert_narrow)),
        (false, false, 0b10111) => Some(handler!(execute_convert_long)),
        // URECPE and URSQRTE work on 32-bit integers.
        (_, true, 0b11100) => (!fields.bit(22)).then_some(handler!(execute_vector)),
        // FRECPX is scalar only.
        (false, true, 0b11111) => None,
        _ => {
            operation(word)?;
            let shape = Shape::vector(three_same_float::size(word), fields.q());
            (shape.count() > 1).then_some(handler!(execute_vector))
        }
    }
}

/// Decodes the scalar form.
pub fn scalar<M: Machine>(word: u32) -> Option<Execute<M>> {
    let fields = Fields(word);
    match (fields.u(), fields.bit(23), fields.bits(12, 5)) {
        (true, false, 0b10110) => fields.bit(22).then_some(handler!(execute_convert_narrow_scalar)),
        (_, false, 0b11010..=0b11101)
        | (_, true, 0b01100 | 0b01101 | 0b11010 | 0b11011 | 0b11101)
        | (false, true, 0b01110 | 0b11111) => {
            operation(word)?;
            Some(handler!(execute_scalar))
        }
        _ => None,
    }
}

fn execute_vector<M: Machine>(machine: &mut M, word: u32) {
    execute(machine, word, Shape::vector(three_same_float::size(word), Fields(word).q()));
}

fn execute_scalar<M: Machine>(machine: &mut M, word: u32) {
    execute(machine, word, Shape::scalar(three_same_float::size(word)));
}

fn execute<M: Machine>(machine: &mut M, word: u32, shape: Shape) {
    with_operands(machine, word, |env, d, n| match operation(word) {
        Some(f) => map(shape, n, |n| f(env, format(shape.size), n)),
        None => d,
    });
}

fn operation(word: u32) -> Option<Unary> {
    let fields = Fields(word);
    Some(match (fields.u(), fields.bit(23), fields.bits(12, 5)) {
        (false, true, 0b01100) => |env, format, n| truth(greater(env, format, n, 0)),
        (true, true, 0b01100) => |env, format, n| truth(greater_equal(env, format, n, 0)),
        (false, true, 0b01101) => |env, format, n| truth(equal(env, format, n, 0)),
        (true, true, 0b01101) => |env, format, n| truth(greater_equal(env, format, 0, n)),
        (false, true, 0b01110) => |env, format, n| truth(greater(env, format, 0, n)),
        (false, true, 0b01111) => |_, format, n| absolute(format, n),
        (true, true, 0b01111) => |_, format, n| negate(format, n),
        (false, false, 0b11000) => |env, format, n| integral(env, format, n, Some(Rounding::TieEven)),
        (false, true, 0b11000) => |env, format, n| integral(env, format, n, Some(Rounding::Up)),
        (false, false, 0b11001) => |env, format, n| integral(env, format, n, Some(Rounding::Down)),
        (false, true, 0b11001) => |env, format, n| integral(env, format, n, Some(Rounding::Zero)),
        (true, false, 0b11000) => |env, format, n| integral(env, format, n, Some(Rounding::TieAway)),
        (true, false, 0b11001) => |env, format, n| round_to_integral(env, format, n, true),
        (true, true, 0b11001) => |env, format, n| integral(env, format, n, None),
        (false, false, 0b11010) => |env, format, n| to_integer(env, format, n, true, Rounding::TieEven),
        (true, false, 0b11010) => |env, format, n| to_integer(env, format, n, false, Rounding::TieEven),
        (false, true, 0b11010) => |env, format, n| to_integer(env, format, n, true, Rounding::Up),
        (true, true, 0b11010) => |env, format, n| to_integer(env, format, n, false, Rounding::Up),
        (false, false, 0b11011) => |env, format, n| to_integer(env, format, n, true, Rounding::Down),
        (true, false, 0b11011) => |env, format, n| to_integer(env, format, n, false, Rounding::Down),
        (false, true, 0b11011) => |env, format, n| to_integer(env, format, n, true, Rounding::Zero),
        (true, true, 0b11011) => |env, format, n| to_integer(env, format, n, false, Rounding::Zero),
        (false, false, 0b11100) => |env, format, n| to_integer(env, format, n, true, Rounding::TieAway),
        (true, false, 0b11100) => |env, format, n| to_integer(env, format, n, false, Rounding::TieAway),
        (false, false, 0b11101) => |env, format, n| from_integer(env, format, n, true),
        (true, false, 0b11101) => |env, format, n| from_integer(env, format, n, false),
        (false, true, 0b11100) => |_, _, n| estimate::unsigned_reciprocal(n as u32).into(),
        (true, true, 0b11100) => |_, _, n| estimate::unsigned_reciprocal_root(n as u32).into(),
        (false, true, 0b11101) => estimate::reciprocal_estimate,
        (true, true, 0b11101) => estimate::reciprocal_root_estimate,
        (false, true, 0b11111) => estimate::reciprocal_exponent,
        (true, true, 0b11111) => sqrt,
        _ => return None,
    })
}

fn integral(env: &mut Env, format: Format, n: u64, rounding: Option<Rounding>) -> u64 {
    let rounding = rounding.unwrap_or(env.rounding);
    env.rounded(rounding, |env| round_to_integral(env, format, n, false))
}

fn to_integer(env: &mut Env, format: Format, n: u64, signed: bool, rounding: Rounding) -> u64 {
    let integer = Integer { bits: format.bits(), signed };
    env.rounded(rounding, |env| to_fixed(env, format, n, integer, 0))
}

fn from_integer(env: &mut Env, format: Format, n: u64, signed: bool) -> u64 {
    from_fixed(env, format, n, Integer { bits: format.bits(), signed }, 0)
}

/// FCVTN and, with `U`, FCVTXN.
fn execute_convert_narrow<M: Machine>(machine: &mut M, word: u32) {
    let fields = Fields(word);
    let shape = Shape::vector(narrow_size(word), false);
    with_operands(machine, word, |env, d, n| write_half(d, convert_narrow(env, word, shape, n), fields.q()));
}

fn execute_convert_narrow_scalar<M: Machine>(machine: &mut M, word: u32) {
    let shape = Shape::scalar(narrow_size(word));
    with_operands(machine, word, |env, _, n| convert_narrow(env, word, shape, n));
}

fn narrow_size(word: u32) -> Size {
    if Fields(word).bit(22) { Size::S } else { Size::H }
}

fn wide_size(word: u32) -> Size {
    if Fields(word).bit(22) { Size::D } else { Size::S }
}

fn convert_narrow(env: &mut Env, word: u32, shape: Shape, n: u128) -> u128 {
    let wide = wide_size(word);
    let rounding = if Fields(word).u() { Rounding::Odd } else { env.rounding };
    env.rounded(rounding, |env| {
        build(shape, |index| convert(env, format(wide), format(shape.size), lane(n, wide, index)))
    })
}

/// FCVTL.
fn execute_convert_long<M: Machine>(machine: &mut M, word: u32) {
    let (fields, narrow) = (Fields(word), narrow_size(word));
    let wide = Shape::vector(wide_size(word), true);
    with_operands(machine, word, |env, _, n| {
        let n = half(n, fields.q());
        build(wide, |index| convert(env, format(narrow), format(wide.size), lane(n, narrow, index)))
    });
}
