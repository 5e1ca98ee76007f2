// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! "Advanced SIMD three different" and its scalar form: operands of different widths. Long operations take the low half
//! of their narrow operands, or the high half with `Q` (the "2" forms); narrowing ones write that half.
//!
//! An [`Operation`] here gets the shape of the *wide* lanes, and narrow operands already moved to the low half.

use super::crypto::polynomial_wide;
use super::data::{Fields, with_operands};
use super::float::Env;
use super::integer::{doubling_long, extend, polynomial, saturate};
use super::lanes::{Shape, Size, build, lane};
use super::state::{Execute, Machine, handler};

/// An operation on wide lanes: `narrow` size, the shape of the wide ones, `d` (wide), `n`, `m`.
pub type Operation = fn(&mut Env, Size, Shape, u128, u128, u128) -> u128;

/// Decodes the vector form.
pub fn vector<M: Machine>(word: u32) -> Option<Execute<M>> {
    let size = Fields(word).size();
    if size == Size::D && Fields(word).bits(12, 4) == 0b1110 && !Fields(word).u() {
        return Some(handler!(execute_polynomial_wide));
    }
    size.doubled()?;
    match Fields(word).bits(12, 4) {
        0b0001 | 0b0011 => Some(handler!(execute_wide)),
        0b0100 | 0b0110 => Some(handler!(execute_narrow)),
        _ => {
            long(word)?;
            let allowed = match Fields(word).bits(12, 4) {
                0b1001 | 0b1011 | 0b1101 => matches!(size, Size::H | Size::S),
                0b1110 => size == Size::B,
                _ => true,
            };
            allowed.then_some(handler!(execute_long))
        }
    }
}

/// Decodes the scalar form: only the saturating doubling products.
pub fn scalar<M: Machine>(word: u32) -> Option<Execute<M>> {
    let fields = Fields(word);
    let known = !fields.u() && matches!(fields.bits(12, 4), 0b1001 | 0b1011 | 0b1101);
    (known && matches!(fields.size(), Size::H | Size::S)).then_some(handler!(execute_scalar))
}

/// The shape of the wide result of a vector form.
pub fn wide_shape(narrow: Size) -> Shape {
    Shape::vector(narrow.doubled().unwrap_or(Size::D), true)
}

/// The half of a narrow operand that the form reads, moved to the low end.
pub fn half(register: u128, upper: bool) -> u128 {
    if upper { register >> 64 } else { register & u128::from(u64::MAX) }
}

fn execute_long<M: Machine>(machine: &mut M, word: u32) {
    let (fields, size) = (Fields(word), Fields(word).size());
    let m = half(machine.v(fields.rm()), fields.q());
    with_operands(machine, word, |env, d, n| match long(word) {
        Some(operation) => operation(env, size, wide_shape(size), d, half(n, fields.q()), m),
        None => d,
    });
}

/// PMULL of doublewords: one product of 128 bits.
fn execute_polynomial_wide<M: Machine>(machine: &mut M, word: u32) {
    let fields = Fields(word);
    let m = half(machine.v(fields.rm()), fields.q());
    with_operands(machine, word, |_, _, n| polynomial_wide(half(n, fields.q()) as u64, m as u64));
}

fn execute_scalar<M: Machine>(machine: &mut M, word: u32) {
    let (fields, size) = (Fields(word), Fields(word).size());
    let m = machine.v(fields.rm());
    with_operands(machine, word, |env, d, n| match long(word) {
        Some(operation) => operation(env, size, Shape::scalar(wide_shape(size).size), d, n, m),
        None => d,
    });
}

/// SADDW, SSUBW and the unsigned ones: the first operand is wide already.
fn execute_wide<M: Machine>(machine: &mut M, word: u32) {
    let (fields, size) = (Fields(word), Fields(word).size());
    let m = half(machine.v(fields.rm()), fields.q());
    let shape = wide_shape(size);
    with_operands(machine, word, |_, _, n| {
        build(shape, |index| {
            let (n, m) = (lane(n, shape.size, index), extend(size, !fields.u(), lane(m, size, index)) as u64);
            if fields.bit(13) { n.wrapping_sub(m) } else { n.wrapping_add(m) }
        })
    });
}

/// ADDHN, SUBHN and the rounding ones: the high half of each wide lane.
fn execute_narrow<M: Machine>(machine: &mut M, word: u32) {
    let (fields, size) = (Fields(word), Fields(word).size());
    let m = machine.v(fields.rm());
    let shape = wide_shape(size);
    with_operands(machine, word, |_, d, n| {
        let rounding = if fields.u() { 1 << (size.bits() - 1) } else { 0 };
        let narrow = build(Shape::vector(size, false), |index| {
            let (n, m) = (lane(n, shape.size, index), lane(m, shape.size, index));
            let wide = if fields.bit(13) { n.wrapping_sub(m) } else { n.wrapping_add(m) };
            wide.wrapping_add(rounding) >> size.bits()
        });
        write_half(d, narrow, fields.q())
    });
}

