// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! "Advanced SIMD across lanes" and "scalar pairwise": a vector reduced to one element.
//!
//! Floating-point reductions go by halves (Reduce in the pseudocode), which decides which NaN wins.

use super::data::{Fields, format, with_operands};
use super::float::{self, Env, Format, compare};
use super::integer::extend;
use super::lanes::{Shape, Size, lane};
use super::state::{Execute, Machine, handler};
use super::three_same_float::{self, Binary};

/// Decodes the vector form.
pub fn vector<M: Machine>(word: u32) -> Option<Execute<M>> {
    let fields = Fields(word);
    let allowed = match fields.size() {
        Size::D => false,
        Size::S => fields.q(),
        _ => true,
    };
    match (fields.u(), fields.bits(12, 5)) {
        (_, 0b00011) => allowed.then_some(handler!(execute_add_long)),
        (_, 0b01010 | 0b11010) => allowed.then_some(handler!(execute_extreme)),
        (false, 0b11011) => allowed.then_some(handler!(execute_add)),
        // Four single-precision lanes only.
        (true, 0b01100 | 0b01111) => (fields.q() && !fields.bit(22)).then_some(handler!(execute_float)),
        _ => None,
    }
}

/// Decodes the pairwise reduction of two lanes.
pub fn scalar_pairwise<M: Machine>(word: u32) -> Option<Execute<M>> {
    let fields = Fields(word);
    match (fields.u(), fields.bits(12, 5)) {
        (false, 0b11011) => (fields.size() == Size::D).then_some(handler!(execute_add_pair)),
        (true, 0b01101) => (!fields.bit(23)).then_some(handler!(execute_float_pair)),
        (true, 0b01100 | 0b01111) => Some(handler!(execute_float_pair)),
        _ => None,
    }
}

fn lanes(word: u32, n: u128) -> impl Iterator<Item = u64> {
    let shape = Shape::vector(Fields(word).size(), Fields(word).q());
    (0..shape.count()).map(move |index| lane(n, shape.size, index))
}

/// ADDV.
fn execute_add<M: Machine>(machine: &mut M, word: u32) {
    let mask = Fields(word).size().mask();
    with_operands(machine, word, |_, _, n| u128::from(lanes(word, n).fold(0, u64::wrapping_add) & mask));
}

/// SADDLV and UADDLV: the sum in twice the width.
fn execute_add_long<M: Machine>(machine: &mut M, word: u32) {
    let fields = Fields(word);
    let mask = fields.size().doubled().unwrap_or(Size::D).mask();
    with_operands(machine, word, |_, _, n| {
        let sum: i128 = lanes(word, n).map(|value| extend(fields.size(), !fields.u(), value)).sum();
        u128::from(sum as u64 & mask)
    });
}

/// SMAXV, SMINV, UMAXV, UMINV.
fn execute_extreme<M: Machine>(machine: &mut M, word: u32) {
    let fields = Fields(word);
    with_operands(machine, word, |_, _, n| {
        let values = lanes(word, n).map(|value| extend(fields.size(), !fields.u(), value));
        let found = if fields.bit(16) { values.min() } else { values.max() };
        u128::from(found.unwrap_or(0) as u64 & fields.size().mask())
    });
}

/// ADDP of two doublewords.
fn execute_add_pair<M: Machine>(machine: &mut M, word: u32) {
    with_operands(machine, word, |_, _, n| u128::from(lane(n, Size::D, 0).wrapping_add(lane(n, Size::D, 1))));
}

fn float_operation(word: u32) -> Binary {
    let fields = Fields(word);
    match (fields.bit(23), fields.bits(12, 5)) {
        (_, 0b01101) => float::add,
        (false, 0b01100) => compare::max_number,
        (true, 0b01100) => compare::min_number,
        (false, _) => compare::max,
        (true, _) => compare::min,
    }
}

/// FMAXV, FMINV, FMAXNMV, FMINNMV.
fn execute_float<M: Machine>(machine: &mut M, word: u32) {
    let f = float_operation(word);
    with_operands(machine, word, |env, _, n| {
        let mut pair = |low, high| f(env, Format::Single, lane(n, Size::S, low), lane(n, Size::S, high));
        let (low, high) = (pair(0, 1), pair(2, 3));
        u128::from(f(env, Format::Single, low, high))
    });
}

/// FADDP, FMAXP, FMINP, FMAXNMP, FMINNMP of two lanes.
fn execute_float_pair<M: Machine>(machine: &mut M, word: u32) {
    let (f, size) = (float_operation(word), three_same_float::size(word));
    with_operands(machine, word, |env: &mut Env, _, n| {
        u128::from(f(env, format(size), lane(n, size, 0), lane(n, size, 1)))
    });
}
