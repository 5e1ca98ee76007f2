// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Decode of the data-processing half of SIMD&FP (C4.1: "Data Processing -- Scalar Floating-Point and Advanced SIMD")
//! and the helpers that its classes share.
//!
//! [`decode`] answers the function that executes an encoding, or `None` for an unallocated one. It is asked once per
//! instruction when the CPU fills its cache of decoded operations; the function then takes its fields from the word.
//! Half-precision arithmetic, complex numbers and rounding doubling accumulate are not reported in the ID registers,
//! and their encodings are unallocated here.

use super::float::{Env, Format};
use super::lanes::{Shape, Size};
use super::state::{Execute, Machine};
use super::three_same::Operation;
use super::{
    across_lanes, copy, crypto, dot_product, extract_table, indexed_element, modified_immediate, permute,
    scalar_compare, scalar_convert, scalar_float, shift_immediate, three_different, three_same, two_reg_misc,
};

/// An instruction word by its fields.
#[derive(Clone, Copy)]
pub struct Fields(pub u32);

impl Fields {
    /// `count` bits from bit `from` up.
    #[inline]
    pub const fn bits(self, from: u32, count: u32) -> u32 {
        self.0 >> from & ((1 << count) - 1)
    }

    /// Whether bit `at` of the word is set.
    #[inline]
    pub const fn bit(self, at: u32) -> bool {
        self.0 >> at & 1 != 0
    }

    /// Destination register.
    pub const fn rd(self) -> u32 {
        self.bits(0, 5)
    }

    /// First source register.
    pub const fn rn(self) -> u32 {
        self.bits(5, 5)
    }

    /// Second source register.
    pub const fn rm(self) -> u32 {
        self.bits(16, 5)
    }

    /// 128-bit form.
    pub const fn q(self) -> bool {
        self.bit(30)
    }

    /// The `U` bit, most often "unsigned".
    pub const fn u(self) -> bool {
        self.bit(29)
    }

    /// The `size` field.
    pub const fn size(self) -> Size {
        self.size_at(22)
    }

    /// A `size` field elsewhere.
    pub const fn size_at(self, from: u32) -> Size {
        Size::from_bits(self.bits(from, 2))
    }
}

/// The floating-point format of single or double lanes.
pub const fn format(size: Size) -> Format {
    match size {
        Size::D => Format::Double,
        Size::S => Format::Single,
        _ => Format::Half,
    }
}

/// Finds the function that executes a data-processing encoding (bits 27..25 are `111`).
pub fn decode<M: Machine>(word: u32) -> Option<Execute<M>> {
    let fields = Fields(word);
    match (fields.bit(31), fields.bit(30), fields.bit(28)) {
        (_, false, true) => scalar_floating_point(word),
        (false, true, true) => simd_scalar(word),
        (false, _, false) => simd_vector(word),
        _ => None,
    }
}

fn scalar_floating_point<M: Machine>(word: u32) -> Option<Execute<M>> {
    let fields = Fields(word);
    if fields.bit(24) {
        return scalar_float::three_source(word);
    }
    if !fields.bit(21) {
        return scalar_convert::fixed_point(word);
    }
    match fields.bits(10, 6) {
        0b00_0000 => scalar_convert::integer(word),
        op if op & 0b1_1111 == 0b1_0000 => scalar_float::one_source(word),
        op if op & 0b1111 == 0b1000 => scalar_compare::compare(word),
        op if op & 0b111 == 0b100 => scalar_float::immediate(word),
        op => match op & 3 {
            0b01 => scalar_compare::conditional_compare(word),
            0b10 => scalar_float::two_source(word),
            0b11 => scalar_compare::conditional_select(word),
            _ => None,
        },
    }
}

fn simd_scalar<M: Machine>(word: u32) -> Option<Execute<M>> {
    let fields = Fields(word);
    match (fields.bit(24), fields.bit(21), fields.bits(10, 2)) {
        (false, true, 0b01 | 0b11) => three_same::scalar(word),
        (false, true, 0b00) => three_different::scalar(word),
        (false, true, _) => match fields.bits(17, 4) {
            0b0000 => two_reg_misc::scalar(word),
            0b0100 => crypto::two_register_sha(word),
            0b1000 => across_lanes::scalar_pairwise(word),
            _ => None,
        },
        (false, false, 0b00) if !fields.bit(15) => crypto::three_register_sha(word),
        (false, false, 0b01 | 0b11) if fields.bits(22, 2) == 0 && !fields.bit(15) => copy::scalar(word),
        (true, _, 0b01 | 0b11) if !fields.bit(23) => shift_immediate::scalar(word),
        (true, _, 0b00 | 0b10) => indexed_element::scalar(word),
        _ => None,
    }
}

fn simd_vector<M: Machine>(word: u32) -> Option<Execute<M>> {
    let fields = Fields(word);
    match (fields.bit(24), fields.bit(21), fields.bits(10, 2)) {
        (false, true, 0b01 | 0b11) => three_same::vector(word),
        (false, true, 0b00) => three_different::vector(word),
        (false, true, _) => match fields.bits(17, 4) {
            0b0000 => two_reg_misc::vector(word),
            0b0100 if fields.q() => crypto::aes(word),
            0b1000 => across_lanes::vector(word),
            _ => None,
        },
        (false, false, 0b01 | 0b11) if fields.bits(22, 2) == 0 && !fields.bit(15) => copy::vector(word),
        (false, false, 0b01) if fields.bits(11, 5) == 0b10010 => dot_product::vector(word),
        (false, false, 0b00 | 0b10) if !fields.bit(15) => match (fields.u(), fields.bit(11)) {
            (true, _) => extract_table::extract(word),
            (false, false) => extract_table::table(word),
            (false, true) => permute::decode(word),
        },
        (true, _, 0b01 | 0b11) if !fields.bit(23) => match fields.bits(19, 4) {
            0 => modified_immediate::decode(word),
            _ => shift_immediate::vector(word),
        },
        (true, _, 0b00 | 0b10) if fields.bits(12, 4) == 0b1110 => dot_product::by_element(word),
        (true, _, 0b00 | 0b10) => indexed_element::vector(word),
        _ => None,
    }
}

/// Runs an operation on Vd, Vn and Vm and writes Vd.
pub fn three_registers<M: Machine>(machine: &mut M, word: u32, operation: Option<Operation>, shape: Shape) {
    let fields = Fields(word);
    let m = machine.v(fields.rm());
    with_operands(machine, word, |env, d, n| match operation {
        Some(operation) => operation(env, shape, d, n, m),
        None => d,
    });
}

/// Runs `f(env, Vd, Vn)` and writes the result to Vd and the flags to FPSR.
pub fn with_operands<M: Machine>(machine: &mut M, word: u32, f: impl FnOnce(&mut Env, u128, u128) -> u128) {
    let fields = Fields(word);
    let mut env = machine.env();
    let result = f(&mut env, machine.v(fields.rd()), machine.v(fields.rn()));
    machine.finish(&env);
    machine.set_v(fields.rd(), result);
}
