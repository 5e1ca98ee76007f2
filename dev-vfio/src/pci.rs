// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The PCI function that the guest sees: pure state, driven by accesses, without I/O.
//!
//! [`config_space`] is what configuration reads and writes meet, [`bar`] where the function's memory lies,
//! [`msix`] the emulated MSI-X table, [`intx`] the pin, [`windows`] what of the BARs may be memory to the guest. What has to be asked of, or told to, the device behind is returned to
//! the caller, who does it without a lock held. Public contract: PCI Local Bus 3.0 and PCI Express Base 5.0.

pub mod bar;
pub mod config_space;
pub mod intx;
pub mod msix;
pub mod windows;
