// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Tests of SIMD and floating point: every instruction on a stand-in for the CPU, against naive references written from
//! the definitions, against the host's arithmetic, and against another implementation where one is installed.

mod arithmetic;
mod cases;
mod conversion;
mod crypto_and_dot_product;
mod differential;
mod exact;
mod integer_lanes;
pub(crate) mod machine;
mod memory;
mod moves;
mod nan;
pub(crate) mod oracle;
pub(crate) mod program;
mod wired;
