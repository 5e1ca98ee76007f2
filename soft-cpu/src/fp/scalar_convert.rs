// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Conversions between scalar floating-point registers and general registers: integer, fixed point, and plain moves.

use super::data::Fields;
use super::float::convert::{Integer, from_fixed, to_fixed};
use super::float::{Format, Rounding};
use super::lanes::{Size, lane, with_lane};
use super::scalar_float::{format, known_format, operand};
use super::state::{Execute, Machine, handler};

/// Decodes FCVT* to and [SU]CVTF from an integer, and FMOV (general).
pub fn integer<M: Machine>(word: u32) -> Option<Execute<M>> {
    let fields = Fields(word);
    if fields.bit(29) {
        return None;
    }
    match (fields.bits(16, 3), fields.bits(19, 2)) {
        (0b000 | 0b001, _) | (0b100 | 0b101, 0b00) => format(word).map(|_| handler!(execute_to_integer)),
        (0b010 | 0b011, 0b00) => format(word).map(|_| handler!(execute_from_integer)),
        // Same width on both sides, or the upper half of a register.
        (0b110 | 0b111, 0b00) => {
            let matches = fields.bits(22, 2) == fields.bits(31, 1);
            matches.then_some(if fields.bit(16) {
                handler!(move_from_general)
            } else {
                handler!(move_to_general)
            })
        }
        (0b110 | 0b111, 0b01) => {
            let upper = fields.bit(31) && fields.bits(22, 2) == 0b10;
            upper.then_some(if fields.bit(16) {
                handler!(move_from_general_upper)
            } else {
                handler!(move_to_general_upper)
            })
        }
        _ => None,
    }
}

/// Decodes the fixed-point conversions.
pub fn fixed_point<M: Machine>(word: u32) -> Option<Execute<M>> {
    let fields = Fields(word);
    format(word)?;
    // 32-bit numbers have at most 32 fraction bits.
    if fields.bit(29) || !fields.bit(31) && !fields.bit(15) {
        return None;
    }
    match (fields.bits(16, 3), fields.bits(19, 2)) {
        (0b010 | 0b011, 0b00) => Some(handler!(execute_from_fixed)),
        (0b000 | 0b001, 0b11) => Some(handler!(execute_to_fixed)),
        _ => None,
    }
}

fn general(word: u32) -> Integer {
    Integer { bits: if Fields(word).bit(31) { 64 } else { 32 }, signed: !Fields(word).bit(16) }
}

fn execute_to_integer<M: Machine>(machine: &mut M, word: u32) {
    let fields = Fields(word);
    // Opcode 10x is FCVTA.
    let rounding = if fields.bit(18) { Rounding::TieAway } else { Rounding::from_rmode(fields.bits(19, 2)) };
    to_general(machine, word, rounding, 0);
}

fn execute_to_fixed<M: Machine>(machine: &mut M, word: u32) {
    to_general(machine, word, Rounding::Zero, 64 - Fields(word).bits(10, 6));
}

fn to_general<M: Machine>(machine: &mut M, word: u32, rounding: Rounding, fraction_bits: u32) {
    let (fields, format) = (Fields(word), known_format(word));
    let n = operand(format, machine.v(fields.rn()));
    let mut env = machine.env();
    let value = env.rounded(rounding, |env| to_fixed(env, format, n, general(word), fraction_bits));
    machine.finish(&env);
    machine.set_x(fields.rd(), value);
}

fn execute_from_integer<M: Machine>(machine: &mut M, word: u32) {
    from_general(machine, word, 0);
}

fn execute_from_fixed<M: Machine>(machine: &mut M, word: u32) {
    from_general(machine, word, 64 - Fields(word).bits(10, 6));
}

fn from_general<M: Machine>(machine: &mut M, word: u32, fraction_bits: u32) {
    let fields = Fields(word);
    let n = machine.x(fields.rn());
    let mut env = machine.env();
    let value = from_fixed(&mut env, known_format(word), n, general(word), fraction_bits);
    machine.finish(&env);
    machine.set_v(fields.rd(), value.into());
}

fn move_width(word: u32) -> Format {
    if Fields(word).bit(31) { Format::Double } else { Format::Single }
}

fn move_to_general<M: Machine>(machine: &mut M, word: u32) {
    let fields = Fields(word);
    let value = operand(move_width(word), machine.v(fields.rn()));
    machine.set_x(fields.rd(), value);
}

fn move_from_general<M: Machine>(machine: &mut M, word: u32) {
    let fields = Fields(word);
    let value = operand(move_width(word), machine.x(fields.rn()).into());
    machine.set_v(fields.rd(), value.into());
}

fn move_to_general_upper<M: Machine>(machine: &mut M, word: u32) {
    let fields = Fields(word);
    let value = lane(machine.v(fields.rn()), Size::D, 1);
    machine.set_x(fields.rd(), value);
}

fn move_from_general_upper<M: Machine>(machine: &mut M, word: u32) {
    let fields = Fields(word);
    let value = machine.x(fields.rn());
    let register = with_lane(machine.v(fields.rd()), Size::D, 1, value);
    machine.set_v(fields.rd(), register);
}
