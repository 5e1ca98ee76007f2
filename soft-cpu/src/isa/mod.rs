// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Decoding (Arm ARM C4): the top level of the A64 encoding table, one file per class below it.
//!
//! A class's `decode` returns `None` for an unallocated encoding, which then is an Undefined exception.

use crate::fp;
use crate::op::{Op, bit, bits};

/// Decodes one instruction word.
pub(crate) fn decode(word: u32) -> Op {
    let found = match bits(word, 28, 25) {
        // Loads and stores of SIMD&FP registers, and their data processing.
        0b0110 | 0b1110 if bit(word, 26) => fp::decode(word),
        0b0111 | 0b1111 => fp::decode(word),
        _ => None,
    };
    found.unwrap_or_else(|| Op::undefined(word))
}

/// Whether what follows this word is only reached from elsewhere: an unconditional branch, or no code at all.
pub(crate) fn ends_run(word: u32) -> bool {
    bits(word, 30, 26) == 0b00101 && !bit(word, 31) || bits(word, 31, 25) == 0b110_1011 || word == 0
}
