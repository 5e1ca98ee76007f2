// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The interface of an interrupt controller towards devices.
//!
//! Two are behind it, KVM's GIC (`crate::kvm`) and the software one (`crate::soft`). Any thread may call; none of the
//! calls waits for a device or for another process.

use std::os::fd::OwnedFd;
use std::sync::Arc;

/// An interrupt controller, as devices reach it.
pub trait InterruptController: Send + Sync + 'static {
    /// Makes an edge-triggered shared peripheral interrupt pending once.
    fn pulse(&self, intid: u32);

    /// Raises the wire of a level-triggered shared peripheral interrupt, or lowers it.
    fn set_level(&self, intid: u32, high: bool);

    /// Signals an MSI of the device to the ITS, which ignores one that no table maps.
    fn signal_msi(&self, device_id: u32, event_id: u32);

    /// Lines whose end of interrupt is signalled by an eventfd. Empty if it calls [`super::intx::Pins::ended`]
    /// itself.
    fn resampled(&self) -> &[ResampledLine];

    /// Whether the end of an interrupt on such a line may be lost unless the vCPU leaves the guest before it.
    fn loses_ends(&self) -> bool;

    /// Makes every vCPU leave the guest for a moment.
    fn kick_vcpus(&self);
}

/// A level-triggered line with an eventfd for the end of its interrupt (KVM's resamplefd).
#[derive(Debug)]
pub struct ResampledLine {
    /// Signalled when the guest ended the interrupt and the line was deasserted; non-blocking, and not shared with
    /// other processes.
    pub fell: OwnedFd,
    /// INTID of a shared peripheral interrupt.
    pub intid: u32,
}

/// The shared peripheral interrupt of a device in this process.
#[derive(Clone)]
pub struct Spi {
    controller: Arc<dyn InterruptController>,
    intid: u32,
}

impl std::fmt::Debug for Spi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spi").field("intid", &self.intid).finish_non_exhaustive()
    }
}

impl Spi {
    /// The interrupt with this INTID.
    pub fn new(controller: Arc<dyn InterruptController>, intid: u32) -> Self {
        Self { controller, intid }
    }

    /// Makes it pending once, if it is edge-triggered.
    pub fn pulse(&self) {
        self.controller.pulse(self.intid);
    }

    /// Raises or lowers its wire, if it is level-triggered.
    pub fn set_level(&self, high: bool) {
        self.controller.set_level(self.intid, high);
    }
}
