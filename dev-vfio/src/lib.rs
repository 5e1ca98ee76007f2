// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The process of one assigned device: what the guest sees of it, and what it may see of the guest.
//!
//! `pci` is the function as the guest meets it, `backend` the seam to what is behind it: `vfio_user` (a server) or
//! `physical` (a device of the host); `iommu` is the seam to what translates its DMA, `stage1_link` the vSMMU's
//! requests, `function_link` windows and routes for the vCPU process; `function` joins them, `saved` is its saved
//! state, `opening` opens it, `threads` and `service` run it, `connect` wires its interrupts. Each program is this
//! library over one back end. One process per device: a device that breaks its process, or its process that is taken
//! over, reaches guest RAM as that device may, its own interrupts, and nothing else. Called by the coordinator
//! (control), the vCPU process (ring), the vSMMU (stage 1) and the device's server; none of them is trusted with more
//! than its protocol.

pub mod backend;
mod connect;
mod connected;
pub mod function;
pub mod function_link;
pub mod gate;
pub mod iommu;
pub mod keeper;
mod opening;
pub mod pci;
pub mod physical;
pub mod saved;
pub mod service;
pub mod stage1_link;
mod threads;
pub mod vfio_user;
