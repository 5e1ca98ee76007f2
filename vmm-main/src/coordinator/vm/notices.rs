// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the state machine has noticed, in words for the log; and to the launcher, that the guest runs.

use std::time::Duration;

use super::action::Notice;
use super::driver::{Vm, millis};
use super::event::LifeId;
use super::execution::micros;
use super::state_machine::names;
use crate::launcher_channel::FromCoordinator;

impl Vm {
    /// Reports to the launcher, once.
    fn report_that_it_runs(&mut self) {
        if !std::mem::replace(&mut self.has_reported, true) {
            // It is the first message: the queue has room, unless the launcher is gone.
            let _ = self.to_launcher.try_send(FromCoordinator::Running);
        }
    }

    /// Tells it.
    pub(super) fn notice(&mut self, notice: Notice) {
        match notice {
            Notice::GuestRuns => {
                let (load, start) = self.clock.boot.spans();
                tracing::info!(
                    vm = %self.given.handover.name,
                    generation = self.machine.generation(),
                    load_ms = millis(load),
                    start_ms = millis(start),
                    "guest runs"
                );
                self.report_that_it_runs();
            }
            Notice::GuestArrived(phase) => {
                tracing::info!(
                    vm = %self.given.handover.name,
                    generation = self.machine.generation(),
                    "guest has come from another host, and is {phase}"
                );
                self.report_that_it_runs();
            }
            Notice::Ambiguous => {
                tracing::error!(
                    "guest is paused, and may run on the other host: see there, then `bulkhead migrate --resolve`"
                );
            }
            Notice::GuestPoweredOff => tracing::info!("guest switched itself off"),
            Notice::GuestReset => tracing::info!("guest asked for a reset"),
            Notice::DeviceLost(device, reason) => {
                tracing::warn!(%device, "{device} is lost: {reason}; the guest goes on without it");
            }
            Notice::ProcessDied(process, reason) => {
                tracing::warn!(%process, "{reason}; it is started anew, and the guest goes on");
            }
            Notice::GivenUpCheckpoint(process, count) => {
                tracing::warn!(
                    %process,
                    "{count} lives of {process} have died on its checkpoint: it begins as a controller that has failed \
                     (CSTS.CFS), for its guest to reset"
                );
            }
            Notice::Held(standstill) => {
                let (process, advice) = (standstill.process, standstill.advice(&self.given.handover.name));
                tracing::error!(%process, "{}; the guest is held: {advice}", standstill.sentence());
            }
            Notice::ProcessRevived(LifeId { generation, instance }) => {
                let took = self.revived.map_or(Duration::ZERO, |(_, since)| since.elapsed());
                tracing::info!(process = %instance, generation, took_us = micros(took), "{instance} goes on where it died");
            }
            Notice::Hanging(hanging) => {
                tracing::error!(processes = %names(&hanging), "killed, and not gone: they hang in the kernel");
            }
        }
    }
}
