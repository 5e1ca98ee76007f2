// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! "Advanced SIMD vector x indexed element" and its scalar form: the multiplies with one lane of Vm for all lanes.
//!
//! The lane is copied into every lane, and then the operation is that of "three same" or "three different".

use super::data::{Fields, with_operands};
use super::lanes::{Shape, Size, lane, splat};
use super::state::{Execute, Machine, handler};
use super::three_different::{self, half, wide_shape};
use super::three_same::{self, Operation};
use super::three_same_float;

/// What an encoding does.
enum Kind {
    /// Lanes of one width.
    Same(Operation),
    /// Narrow operands, wide result.
    Long(three_different::Operation),
}

fn kind(word: u32) -> Option<(Kind, Size)> {
    let fields = Fields(word);
    let (u, opcode) = (fields.u(), fields.bits(12, 4));
    let operation = match (u, opcode) {
        (false, 0b0001) => three_same_float::multiply_add,
        (false, 0b0101) => three_same_float::multiply_sub,
        (false, 0b1001) => three_same_float::multiply,
        (true, 0b1001) => three_same_float::multiply_extended,
        _ => return integer_kind(word),
    };
    // A double lane has one index bit, so L must be zero; bit 23 clear would be half precision.
    let allowed = fields.bit(23) && !(fields.bit(22) && fields.bit(21));
    allowed.then_some((Kind::Same(operation), three_same_float::size(word)))
}

fn integer_kind(word: u32) -> Option<(Kind, Size)> {
    let fields = Fields(word);
    let size = fields.size();
    if !matches!(size, Size::H | Size::S) {
        return None;
    }
    let kind = match (fields.u(), fields.bits(12, 4)) {
        (true, 0b0000) => Kind::Same(three_same::multiply_add),
        (true, 0b0100) => Kind::Same(three_same::multiply_sub),
        (false, 0b1000) => Kind::Same(three_same::multiply),
        (false, 0b1100) => Kind::Same(three_same::doubling_multiply_high),
        (false, 0b1101) => Kind::Same(three_same::rounding_doubling_multiply_high),
        (u, 0b0010) => Kind::Long(three_different::multiply_add_long(u)),
        (u, 0b0110) => Kind::Long(three_different::multiply_sub_long(u)),
        (u, 0b1010) => Kind::Long(three_different::multiply_long(u)),
        (false, 0b0011) => Kind::Long(three_different::doubling_multiply_add_long),
        (false, 0b0111) => Kind::Long(three_different::doubling_multiply_sub_long),
        (false, 0b1011) => Kind::Long(three_different::doubling_multiply_long),
        _ => return None,
    };
    Some((kind, size))
}

/// Decodes the vector form.
pub fn vector<M: Machine>(word: u32) -> Option<Execute<M>> {
    let (_, size) = kind(word)?;
    (size != Size::D || Fields(word).q()).then_some(handler!(execute_vector))
}

/// Decodes the scalar form: the floating-point and the saturating multiplies.
pub fn scalar<M: Machine>(word: u32) -> Option<Execute<M>> {
    kind(word)?;
    let exists = match (Fields(word).u(), Fields(word).bits(12, 4)) {
        (false, opcode) => matches!(opcode, 0b0001 | 0b0101 | 0b0011 | 0b0111 | 0b1001 | 0b1011..=0b1101),
        (true, opcode) => opcode == 0b1001,
    };
    exists.then_some(handler!(execute_scalar))
}

/// The lane of Vm that an encoding names.
fn element<M: Machine>(machine: &mut M, word: u32, size: Size) -> u64 {
    let fields = Fields(word);
    let (h, l, m) = (fields.bits(11, 1), fields.bits(21, 1), fields.bits(20, 1));
    let (register, index) = match size {
        // The index takes M, which leaves registers 0-15.
        Size::H => (fields.bits(16, 4), h << 2 | l << 1 | m),
        Size::S => (fields.rm(), h << 1 | l),
        _ => (fields.rm(), h),
    };
    lane(machine.v(register), size, index)
}

fn execute_vector<M: Machine>(machine: &mut M, word: u32) {
    let q = Fields(word).q();
    let Some((kind, size)) = kind(word) else { return };
    let m = splat(Shape::vector(size, true), element(machine, word, size));
    with_operands(machine, word, |env, d, n| match kind {
        Kind::Same(operation) => operation(env, Shape::vector(size, q), d, n, m),
        Kind::Long(operation) => operation(env, size, wide_shape(size), d, half(n, q), m),
    });
}

fn execute_scalar<M: Machine>(machine: &mut M, word: u32) {
    let Some((kind, size)) = kind(word) else { return };
    let m = u128::from(element(machine, word, size));
    with_operands(machine, word, |env, d, n| match kind {
        Kind::Same(operation) => operation(env, Shape::scalar(size), d, n, m),
        Kind::Long(operation) => operation(env, size, Shape::scalar(wide_shape(size).size), d, n, m),
    });
}
