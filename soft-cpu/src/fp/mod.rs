// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! SIMD and floating point of Armv8.0, cryptography, dot product: decode, execution, arithmetic.
//!
//! `wire` ties this to the CPU; nothing else here knows it. One file per encoding class of the manual (DDI 0487, C4.1):
//! `load_store_*` for the memory accesses, `data` for the dispatch of data processing to its classes. A class decodes
//! an instruction word to a handler, or to `None` if the encoding is unallocated, and the handler takes its operands
//! from the word. `lanes` and `integer` hold what lanes have in common, `float` the arithmetic on bit patterns, exact
//! in every rounding mode and with every flag.

mod across_lanes;
mod copy;
mod crypto;
mod data;
mod dot_product;
mod extract_table;
mod float;
mod indexed_element;
mod integer;
mod lanes;
mod load_store;
mod load_store_register;
mod load_store_structures;
mod modified_immediate;
mod permute;
mod scalar_compare;
mod scalar_convert;
mod scalar_float;
mod shift_immediate;
mod state;
#[cfg(test)]
#[cfg(not(loom))]
pub(crate) mod tests;
mod three_different;
mod three_same;
mod three_same_float;
mod two_reg_misc;
mod two_reg_misc_float;
mod wire;

use crate::op::Op;

/// Whether the identification registers report SIMD and floating point.
pub(crate) const IMPLEMENTED: bool = true;

/// Decodes a word of the SIMD and floating point space; `None` if it is unallocated.
pub(crate) fn decode(word: u32) -> Option<Op> {
    handler(word).map(|run| Op::new(word, run))
}

/// The handler of a word, on any machine.
fn handler<M: state::Machine>(word: u32) -> Option<state::Execute<M>> {
    // Bit 25 tells data processing from loads and stores.
    if word >> 25 & 1 == 1 { data::decode(word) } else { load_store::decode(word) }
}
