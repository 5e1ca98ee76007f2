// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The codec against its specification, and connections against peers that do not keep to it.
#![allow(clippy::cast_possible_truncation, reason = "a test may stop at the first surprise")]

mod codec;
mod hostile;
mod kept;
mod pair;
