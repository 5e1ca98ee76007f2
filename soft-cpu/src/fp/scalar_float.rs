// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Scalar floating point: data processing with one, two and three sources, and FMOV (immediate).
//!
//! `ptype` is 00 single, 01 double, 11 half; half precision is only converted from and to.

use super::data::{Fields, with_operands};
use super::float::compare::{max, max_number, min, min_number};
use super::float::convert::{convert, round_to_integral};
use super::float::{self, Format, Rounding, absolute, negate};
use super::modified_immediate::expand_float;
use super::state::{Execute, Machine, handler};

/// The format that `ptype` names, half included.
fn any_format(word: u32) -> Option<Format> {
    match Fields(word).bits(22, 2) {
        0b00 => Some(Format::Single),
        0b01 => Some(Format::Double),
        0b11 => Some(Format::Half),
        _ => None,
    }
}

/// The format that `ptype` names, single or double.
pub fn format(word: u32) -> Option<Format> {
    any_format(word).filter(|format| *format != Format::Half)
}

/// [`format`] of an accepted encoding.
pub fn known_format(word: u32) -> Format {
    if Fields(word).bit(22) { Format::Double } else { Format::Single }
}

/// `M` and `S` are zero in every scalar encoding but the conversions (where bit 31 is `sf`).
pub fn plain(word: u32) -> bool {
    !Fields(word).bit(31) && !Fields(word).bit(29)
}

/// The bits of a register that hold a value of this format.
pub fn operand(format: Format, register: u128) -> u64 {
    register as u64 & (u64::MAX >> (64 - format.bits()))
}

/// Decodes one source: FMOV, FABS, FNEG, FSQRT, FCVT, FRINT*.
pub fn one_source<M: Machine>(word: u32) -> Option<Execute<M>> {
    let source = any_format(word)?;
    match Fields(word).bits(15, 6) {
        _ if !plain(word) => None,
        opcode @ (0b000100 | 0b000101 | 0b000111) => {
            (convert_target(opcode) != source).then_some(handler!(execute_convert))
        }
        _ if source == Format::Half => None,
        0b000000..=0b000011 | 0b001000..=0b001100 | 0b001110 | 0b001111 => Some(handler!(execute_one_source)),
        _ => None,
    }
}

fn convert_target(opcode: u32) -> Format {
    match opcode & 3 {
        0 => Format::Single,
        1 => Format::Double,
        _ => Format::Half,
    }
}

fn execute_convert<M: Machine>(machine: &mut M, word: u32) {
    let from = any_format(word).unwrap_or(Format::Single);
    let to = convert_target(Fields(word).bits(15, 6));
    with_operands(machine, word, |env, _, n| u128::from(convert(env, from, to, operand(from, n))));
}

fn execute_one_source<M: Machine>(machine: &mut M, word: u32) {
    let format = known_format(word);
    with_operands(machine, word, |env, _, n| {
        let n = operand(format, n);
        let rounding = match Fields(word).bits(15, 6) {
            0b000000 => return u128::from(n),
            0b000001 => return u128::from(absolute(format, n)),
            0b000010 => return u128::from(negate(format, n)),
            0b000011 => return u128::from(float::sqrt(env, format, n)),
            // FRINTX is the one that reports inexactness.
            0b001110 => return u128::from(round_to_integral(env, format, n, true)),
            0b001111 => env.rounding,
            0b001100 => Rounding::TieAway,
            opcode => Rounding::from_rmode(opcode),
        };
        u128::from(env.rounded(rounding, |env| round_to_integral(env, format, n, false)))
    });
}

/// Decodes two sources.
pub fn two_source<M: Machine>(word: u32) -> Option<Execute<M>> {
    format(word)?;
    (plain(word) && Fields(word).bits(12, 4) <= 0b1000).then_some(handler!(execute_two_source))
}

fn execute_two_source<M: Machine>(machine: &mut M, word: u32) {
    let (fields, format) = (Fields(word), known_format(word));
    let m = operand(format, machine.v(fields.rm()));
    with_operands(machine, word, |env, _, n| {
        let n = operand(format, n);
        u128::from(match fields.bits(12, 4) {
            0b0000 => float::mul(env, format, n, m),
            0b0001 => float::div(env, format, n, m),
            0b0010 => float::add(env, format, n, m),
            0b0011 => float::sub(env, format, n, m),
            0b0100 => max(env, format, n, m),
            0b0101 => min(env, format, n, m),
            0b0110 => max_number(env, format, n, m),
            0b0111 => min_number(env, format, n, m),
            _ => negate(format, float::mul(env, format, n, m)),
        })
    });
}

/// Decodes three sources: FMADD, FMSUB, FNMADD, FNMSUB.
pub fn three_source<M: Machine>(word: u32) -> Option<Execute<M>> {
    format(word)?;
    plain(word).then_some(handler!(execute_three_source))
}

fn execute_three_source<M: Machine>(machine: &mut M, word: u32) {
    let (fields, format) = (Fields(word), known_format(word));
    let m = operand(format, machine.v(fields.rm()));
    let a = operand(format, machine.v(fields.bits(10, 5)));
    // o1 negates the addend, and o1 differing from o0 the product; NaNs are negated as well.
    let a = if fields.bit(21) { negate(format, a) } else { a };
    let negated = fields.bit(21) != fields.bit(15);
    with_operands(machine, word, |env, _, n| {
        let n = operand(format, n);
        let n = if negated { negate(format, n) } else { n };
        u128::from(float::mul_add(env, format, a, n, m))
    });
}

/// Decodes FMOV (immediate).
pub fn immediate<M: Machine>(word: u32) -> Option<Execute<M>> {
    format(word)?;
    (plain(word) && Fields(word).bits(5, 5) == 0).then_some(handler!(execute_immediate))
}

fn execute_immediate<M: Machine>(machine: &mut M, word: u32) {
    let fields = Fields(word);
    let value = expand_float(known_format(word), fields.bits(13, 8).into());
    machine.set_v(fields.rd(), value.into());
}
