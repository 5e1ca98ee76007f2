// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! "Advanced SIMD extract" (EXT) and "table lookup" (TBL, TBX): bytes chosen out of several registers.

use super::data::{Fields, with_operands};
use super::lanes::{Shape, Size, lane, map2};
use super::state::{Execute, Machine, handler};

/// Decodes EXT.
pub fn extract<M: Machine>(word: u32) -> Option<Execute<M>> {
    let fields = Fields(word);
    let allowed = fields.bits(22, 2) == 0 && !fields.bit(10) && (fields.q() || !fields.bit(14));
    allowed.then_some(handler!(execute_extract))
}

/// Decodes TBL and TBX.
pub fn table<M: Machine>(word: u32) -> Option<Execute<M>> {
    (Fields(word).bits(22, 2) == 0).then_some(handler!(execute_table))
}

/// A window over the concatenation `m:n`, `imm4` bytes up.
fn execute_extract<M: Machine>(machine: &mut M, word: u32) {
    let fields = Fields(word);
    let shape = Shape::vector(Size::B, fields.q());
    let shift = 8 * fields.bits(11, 4);
    let m = machine.v(fields.rm());
    with_operands(machine, word, |_, _, n| {
        let high = m.checked_shl(shape.width - shift).unwrap_or(0);
        ((n & shape.mask()) >> shift | high) & shape.mask()
    });
}

/// Bytes of one to four consecutive registers by the indices in Vm; beyond the table TBL gives 0 and TBX keeps Vd.
fn execute_table<M: Machine>(machine: &mut M, word: u32) {
    let fields = Fields(word);
    let registers = fields.bits(13, 2) + 1;
    let keep = fields.bit(12);
    let indices = machine.v(fields.rm());
    let table: [u128; 4] = std::array::from_fn(|at| machine.v(fields.rn() + at as u32));
    with_operands(machine, word, |_, d, _| {
        map2(Shape::vector(Size::B, fields.q()), d, indices, |old, index| {
            let (register, byte) = (index as u32 / 16, index as u32 % 16);
            match table.get(register as usize) {
                Some(value) if register < registers => lane(*value, Size::B, byte),
                _ if keep => old,
                _ => 0,
            }
        })
    });
}
