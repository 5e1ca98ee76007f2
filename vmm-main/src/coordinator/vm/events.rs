// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What happens to the VM without being asked for: the guest's wishes, and the loss of processes and devices.
//!
//! A lost process costs what its row says. A lost device costs the guest that device; only if the configuration requires it
//! the VM ends. It is told once, as a warning, with the reason.

use std::collections::btree_map::Entry;
use std::time::Duration;

use ipc::instance::InstanceId;
use ipc::protocol::control::Event;

use super::{Vm, refused};
use crate::config::OnReset;
use crate::coordinator::logs;
use crate::coordinator::process::{Fault, Lost};
use crate::lifecycle::{Phase, Step, Why};
use crate::problem::{Class, Problem};
use crate::system::{Restart, device_of};

/// A guest that resets at once again and again must not turn the host into a process starter.
const BOOT_SPAN_MIN: Duration = Duration::from_secs(1);
/// Between the end of a server of ours as its client sees it, and as its parent does.
const SERVER_END_SPAN: Duration = Duration::from_millis(500);

/// Something that a process reported, or how it failed.
#[derive(Debug)]
pub(super) struct ProcessEvent {
    generation: u32,
    index: usize,
    outcome: Result<Event, String>,
}

impl Vm {
    /// Waits for the next thing that a process reports, or its failure. Cancel-safe; never returns without processes.
    pub(super) async fn next_event(&self) -> ProcessEvent {
        match &self.running {
            Some(running) => {
                let (index, outcome) = running.set.next().await;
                let outcome = outcome.map_err(|error| error.to_string());
                ProcessEvent { generation: self.generation, index, outcome }
            }
            None => std::future::pending().await,
        }
    }

    /// Decides about it.
    pub(super) async fn react(&mut self, event: ProcessEvent) {
        let ProcessEvent { generation, index, outcome } = event;
        if generation != self.generation {
            return;
        }
        match outcome {
            Ok(Event::GuestPoweredOff) => {
                tracing::info!("guest switched itself off");
                self.stop(Why::GuestPoweredOff).await;
            }
            // A paused VM stays as it is; the reset comes when it goes on.
            Ok(Event::GuestReset) if self.phase == Phase::Paused => self.reset_due = true,
            Ok(Event::GuestReset) => self.reset().await,
            Ok(Event::DeviceFailed(reason)) => self.hear_of_lost_device(index, &reason).await,
            Ok(Event::Sealed(_)) => {
                self.lose(index, "it says a second time that it is sealed".to_owned()).await
            }
            Ok(Event::DeviceOpened) => {
                self.lose(index, "it says a second time that its device is open".to_owned()).await
            }
            Ok(Event::Fatal(reason)) => self.lose(index, reason).await,
            Ok(Event::PeerFailed { name, why }) => self.lose_named(&name, &why).await,
            Err(error) => self.lose(index, error).await,
        }
        self.publish();
    }

    /// A reset is a boot: new RAM, new processes, the same kernel. Nothing of the guest's last life survives it.
    pub(super) async fn reset(&mut self) {
        tracing::info!("guest asked for a reset");
        if self.given.handover.on_reset == OnReset::Exit {
            return self.stop(Why::GuestReset).await;
        }
        let after = match self.phase.after(Step::Reset) {
            Ok(after) => after,
            Err(problem) => return self.end_by(Fault::Refused(problem)).await,
        };
        self.phase = after;
        self.reset_count = self.reset_count.saturating_add(1);
        self.publish();
        if let Some(running) = &mut self.running {
            running.set.finish().await;
        }
        self.running = None;
        if let Err(error) = self.launcher.reopen_all(&self.system, &mut self.given.objects).await {
            let problem = refused("stand in for a device's server", &error);
            return self.end_by(Fault::Refused(problem)).await;
        }
        tokio::time::sleep(BOOT_SPAN_MIN.saturating_sub(self.booted.elapsed())).await;
        self.boot().await;
    }

