// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Decode of the loads and stores of SIMD&FP registers to their classes (C4.1.66).

use super::data::Fields;
use super::state::{Execute, Machine};
use super::{load_store_register, load_store_structures};

/// Finds the handler of a load or store (bits 27 and 26 set, bit 25 clear).
pub fn decode<M: Machine>(word: u32) -> Option<Execute<M>> {
    let fields = Fields(word);
    match (fields.bits(28, 2), fields.bits(23, 2)) {
        (0b00, 0b00 | 0b01) if !fields.bit(31) => load_store_structures::multiple(word),
        (0b00, 0b10 | 0b11) if !fields.bit(31) => load_store_structures::single(word),
        (0b01, 0b00 | 0b01) => load_store_register::literal(word),
        (0b10, _) => load_store_register::pair(word),
        (0b11, _) => load_store_register::single(word),
        _ => None,
    }
}
