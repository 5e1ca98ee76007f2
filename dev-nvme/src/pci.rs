// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The PCI function around the controller: configuration space, and where things are in BAR 0.

pub mod config;
pub mod msix;

/// Length of BAR 0: a page each for registers, doorbells, MSI-X table and PBA.
pub const BAR0_LEN: u64 = 0x4000;
/// Where the MSI-X table is in BAR 0. In a page of its own: a client maps or traps whole pages.
pub const MSIX_TABLE: u64 = 0x2000;
/// Where the Pending Bit Array is in BAR 0.
pub const MSIX_PBA: u64 = 0x3000;
/// Interrupt vectors: the admin queue's, and one for each I/O queue.
pub const VECTORS: u16 = crate::queue::QUEUES_MAX + 1;
