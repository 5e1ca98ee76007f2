// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The function's interrupts: from the device's eventfds to the guest.
//!
//! Three paths. For a vector with an irqfd in the vCPU process only its route is updated from here, at each change
//! ([`Function::follow`]). A signal of any other vector becomes an MSI here. The pin is a level, whose changes go to
//! the vCPU process and come back at the end of the interrupt.

use std::sync::atomic::Ordering::Relaxed;

use super::{Device, Function, lock};
use crate::backend::{Arrival, Backend};
use crate::pci::intx;
use crate::pci::msix::{CONTROL_ENABLE, Message};

impl<B: Backend> Function<B> {
    /// Called after anything that may have changed MSI-X state: updates the routes of the vectors, and connects the
    /// kind of interrupt that is enabled.
    pub(super) fn follow(&self, device: &Device<B>) {
        // Before the device can signal the kind that is enabled now, and before pending signals of the other are
        // dropped.
        self.route_vectors();
        let msix = lock(&device.space).msix.control() & CONTROL_ENABLE != 0;
        if self.settle(device.end.switch_interrupts(msix)) == Some(true)
            && msix
            && let Some(intx) = &mut lock(&device.space).intx
        {
            intx.disconnected();
        }
    }

    /// Updates the routes of the vectors that the vCPU process listens to; all are cleared once the device has
    /// failed.
    pub(super) fn route_vectors(&self) {
        let wanted = || {
            let device = self.working();
            let space = device.map(|device| lock(&device.space));
            let messages = space.iter().flat_map(|space| space.msix.messages());
            messages.map(|message| message.map(|message| message.data)).collect()
        };
        if let Err(error) = self.link.route(wanted) {
            ipc::log::warn!(
                "{}: MSIs are delivered through the device's process from now on (slower): {error}",
                self.name
            );
        }
    }

    /// The device signals a vector.
    pub fn signal(&self, vector: usize) {
        let Some(device) = &self.device else { return };
        let message = lock(&device.space).msix.signal(vector);
        if message.is_none() {
            self.keep();
        }
        self.send_all(message.as_slice());
    }

    /// The device signals INTx.
    pub fn signal_intx(&self) {
        let Some(device) = &self.device else { return };
        let _open = self.gate.enter();
        let effect = lock(&device.space).intx.as_mut().map_or(intx::Effect::Nothing, intx::Intx::signal);
        self.keep();
        self.apply(device, effect);
    }

    /// The interrupt line was deasserted at the end of an interrupt.
    pub fn intx_ended(&self) {
        let Some(device) = self.working() else { return };
        let effect = lock(&device.space).intx.as_mut().map_or(intx::Effect::Nothing, intx::Intx::ended);
        self.keep();
        self.apply(device, effect);
    }

    pub(super) fn apply(&self, device: &Device<B>, effect: intx::Effect) {
        match effect {
            intx::Effect::Nothing => {}
            intx::Effect::Raise => {
                self.pin_raised.fetch_add(1, Relaxed);
                self.msi.pin.ring();
            }
            // It is unmasked at resume instead, if its pin is deasserted: a stopped device could signal unseen, or
            // ignore the request.
            intx::Effect::Unmask if B::LOSES_UNMASK && self.stopped.load(Relaxed) => {}
            intx::Effect::Unmask => drop(self.settle(device.end.unmask_intx())),
            intx::Effect::Lower => {
                if let Err(error) = self.link.lower_intx()
                    && self.events.has_listener()
                {
                    ipc::log::warn!(
                        "{}: deasserting INTx over the function link failed, the line may stay high: {error}",
                        self.name
                    );
                }
            }
        }
    }

    /// Delivers MSIs by the back end's path.
    pub(super) fn send_all(&self, messages: &[Message]) {
        for message in messages.iter().copied() {
            let arrived = {
                let _open = self.gate.enter();
                let arrived = B::send(&mut self.iommu(), message, self.msi.doorbell);
                if arrived == Arrival::Doorbell {
                    self.raise(message.data);
                }
                arrived
            };
            if arrived == Arrival::Nowhere {
                self.stage1.tell_faults(&self.iommu, &self.gate);
            }
        }
    }

    /// The ITS ignores an EventID out of range; that is no translation fault.
    fn raise(&self, event: u32) {
        self.messages.fetch_add(1, Relaxed);
        if self.msi.board.post(event) {
            self.msi.ringer.ring();
        }
    }
}
