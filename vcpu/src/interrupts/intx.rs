// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! INTx: the pins of PCI functions on the interrupt lines that they share.
//!
//! As a KVM irqfd with a resample fd: a function's doorbell raises its line; when the guest ends the interrupt the line
//! falls, and every function on it is told, so that those which still want something raise it again. So the line needs
//! no memory of who holds it up, and a function that a wrong peer keeps raising costs the guest what a wrong
//! device costs it. A function whose pin falls without the guest's doing asks for the same fall.

use std::sync::{Arc, OnceLock, Weak};

use ipc::doorbell::{Doorbell, Ringer};

use super::controller::InterruptController;

/// A function's pin.
#[derive(Debug)]
pub struct Pin {
    /// Says that the pin is asserted.
    pub raised: Doorbell,
    /// Tells the function that the line fell.
    pub ended: Ringer,
    /// The INTID of its line.
    pub intid: u32,
}

/// All pins. Made before the interrupt controller is.
#[derive(Default)]
pub struct Pins {
    controller: OnceLock<Weak<dyn InterruptController>>,
    pins: Vec<Pin>,
}

impl std::fmt::Debug for Pins {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pins").field("pins", &self.pins).finish_non_exhaustive()
    }
}

impl Pins {
    /// These, on no interrupt controller yet.
    pub const fn new(pins: Vec<Pin>) -> Self {
        Self { controller: OnceLock::new(), pins }
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Pin> {
        self.pins.iter()
    }

    /// The lines that there are pins on.
    pub fn intids(&self) -> Vec<u32> {
        let mut intids: Vec<u32> = self.pins.iter().map(|pin| pin.intid).collect();
        intids.sort_unstable();
        intids.dedup();
        intids
    }

    /// Wires the lines up, once.
    pub fn connect(&self, controller: &Arc<dyn InterruptController>) {
        let _ = self.controller.set(Arc::downgrade(controller));
    }

    fn set_level(&self, intid: u32, high: bool) {
        // Without an interrupt controller nothing has been raised.
        if let Some(controller) = self.controller.get().and_then(Weak::upgrade) {
            controller.set_level(intid, high);
        }
    }

    /// A pin is asserted.
    pub fn raise(&self, pin: &Pin) {
        self.set_level(pin.intid, true);
    }

    /// A pin is not asserted any more: its line falls, and whoever still holds it up says so.
    pub fn lower(&self, intid: u32) {
        self.set_level(intid, false);
        self.ended(intid);
    }

    /// Every function is to raise its pin anew, if it is asserted: the lines are those of an interrupt controller that was just
    /// loaded.
    pub fn ask_all(&self) {
        self.pins.iter().for_each(|pin| pin.ended.ring());
    }

    /// The line fell.
    pub fn ended(&self, intid: u32) {
        for pin in self.pins.iter().filter(|pin| pin.intid == intid) {
            pin.ended.ring();
        }
    }
}

#[cfg(test)]
mod tests;
