// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The Arm System MMU version 3, as its manual has it: types, tables and walks, and no I/O.
//!
//! `spec` holds the layouts of registers, tables, commands and events and nothing else; `queue` the arithmetic of the
//! circular queues; `model` what an SMMU of ours advertises; `translate` the path from (stream, address) to an output
//! address; `tlb` the caches with their invalidation; `attachment` the message of a vSMMU to a device about its
//! stream. Everything here is a pure function or a plain value: memory is reached through `memory::Memory` only,
//! every loop has a stated bound, and no input makes anything panic. The vSMMU process and the software translation
//! engine of the device processes share it. Manual: Arm IHI 0070, issue H.a; a section number in a comment is of that
//! issue.

// Guests' structures are little-endian; the bitfields below are written in the host's order.
const _: () = assert!(cfg!(target_endian = "little"), "bit layouts assume a little-endian host");

pub mod addr;
pub mod attachment;
pub mod command;
pub mod engine;
pub mod memory;
pub mod model;
pub mod queue;
pub mod spec;
pub mod tlb;
pub mod translate;

pub use addr::{StreamId, SubstreamId};
pub use attachment::Attachment;
pub use model::{Granules, Model, ModelError, Options};
