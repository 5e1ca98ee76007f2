// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! "Advanced SIMD permute": UZP1, UZP2, TRN1, TRN2, ZIP1, ZIP2.

use super::data::{Fields, with_operands};
use super::lanes::{Shape, build, lane};
use super::state::{Execute, Machine, handler};

/// Decodes the class.
pub fn decode<M: Machine>(word: u32) -> Option<Execute<M>> {
    let fields = Fields(word);
    let shape = Shape::vector(fields.size(), fields.q());
    (fields.bits(12, 2) != 0 && shape.count() > 1).then_some(handler!(execute))
}

fn execute<M: Machine>(machine: &mut M, word: u32) {
    let fields = Fields(word);
    let shape = Shape::vector(fields.size(), fields.q());
    let count = shape.count();
    let m = machine.v(fields.rm());
    // Bit 14 chooses the odd or upper half.
    let part = u32::from(fields.bit(14));
    with_operands(machine, word, |_, _, n| {
        build(shape, |index| {
            let (from_m, at) = match fields.bits(12, 2) {
                // UZP: every second lane of the concatenation m:n.
                0b01 => (2 * index >= count, (2 * index) % count + part),
                // TRN: pairs of equal numbered lanes.
                0b10 => (index & 1 == 1, (index & !1) + part),
                // ZIP: interleaved halves.
                _ => (index & 1 == 1, index / 2 + part * count / 2),
            };
            lane(if from_m { m } else { n }, shape.size, at)
        })
    });
}
