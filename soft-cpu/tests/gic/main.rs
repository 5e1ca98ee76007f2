// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The GIC as a guest and its devices see it: through registers, wires and messages only.
//!
//! `machine` drives a GIC as a small guest would; `naive` says, from registers alone, what it should signal.
#![expect(
    clippy::cast_possible_truncation,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test may stop at the first surprise, its helpers included"
)]

mod cpu_interface;
mod distributor;
mod its_commands;
mod its_registers;
mod linux_probe;
mod machine;
mod naive;
mod properties;
mod redistributor;
mod saved;
mod threads;
