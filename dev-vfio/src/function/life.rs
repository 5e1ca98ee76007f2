// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The function from one life of its process to the next: holding still, being saved, being armed with what was saved, going on.
//!
//! The order in which a restored function comes to be: its MSI-X table and pin before the device may signal, routes before
//! windows are shown, all of it before the gate opens. What the guest is owed (a pending message whose vector is not masked,
//! a pin that is asserted) it gets when the gate opens.

use std::io::Write;
use std::sync::atomic::Ordering::Relaxed;

use ipc::protocol::control::Quiescence;
use ipc::saved::stream::UnitWriter;

use super::{Function, lock};
use crate::backend::{Backend, DeviceEnd, DeviceError};
use crate::pci::intx;

impl<B: Backend> Function<B> {
    /// Lets it begin. `restored`: the device is stopped, and the guest may be owed interrupts.
    pub fn begin(&self, restored: bool) {
        self.gate.open();
        if restored {
            self.run();
            self.repeat_interrupts();
        }
    }

    /// Puts into force what was restored: who is bus master, which interrupts are connected and what they mean, which windows
    /// are shown. Nothing moves: the device is stopped and the gate closed. A device that fails here has failed.
    pub fn arm(&self) {
        let Some(device) = self.working() else { return };
        self.stopped.store(true, Relaxed);
        self.follow_bus_master(device);
        self.follow(device);
        self.show_windows();
    }

    /// What was let through and not brought before it was saved.
    fn repeat_interrupts(&self) {
        let Some(device) = self.working() else { return };
        let (released, raised) = {
            let mut space = lock(&device.space);
            (space.msix.released(), space.intx.is_some_and(|intx| intx.is_raised()))
        };
        self.send_all(&released);
        if raised {
            self.apply(device, intx::Effect::Raise);
        }
    }

    /// Lets the device go on. One that cannot has failed.
    pub fn run(&self) {
        let Some(device) = self.working() else { return };
        self.stopped.store(false, Relaxed);
        if let Err(error) = device.end.set_running(true) {
            self.fail(&error.to_string());
            return;
        }
        let is_quiet = || lock(&device.space).intx.is_some_and(|intx| !intx.is_pending());
        if B::LOSES_UNMASK && is_quiet() {
            self.settle(device.end.unmask_intx());
        }
    }

    /// Stops the device; one without such states is kept from the guest by the gate alone. A refusal is no loss of one that
    /// runs on.
    ///
    /// # Errors
    /// That it has refused, and runs on.
    pub fn stop(&self) -> Result<(), String> {
        let Some(device) = self.working() else { return Ok(()) };
        // Before it is asked: what its pin is owed from here on it gets when it goes on.
        self.stopped.store(true, Relaxed);
        match device.end.set_running(false) {
            Err(error) if error.is_refusal() => {
                self.run();
                Err(error.to_string())
            }
            Err(error) => {
                self.fail(&error.to_string());
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// Has the device back from a next life that did not come to be, and lets it go on.
    pub fn go_on(&self) {
        if let Some(device) = self.working() {
            match device.end.take_back() {
                Ok(()) => self.settle_orders(|device| device.after_orders(&self.iommu)),
                Err(error) => self.fail(&format!("not taken back after a save: {error}")),
            }
        }
        self.gate.open();
        self.run();
    }

    /// Whether it could be saved now.
    ///
    /// # Errors
    /// Why it could not.
    pub fn check_save(&self) -> Result<(), String> {
        if let Some(reason) = self.failure() {
            return Err(format!("its device is lost: {reason}"));
        }
        self.working().map_or(Ok(()), |device| device.end.check_save())
    }

    /// Writes its state. It holds still, and goes on holding still.
    ///
    /// # Errors
    /// Why it cannot be saved.
    pub fn save(&self, into: &mut dyn Write) -> Result<(), String> {
        self.check_save()?;
        let Some(device) = self.working() else { return Err("its device is lost".to_owned()) };
        let mut units = UnitWriter::new(into);
        let function = lock(&device.space).save();
        units.append(&function).map_err(|error| error.to_string())?;
        device.end.save(&mut units).map_err(|error| error.to_string())
    }

    /// What of the device is in flight.
    pub fn in_flight(&self) -> Quiescence {
        self.device().map(DeviceEnd::in_flight).unwrap_or_default()
    }
}
