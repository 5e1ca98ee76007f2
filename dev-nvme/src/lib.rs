// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! An NVMe controller in a process of its own, for any vfio-user client: a raw image in, a PCI device out.
//!
//! ```text
//!   spec  <-  queue, prp, controller (pure)  <-  io, engine (DMA and medium through traits)  <-  device  <-  service
//! ```
//!
//! Neither the client nor the host behind it is trusted: whatever registers, queues and memory contain, the worst
//! result is an NVMe error status, a fatal controller status until the next reset, or the end of the connection.
//! Specification: NVM Express Base, revision 1.4.
#![forbid(unsafe_code)]

pub mod checkpoint;
pub mod controller;
pub mod device;
pub mod dma;
pub mod engine;
pub mod identity;
pub mod io;
pub mod journal;
pub mod media;
pub mod pci;
pub mod prp;
pub mod queue;
pub mod saved;
pub mod service;
pub mod spec;

pub use device::Device;
