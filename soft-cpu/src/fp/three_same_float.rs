// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The floating-point operations of "three same": opcodes 11000 and up, told apart by `U` and the upper bit of `size`,
//! whose lower bit is the format. Called by `three_same`; the multiplies are shared with the indexed-element class.

use super::data::{Fields, format};
use super::float::compare::{self, equal, greater, greater_equal};
use super::float::{self, Env, Format, absolute, estimate, negate};
use super::lanes::{Shape, Size, map2, map3, pairwise, truth};
use super::three_same::Operation;

/// Element size of a floating-point encoding.
pub fn size(word: u32) -> Size {
    if Fields(word).bit(22) { Size::D } else { Size::S }
}

/// Whether the operation also exists on scalars in the SIMD space.
pub fn has_scalar(word: u32) -> bool {
    let fields = Fields(word);
    matches!(
        (fields.u(), fields.bit(23), fields.bits(11, 5)),
        (false, false, 0b11011 | 0b11100 | 0b11111)
            | (false, true, 0b11111)
            | (true, false, 0b11100 | 0b11101)
            | (true, true, 0b11010 | 0b11100 | 0b11101)
    )
}

/// The operation of an encoding.
pub fn operation(word: u32) -> Option<Operation> {
    let fields = Fields(word);
    Some(match (fields.u(), fields.bit(23), fields.bits(11, 5)) {
        (false, false, 0b11000) => |env, shape, _, n, m| lanes(env, shape, n, m, compare::max_number),
        (false, true, 0b11000) => |env, shape, _, n, m| lanes(env, shape, n, m, compare::min_number),
        (false, false, 0b11001) => multiply_add,
        (false, true, 0b11001) => multiply_sub,
        (false, false, 0b11010) => |env, shape, _, n, m| lanes(env, shape, n, m, float::add),
        (false, true, 0b11010) => |env, shape, _, n, m| lanes(env, shape, n, m, float::sub),
        (false, false, 0b11011) => multiply_extended,
        (false, false, 0b11100) => |env, shape, _, n, m| test(env, shape, n, m, equal),
        (false, false, 0b11110) => |env, shape, _, n, m| lanes(env, shape, n, m, compare::max),
        (false, true, 0b11110) => |env, shape, _, n, m| lanes(env, shape, n, m, compare::min),
        (false, false, 0b11111) => |env, shape, _, n, m| lanes(env, shape, n, m, estimate::reciprocal_step),
        (false, true, 0b11111) => {
            |env, shape, _, n, m| lanes(env, shape, n, m, estimate::reciprocal_root_step)
        }
        (true, false, 0b11000) => |env, shape, _, n, m| pairs(env, shape, n, m, compare::max_number),
        (true, true, 0b11000) => |env, shape, _, n, m| pairs(env, shape, n, m, compare::min_number),
        (true, false, 0b11010) => |env, shape, _, n, m| pairs(env, shape, n, m, float::add),
        (true, true, 0b11010) => |env, shape, _, n, m| lanes(env, shape, n, m, absolute_difference),
        (true, false, 0b11011) => multiply,
        (true, false, 0b11100) => |env, shape, _, n, m| test(env, shape, n, m, greater_equal),
        (true, true, 0b11100) => |env, shape, _, n, m| test(env, shape, n, m, greater),
        (true, false, 0b11101) => |env, shape, _, n, m| test(env, shape, n, m, absolute_greater_equal),
        (true, true, 0b11101) => |env, shape, _, n, m| test(env, shape, n, m, absolute_greater),
        (true, false, 0b11110) => |env, shape, _, n, m| pairs(env, shape, n, m, compare::max),
        (true, true, 0b11110) => |env, shape, _, n, m| pairs(env, shape, n, m, compare::min),
        (true, false, 0b11111) => |env, shape, _, n, m| lanes(env, shape, n, m, float::div),
        _ => return None,
    })
}

/// A floating-point function of two lanes.
pub type Binary = fn(&mut Env, Format, u64, u64) -> u64;

#[inline]
fn lanes(env: &mut Env, shape: Shape, n: u128, m: u128, f: Binary) -> u128 {
    map2(shape, n, m, |n, m| f(env, format(shape.size), n, m))
}

#[inline]
fn pairs(env: &mut Env, shape: Shape, n: u128, m: u128, f: Binary) -> u128 {
    pairwise(shape, n, m, |a, b| f(env, format(shape.size), a, b))
}

#[inline]
fn test(env: &mut Env, shape: Shape, n: u128, m: u128, f: fn(&mut Env, Format, u64, u64) -> bool) -> u128 {
    map2(shape, n, m, |n, m| truth(f(env, format(shape.size), n, m)))
}

/// FMLA.
pub fn multiply_add(env: &mut Env, shape: Shape, d: u128, n: u128, m: u128) -> u128 {
    map3(shape, d, n, m, |d, n, m| float::mul_add(env, format(shape.size), d, n, m))
}

/// FMLS: the first factor is negated, a NaN too.
pub fn multiply_sub(env: &mut Env, shape: Shape, d: u128, n: u128, m: u128) -> u128 {
    let format = format(shape.size);
    map3(shape, d, n, m, |d, n, m| float::mul_add(env, format, d, negate(format, n), m))
}

/// FMUL.
pub fn multiply(env: &mut Env, shape: Shape, _: u128, n: u128, m: u128) -> u128 {
    lanes(env, shape, n, m, float::mul)
}

/// FMULX.
pub fn multiply_extended(env: &mut Env, shape: Shape, _: u128, n: u128, m: u128) -> u128 {
    lanes(env, shape, n, m, float::mul_extended)
}

fn absolute_difference(env: &mut Env, format: Format, a: u64, b: u64) -> u64 {
    absolute(format, float::sub(env, format, a, b))
}

fn absolute_greater_equal(env: &mut Env, format: Format, a: u64, b: u64) -> bool {
    greater_equal(env, format, absolute(format, a), absolute(format, b))
}

fn absolute_greater(env: &mut Env, format: Format, a: u64, b: u64) -> bool {
    greater(env, format, absolute(format, a), absolute(format, b))
}
