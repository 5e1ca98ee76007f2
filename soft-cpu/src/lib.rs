// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! An AArch64 CPU in software: Armv8.0 EL0 and EL1, as a guest of a virtual machine monitor sees it.
#![allow(
    clippy::indexing_slicing,
    reason = "indices into fixed arrays are masked to their length, which the optimiser then need not check"
)]
#![allow(
    clippy::cast_possible_truncation,
    reason = "taking the low bits is what most instructions do; the widths are the architecture's"
)]

mod access;
mod budget;
pub mod bus;
pub mod clock;
pub mod cluster;
mod code;
mod cpu;
mod debug;
pub mod dirty;
mod exception;
mod fp;
pub mod gic;
pub mod interrupt;
mod isa;
mod maintenance;
mod mmu;
#[cfg(test)]
#[cfg(loom)]
mod model;
mod monitor;
mod op;
mod order;
mod pmu;
mod psci;
pub mod ram;
mod restore;
pub mod saved;
mod sync;
mod sysreg;
#[cfg(test)]
#[cfg(not(loom))]
mod tests;
mod timer;
mod tlb;
pub mod vcpu;
mod wait;

pub use sysreg::identification;
pub use vcpu::{Exit, Vcpu, VcpuParts};
