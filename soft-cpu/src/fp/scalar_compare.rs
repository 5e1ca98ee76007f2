// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Scalar floating-point FCMP, FCMPE, FCCMP, FCCMPE and FCSEL.

use super::data::Fields;
use super::float::compare::compare_flags;
use super::scalar_float::{format, known_format, operand, plain};
use super::state::{Execute, Machine, handler};

/// Decodes FCMP and FCMPE.
pub fn compare<M: Machine>(word: u32) -> Option<Execute<M>> {
    format(word)?;
    let fields = Fields(word);
    (plain(word) && fields.bits(14, 2) == 0 && fields.bits(0, 3) == 0).then_some(handler!(execute_compare))
}

/// Decodes FCCMP and FCCMPE.
pub fn conditional_compare<M: Machine>(word: u32) -> Option<Execute<M>> {
    format(word)?;
    plain(word).then_some(handler!(execute_conditional_compare))
}

/// Decodes FCSEL.
pub fn conditional_select<M: Machine>(word: u32) -> Option<Execute<M>> {
    format(word)?;
    plain(word).then_some(handler!(execute_select))
}

fn compare_registers<M: Machine>(machine: &mut M, word: u32, with_zero: bool) {
    let (fields, format) = (Fields(word), known_format(word));
    let n = operand(format, machine.v(fields.rn()));
    let m = if with_zero { 0 } else { operand(format, machine.v(fields.rm())) };
    let mut env = machine.env();
    let flags = compare_flags(&mut env, format, n, m, fields.bit(4));
    machine.finish(&env);
    machine.set_nzcv(flags);
}

fn execute_compare<M: Machine>(machine: &mut M, word: u32) {
    compare_registers(machine, word, Fields(word).bit(3));
}

fn execute_conditional_compare<M: Machine>(machine: &mut M, word: u32) {
    let fields = Fields(word);
    if holds(fields.bits(12, 4), machine.nzcv()) {
        compare_registers(machine, word, false);
    } else {
        machine.set_nzcv(fields.bits(0, 4) as u8);
    }
}

fn execute_select<M: Machine>(machine: &mut M, word: u32) {
    let fields = Fields(word);
    let source = if holds(fields.bits(12, 4), machine.nzcv()) { fields.rn() } else { fields.rm() };
    let value = operand(known_format(word), machine.v(source));
    machine.set_v(fields.rd(), value.into());
}

/// Whether a condition field holds (ConditionHolds).
fn holds(condition: u32, nzcv: u8) -> bool {
    let [n, z, c, v] = [8, 4, 2, 1].map(|flag| nzcv & flag != 0);
    let base = match condition >> 1 {
        0b000 => z,
        0b001 => c,
        0b010 => n,
        0b011 => v,
        0b100 => c && !z,
        0b101 => n == v,
        0b110 => n == v && !z,
        _ => return true,
    };
    base != (condition & 1 == 1)
}
