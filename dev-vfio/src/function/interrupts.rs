// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The function's interrupts: from the device's eventfds to the guest.
//!
//! Three ways. A vector that the vCPU process listens to by itself is none of ours but for being told, at each change,
//! what its signal means ([`Function::follow`]). Every other vector's signal becomes a message here. The pin is a level
//! whose edges go both ways.

use std::sync::atomic::Ordering::Relaxed;

use super::{Device, Function, lock};
use crate::backend::{Arrival, Backend};
use crate::pci::intx;
use crate::pci::msix::{CONTROL_ENABLE, Message};

impl<B: Backend> Function<B> {
    /// After anything that may have changed what the guest's MSI-X lets through: what vectors mean is told, and a device that
    /// has one kind of interrupt at a time has the one that is enabled.
    pub(super) fn follow(&self, device: &Device<B>) {
        // Before the device can signal what is now enabled, and before what was disabled is forgotten.
        self.route_vectors();
        let msix = lock(&device.space).msix.control() & CONTROL_ENABLE != 0;
        if self.settle(device.end.switch_interrupts(msix)) == Some(true)
            && msix
            && let Some(intx) = &mut lock(&device.space).intx
        {
            intx.disconnected();
        }
    }

    /// Tells the vCPU process what the vectors mean that it listens to: nothing, once the device has failed.
    pub(super) fn route_vectors(&self) {
        let wanted = || {
            let device = self.working();
            let space = device.map(|device| lock(&device.space));
            let messages = space.iter().flat_map(|space| space.msix.messages());
            messages.map(|message| message.map(|message| message.data)).collect()
        };
        if let Err(error) = self.link.route(wanted) {
            ipc::log::warn!("{}: vectors are brought by its own process from now on: {error}", self.name);
        }
    }

    /// The device signals a vector.
    pub fn signal(&self, vector: usize) {
        let Some(device) = &self.device else { return };
        let message = lock(&device.space).msix.signal(vector);
        self.send_all(message.as_slice());
    }

    /// The device signals INTx.
    pub fn signal_intx(&self) {
        let Some(device) = &self.device else { return };
        let _open = self.gate.enter();
        let effect = lock(&device.space).intx.as_mut().map_or(intx::Effect::Nothing, intx::Intx::signal);
        self.apply(device, effect);
    }

    /// The line of the pin fell.
    pub fn intx_ended(&self) {
        let Some(device) = self.working() else { return };
        let effect = lock(&device.space).intx.as_mut().map_or(intx::Effect::Nothing, intx::Intx::ended);
        self.apply(device, effect);
    }

    pub(super) fn apply(&self, device: &Device<B>, effect: intx::Effect) {
        match effect {
            intx::Effect::Nothing => {}
            intx::Effect::Raise => {
                self.pin_raised.fetch_add(1, Relaxed);
                self.msi.pin.ring();
            }
            // When it goes on it is unmasked, if its pin is quiet. Now it would signal behind our back, or pass the order over.
            intx::Effect::Unmask if B::LOSES_UNMASK && self.stopped.load(Relaxed) => {}
            intx::Effect::Unmask => drop(self.settle(device.end.unmask_intx())),
            intx::Effect::Lower => {
                if let Err(error) = self.link.lower_intx()
                    && self.events.has_listener()
                {
                    ipc::log::warn!("{}: its interrupt line may stay high: {error}", self.name);
                }
            }
        }
    }

    /// Sends messages, by the back end's path.
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

    /// An event beyond the interrupt controller's is ignored there too; it is no fault of the translation.
    fn raise(&self, event: u32) {
        self.messages.fetch_add(1, Relaxed);
        if self.msi.board.post(event) {
            self.msi.ringer.ring();
        }
    }
}