    /// The process at `index` is lost: it said so, or it showed so.
    async fn lose(&mut self, index: usize, said: String) {
        let Some(process) = self.running.as_mut().and_then(|running| running.set.at_mut(index)) else {
            return self.end_by(Fault::Refused(refused("find a process that has ended", &said))).await;
        };
        let fault = process.lost(&said).await;
        // What it costs beyond a device is in the report.
        let _ = self.survive(fault).await;
    }

    /// Another process says that this one has failed. One that is gone already has been decided about.
    async fn lose_named(&mut self, name: &str, why: &str) {
        let process = self.running.as_mut().and_then(|running| running.set.get_mut(name.parse().ok()?));
        let Some(process) = process else { return };
        let fault = process.lost(&logs::printable(why.as_bytes())).await;
        let _ = self.survive(fault).await;
    }

    /// Decides about a fault: a refusal leaves the VM as it is, and so does the loss of a process that costs a device
    /// only. Any other loss ends the VM. The problem is what whoever asked is told; none if the VM goes on without a device.
    pub(super) async fn survive(&mut self, fault: Fault) -> Result<(), Problem> {
        let lost = match fault {
            Fault::Refused(problem) => return Err(problem),
            Fault::Lost(lost) => lost,
        };
        let problem = lost.problem.clone();
        if lost.instance.template.restart == Restart::EndsVm {
            self.end_by(Fault::Lost(lost)).await;
            return Err(problem);
        }
        if let Some(running) = &mut self.running {
            running.set.remove(lost.instance.id).await;
        }
        let Some(device) = device_of(lost.instance.id) else { return Ok(()) };
        // Its own end says more than the closed connection that its client has seen.
        self.lost_devices.remove(&device);
        if let Err(required) = self.lose_device(device, &problem.what) {
            let lost = Lost { problem: required.clone(), ..lost };
            self.end_by(Fault::Lost(lost)).await;
            return Err(required);
        }
        Ok(())
    }

    /// A device is lost while the guest runs.
    async fn hear_of_lost_device(&mut self, index: usize, reason: &str) {
        let Some(running) = &mut self.running else { return };
        let Some(id) = running.set.at_mut(index).map(|process| process.instance.id) else { return };
        let server = self.system.server_of(id);
        if let Some(server) = server.and_then(|server| running.set.get_mut(server))
            && server.ends_within(SERVER_END_SPAN).await
        {
            let fault = server.lost(&"its end was seen by its client").await;
            let _ = self.survive(fault).await;
            return;
        }
        if let Err(problem) = self.lose_device(id, reason) {
            self.end_by(Fault::Refused(problem)).await;
        }
    }

    /// Notes that the guest is without this device from now on, and warns. An error: the VM is not to be without it.
    pub(super) fn lose_device(&mut self, id: InstanceId, reason: &str) -> Result<(), Problem> {
        let reason = logs::printable(reason.as_bytes());
        let reason = self.launcher.unreachable(id).unwrap_or(reason);
        if self.given.handover.requires(id) {
            return Err(Problem::new(
                Class::Died,
                format!("the device {id} is lost: {reason}"),
                id.to_string(),
                "the VM is not to run without it (`required = true`): see to its server, then start the VM again",
            ));
        }
        if let Entry::Vacant(first) = self.lost_devices.entry(id) {
            tracing::warn!(device = %id, "{id} is lost: {reason}; the guest goes on without it");
            first.insert(reason);
        }
        Ok(())
    }

    /// Ends the VM because of `fault`.
    pub(super) async fn end_by(&mut self, fault: Fault) {
        let (problem, last_lines) = match fault {
            Fault::Lost(Lost { problem, last_lines, .. }) => (problem, last_lines),
            Fault::Refused(problem) => (problem, Vec::new()),
        };
        self.stop(Why::Failed { problem, last_lines }).await;
    }
}
