// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! "Advanced SIMD shift by immediate" and its scalar form: shifts, inserts, narrowing and lengthening shifts, and the
//! fixed-point converts.
//!
//! The highest set bit of `immh` is the element size. A right shift is by `2 * size - immh:immb`, a left one by
//! `immh:immb - size`.

use super::data::{Fields, format, with_operands};
use super::float::convert::{Integer, from_fixed, to_fixed};
use super::float::{Env, Rounding};
use super::integer::{Shift, extend, saturate, shift_right};
use super::lanes::{Shape, Size, build, lane, map, map2};
use super::state::{Execute, Machine, handler};
use super::three_different::{half, wide_shape, write_half};

/// The element size, none for `immh` = 0.
fn size(word: u32) -> Option<Size> {
    Fields(word).bits(19, 4).checked_ilog2().map(Size::from_bits)
}

/// The same for an accepted encoding.
fn known_size(word: u32) -> Size {
    size(word).unwrap_or(Size::D)
}

fn right_amount(word: u32) -> u32 {
    2 * known_size(word).bits() - Fields(word).bits(16, 7)
}

fn left_amount(word: u32) -> u32 {
    Fields(word).bits(16, 7) - known_size(word).bits()
}

/// Decodes the vector form.
pub fn vector<M: Machine>(word: u32) -> Option<Execute<M>> {
    let fields = Fields(word);
    let size = size(word)?;
    let whole = size != Size::D || fields.q();
    match (fields.bits(11, 5), fields.u()) {
        (0b00000 | 0b00010 | 0b00100 | 0b00110 | 0b01010 | 0b01110, _) | (0b01000 | 0b01100, true) => {
            whole.then_some(handler!(execute_vector))
        }
        (0b10000..=0b10011, _) => (size != Size::D).then_some(handler!(execute_narrow)),
        (0b10100, _) => (size != Size::D).then_some(handler!(execute_long)),
        (0b11100 | 0b11111, _) => (whole && size >= Size::S).then_some(handler!(execute_convert)),
        _ => None,
    }
}

/// Decodes the scalar form.
pub fn scalar<M: Machine>(word: u32) -> Option<Execute<M>> {
    let size = size(word)?;
    match (Fields(word).bits(11, 5), Fields(word).u()) {
        (0b00000 | 0b00010 | 0b00100 | 0b00110 | 0b01010, _) | (0b01000, true) => {
            (size == Size::D).then_some(handler!(execute_scalar))
        }
        (0b01110, _) | (0b01100, true) => Some(handler!(execute_scalar)),
        (0b10000 | 0b10001, true) | (0b10010 | 0b10011, _) => {
            (size != Size::D).then_some(handler!(execute_narrow_scalar))
        }
        (0b11100 | 0b11111, _) => (size >= Size::S).then_some(handler!(execute_convert_scalar)),
        _ => None,
    }
}

fn execute_vector<M: Machine>(machine: &mut M, word: u32) {
    execute(machine, word, Shape::vector(known_size(word), Fields(word).q()));
}

fn execute_scalar<M: Machine>(machine: &mut M, word: u32) {
    execute(machine, word, Shape::scalar(known_size(word)));
}

fn execute<M: Machine>(machine: &mut M, word: u32, shape: Shape) {
    let fields = Fields(word);
    let opcode = fields.bits(11, 5);
    with_operands(machine, word, |env, d, n| match opcode {
        // SSHR, SSRA, SRSHR, SRSRA and the unsigned ones.
        0b00000 | 0b00010 | 0b00100 | 0b00110 => {
            let (amount, rounding) = (right_amount(word), opcode & 0b100 != 0);
            let shifted =
                map(shape, n, |n| shift_right(extend(shape.size, !fields.u(), n), amount, rounding) as u64);
            if opcode & 0b10 != 0 { map2(shape, d, shifted, u64::wrapping_add) } else { shifted }
        }
        // SRI: the bits shifted in from above stay the destination's.
        0b01000 => insert(
            shape,
            d,
            n,
            |mask| mask.checked_shr(right_amount(word)).unwrap_or(0),
            |n| n.checked_shr(right_amount(word)).unwrap_or(0),
        ),
        // SLI.
        0b01010 if fields.u() => {
            insert(shape, d, n, |mask| mask << left_amount(word), |n| n << left_amount(word))
        }
        0b01010 => map(shape, n, |n| n << left_amount(word)),
        // SQSHLU: signed in, unsigned out.
        0b01100 => map(shape, n, |n| {
            saturate(env, shape.size, false, extend(shape.size, true, n) << left_amount(word))
        }),
        // SQSHL, UQSHL.
        _ => {
            let shift = Shift { signed: !fields.u(), saturating: true, ..Shift::default() };
            map(shape, n, |n| shift.apply(env, shape.size, n, left_amount(word) as i32))
        }
    });
}

