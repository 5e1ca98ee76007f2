// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The PCI function that the guest sees: pure state, driven by accesses, without I/O.
//!
//! [`config_space`] is the configuration space, [`bar`] the placement of BARs, [`msix`] the emulated MSI-X table,
//! [`intx`] the pin, [`windows`] the parts of BARs that may be mapped into the guest. Requests to the device are
//! returned to the caller, who makes them without a lock held. Public contract: PCI Local Bus 3.0 and PCI Express
//! Base 5.0.

pub mod bar;
pub mod config_space;
pub mod intx;
pub mod msix;
pub mod windows;