/// A 64-bit narrow result: the "2" form puts it in the upper half and keeps the lower, the other clears the upper.
pub fn write_half(old: u128, narrow: u128, upper: bool) -> u128 {
    if upper { old & u128::from(u64::MAX) | narrow << 64 } else { narrow }
}

/// The long operation of an encoding.
fn long(word: u32) -> Option<Operation> {
    let fields = Fields(word);
    Some(match (fields.bits(12, 4), fields.u()) {
        (0b0000, false) => |_, size, shape, _, n, m| wide(size, shape, true, n, m, |n, m| n + m),
        (0b0000, true) => |_, size, shape, _, n, m| wide(size, shape, false, n, m, |n, m| n + m),
        (0b0010, false) => |_, size, shape, _, n, m| wide(size, shape, true, n, m, |n, m| n - m),
        (0b0010, true) => |_, size, shape, _, n, m| wide(size, shape, false, n, m, |n, m| n - m),
        (0b0101, false) => {
            |_, size, shape, d, n, m| accumulate(size, shape, true, d, n, m, |n, m| (n - m).abs())
        }
        (0b0101, true) => {
            |_, size, shape, d, n, m| accumulate(size, shape, false, d, n, m, |n, m| (n - m).abs())
        }
        (0b0111, false) => |_, size, shape, _, n, m| wide(size, shape, true, n, m, |n, m| (n - m).abs()),
        (0b0111, true) => |_, size, shape, _, n, m| wide(size, shape, false, n, m, |n, m| (n - m).abs()),
        (0b1000, u) => multiply_add_long(u),
        (0b1010, u) => multiply_sub_long(u),
        (0b1100, u) => multiply_long(u),
        (0b1001, false) => doubling_multiply_add_long,
        (0b1011, false) => doubling_multiply_sub_long,
        (0b1101, false) => doubling_multiply_long,
        (0b1110, false) => |_, size, shape, _, n, m| {
            build(shape, |index| polynomial(lane(n, size, index), lane(m, size, index)))
        },
        _ => return None,
    })
}

/// SMLAL, UMLAL.
pub fn multiply_add_long(unsigned: bool) -> Operation {
    if unsigned {
        |_, size, shape, d, n, m| accumulate(size, shape, false, d, n, m, |n, m| n * m)
    } else {
        |_, size, shape, d, n, m| accumulate(size, shape, true, d, n, m, |n, m| n * m)
    }
}

/// SMLSL, UMLSL.
pub fn multiply_sub_long(unsigned: bool) -> Operation {
    if unsigned {
        |_, size, shape, d, n, m| accumulate(size, shape, false, d, n, m, |n, m| -(n * m))
    } else {
        |_, size, shape, d, n, m| accumulate(size, shape, true, d, n, m, |n, m| -(n * m))
    }
}

/// SMULL, UMULL.
pub fn multiply_long(unsigned: bool) -> Operation {
    if unsigned {
        |_, size, shape, _, n, m| wide(size, shape, false, n, m, |n, m| n * m)
    } else {
        |_, size, shape, _, n, m| wide(size, shape, true, n, m, |n, m| n * m)
    }
}

/// SQDMLAL.
pub fn doubling_multiply_add_long(
    env: &mut Env,
    size: Size,
    shape: Shape,
    d: u128,
    n: u128,
    m: u128,
) -> u128 {
    doubling_accumulate(env, size, shape, d, n, m, 1)
}

/// SQDMLSL.
pub fn doubling_multiply_sub_long(
    env: &mut Env,
    size: Size,
    shape: Shape,
    d: u128,
    n: u128,
    m: u128,
) -> u128 {
    doubling_accumulate(env, size, shape, d, n, m, -1)
}

/// SQDMULL.
pub fn doubling_multiply_long(env: &mut Env, size: Size, shape: Shape, _: u128, n: u128, m: u128) -> u128 {
    build(shape, |index| doubling_long(env, size, shape.size, lane(n, size, index), lane(m, size, index)))
}

fn wide(size: Size, shape: Shape, signed: bool, n: u128, m: u128, f: fn(i128, i128) -> i128) -> u128 {
    accumulate(size, shape, signed, 0, n, m, f)
}

fn accumulate(
    size: Size,
    shape: Shape,
    signed: bool,
    d: u128,
    n: u128,
    m: u128,
    f: fn(i128, i128) -> i128,
) -> u128 {
    build(shape, |index| {
        let (n, m) = (extend(size, signed, lane(n, size, index)), extend(size, signed, lane(m, size, index)));
        lane(d, shape.size, index).wrapping_add(f(n, m) as u64)
    })
}

/// SQDMLAL and SQDMLSL: the product saturates, and then the sum does.
fn doubling_accumulate(
    env: &mut Env,
    size: Size,
    shape: Shape,
    d: u128,
    n: u128,
    m: u128,
    sign: i128,
) -> u128 {
    build(shape, |index| {
        let product = doubling_long(env, size, shape.size, lane(n, size, index), lane(m, size, index));
        let sum =
            extend(shape.size, true, lane(d, shape.size, index)) + sign * extend(shape.size, true, product);
        saturate(env, shape.size, true, sum)
    })
}
