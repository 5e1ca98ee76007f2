// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The vSMMUv3 of one guest: a pure, synchronous model, and the process around it.
//!
//! The model (`smmu` and the modules it is made of) does no I/O: a register access or a step of the
//! Command queue goes in with the guest's memory and the devices' stage 1 seam, a changed register file
//! and a set of requested effects (`effects`) come out. `service` gives it a ring, a register page, eventfds and a
//! control channel; `main.rs` only wires that up. The guest chooses every register value and every byte
//! of the queues, so nothing here may panic whatever they are.
//! Manual: Arm IHI 0070, issue H.a.
#![forbid(unsafe_code)]

pub mod checkpoint;
pub mod cmdq;
pub mod device;
pub mod devices;
pub mod effects;
pub mod eventq;
pub mod gerror;
pub mod host;
pub mod inspect;
pub mod link;
pub mod memory;
pub mod mmio;
pub mod publish;
pub mod regfile;
mod response_budget;
pub mod saved;
pub mod service;
pub mod smmu;
pub mod stream;

pub use smmu::Smmu;