fn insert(shape: Shape, d: u128, n: u128, mask: impl Fn(u64) -> u64, shift: impl Fn(u64) -> u64) -> u128 {
    let mask = mask(shape.size.mask());
    map2(shape, d, n, |d, n| d & !mask | shift(n) & mask)
}

fn execute_narrow<M: Machine>(machine: &mut M, word: u32) {
    let shape = Shape::vector(known_size(word), false);
    with_operands(machine, word, |env, d, n| write_half(d, narrow(env, word, shape, n), Fields(word).q()));
}

fn execute_narrow_scalar<M: Machine>(machine: &mut M, word: u32) {
    let shape = Shape::scalar(known_size(word));
    with_operands(machine, word, |env, _, n| narrow(env, word, shape, n));
}

/// SHRN, RSHRN, and the saturating SQSHRN, SQRSHRN, UQSHRN, UQRSHRN, SQSHRUN, SQRSHRUN.
fn narrow(env: &mut Env, word: u32, shape: Shape, n: u128) -> u128 {
    let fields = Fields(word);
    let wide = shape.size.doubled().unwrap_or(Size::D);
    let (saturates, rounding) = (fields.bit(12), fields.bit(11));
    if !saturates && !fields.u() {
        // The narrow lane never sees a carry out of the wide one.
        let (amount, half) = (right_amount(word), if rounding { 1 << (right_amount(word) - 1) } else { 0 });
        return build(shape, |index| lane(n, wide, index).wrapping_add(half) >> amount);
    }
    build(shape, |index| {
        let value = extend(wide, !(saturates && fields.u()), lane(n, wide, index));
        let shifted = shift_right(value, right_amount(word), rounding);
        match (saturates, fields.u()) {
            (false, _) => saturate(env, shape.size, false, shifted),
            (true, u) => saturate(env, shape.size, !u, shifted),
        }
    })
}

/// SSHLL, USHLL.
fn execute_long<M: Machine>(machine: &mut M, word: u32) {
    let (fields, size) = (Fields(word), known_size(word));
    with_operands(machine, word, |_, _, n| {
        let n = half(n, fields.q());
        build(wide_shape(size), |index| {
            (extend(size, !fields.u(), lane(n, size, index)) << left_amount(word)) as u64
        })
    });
}

fn execute_convert<M: Machine>(machine: &mut M, word: u32) {
    convert(machine, word, Shape::vector(known_size(word), Fields(word).q()));
}

fn execute_convert_scalar<M: Machine>(machine: &mut M, word: u32) {
    convert(machine, word, Shape::scalar(known_size(word)));
}

/// SCVTF, UCVTF, FCVTZS, FCVTZU with a fixed point.
fn convert<M: Machine>(machine: &mut M, word: u32, shape: Shape) {
    let fields = Fields(word);
    let integer = Integer { bits: shape.size.bits(), signed: !fields.u() };
    let (format, point) = (format(shape.size), right_amount(word));
    with_operands(machine, word, |env, _, n| {
        if fields.bits(11, 5) == 0b11100 {
            map(shape, n, |n| from_fixed(env, format, n, integer, point))
        } else {
            env.rounded(Rounding::Zero, |env| map(shape, n, |n| to_fixed(env, format, n, integer, point)))
        }
    });
}
