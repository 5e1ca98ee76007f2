// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! SIMD and floating point: decode, handlers and arithmetic.

use crate::op::Op;

/// Whether the identification registers report SIMD and floating point.
pub(crate) const IMPLEMENTED: bool = false;

/// Decodes a word of the SIMD and floating point space; `None` if it is unallocated.
pub(crate) fn decode(_word: u32) -> Option<Op> {
    None
}
