// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! INTx: the pins of PCI functions on the interrupt lines that they share.
//!
//! Works like a KVM irqfd with a resamplefd: a function's doorbell raises its line; at the end of the interrupt the
//! line is lowered, and every function on it is notified, so that those still asserting their pin raise it again. So
//! the line does not track which functions hold it, and a faulty function that keeps raising it has the effect of
//! faulty hardware. A function whose pin is deasserted without an end of interrupt requests the same lowering.

use std::sync::{Arc, OnceLock, Weak};

use ipc::doorbell::{Doorbell, Ringer};

use super::controller::InterruptController;

/// A function's pin.
#[derive(Debug)]
pub struct Pin {
    /// Doorbell: the pin is asserted.
    pub raised: Doorbell,
    /// Doorbell to the function: the line was lowered.
    pub ended: Ringer,
    /// The INTID of its line.
    pub intid: u32,
}

/// All pins. Made before the interrupt controller.
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
    /// These pins, with no interrupt controller yet.
    pub const fn new(pins: Vec<Pin>) -> Self {
        Self { controller: OnceLock::new(), pins }
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Pin> {
        self.pins.iter()
    }

    /// The lines with pins on them.
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
        // Without an interrupt controller no line is raised.
        if let Some(controller) = self.controller.get().and_then(Weak::upgrade) {
            controller.set_level(intid, high);
        }
    }

    /// A pin is asserted.
    pub fn raise(&self, pin: &Pin) {
        self.set_level(pin.intid, true);
    }

    /// A pin was deasserted: lowers its line, and has its functions raise it again if they still assert.
    pub fn lower(&self, intid: u32) {
        self.set_level(intid, false);
        self.ended(intid);
    }

    /// Has every function raise its line again if its pin is asserted: the interrupt controller was just restored.
    pub fn ask_all(&self) {
        self.pins.iter().for_each(|pin| pin.ended.ring());
    }

    /// The line was lowered.
    pub fn ended(&self, intid: u32) {
        for pin in self.pins.iter().filter(|pin| pin.intid == intid) {
            pin.ended.ring();
        }
    }
}

#[cfg(test)]
mod tests;
