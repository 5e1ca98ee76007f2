// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The function's life cycle: stop, save, restore, resume.
//!
//! Order of a restore: MSI-X table and pin before the device may signal, routes before windows are shown, all of it
//! before the gate opens. Interrupts that were pending (an unmasked pending vector, an asserted pin) are delivered
//! when the gate opens.

use std::io::Write;
use std::sync::atomic::Ordering::Relaxed;

use ipc::protocol::control::Quiescence;
use ipc::saved::stream::UnitWriter;

use super::{Function, lock};
use crate::backend::{Backend, DeviceEnd, DeviceError, Eventfds};
use crate::opening::Windows;
use crate::pci::intx;

impl<B: Backend> Function<B> {
    /// Opens the gate for the first time. `restored`: the device is stopped, and interrupts may be pending.
    pub fn begin(&self, restored: bool) {
        self.begin_keeping();
        self.gate.open();
        if let Some(device) = self.working()
            && device.end.begin()
        {
            self.follow(device);
        }
        if restored {
            self.run();
            self.repeat_interrupts();
        }
    }

    /// Applies restored state to the back end and the vCPU process: bus master, connected interrupts, routes,
    /// windows. The device is stopped and the gate closed meanwhile. An error here fails the device.
    pub fn arm(&self) {
        let Some(device) = self.working() else { return };
        self.stopped.store(true, Relaxed);
        self.follow_bus_master(device);
        self.follow(device);
        self.show_windows();
    }

    /// Tells the vCPU process of the vectors and windows of this life, in place of those of the life before.
    pub fn introduce(&self, eventfds: &Eventfds, windows: &Windows) {
        let Some(device) = self.working() else { return };
        device.end.give_vectors(eventfds, &self.link, &self.name);
        self.route_vectors();
        let windows = windows.iter().map(|(window, file)| (*window, &**file));
        let is_shown = || self.working().is_some_and(|device| lock(&device.space).memory_answers());
        if let Err(why) = self.link.add_windows(windows, is_shown) {
            // Its accesses come through the ring then: slower, but correct.
            ipc::log::info!("{}: a part of its BARs is not mapped into the guest: {why}", self.name);
        }
    }

    /// Delivers MSIs that were released but not delivered before the save.
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

    /// Resumes the device. An error fails it.
    pub fn run(&self) {
        let Some(device) = self.working() else { return };
        self.stopped.store(false, Relaxed);
        if let Err(error) = device.end.set_running(true) {
            self.fail_by(&error);
            return;
        }
        let is_quiet = || lock(&device.space).intx.is_some_and(|intx| !intx.is_pending());
        if B::LOSES_UNMASK && is_quiet() {
            self.settle(device.end.unmask_intx());
        }
    }

    /// Stops the device; one without migration states is held by the gate alone. If it refuses, it goes on running
    /// and is not failed.
    ///
    /// # Errors
    /// If the device refuses; it still runs then.
    pub fn stop(&self) -> Result<(), String> {
        let Some(device) = self.working() else { return Ok(()) };
        // Set before the request: a pending unmask of INTx is made up for at resume.
        self.stopped.store(true, Relaxed);
        match device.end.set_running(false) {
            Err(error) if error.is_refusal() => {
                self.events.progress();
                self.run();
                Err(error.to_string())
            }
            Err(error) => {
                self.fail_by(&error);
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// Takes the device back after a failed move, and resumes it.
    pub fn go_on(&self) {
        if let Some(device) = self.working() {
            match device.end.take_back() {
                Ok(()) => self.settle_stage1(|device| device.after_stage1(&self.iommu)),
                Err(error) => self.fail(&format!("taking it back after a failed move: {error}")),
            }
        }
        self.events.progress();
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

    /// Writes its state. It is stopped before and after.
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

    /// What is in flight: the device's requests, and faults that the vSMMU has not been sent.
    pub fn in_flight(&self) -> Quiescence {
        let device = self.device().map(DeviceEnd::in_flight).unwrap_or_default();
        Quiescence { faults: self.stage1.untold_faults(&self.iommu), ..device }
    }
}
