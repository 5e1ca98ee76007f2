// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The published snapshot of a VM, from which `status` and `ps` are answered at any time; replaced as a whole.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Instant;

use ipc::instance::InstanceId;
use machine::layout;

use super::driver::{Vm, millis};
use super::migration::Migration;
use super::state_machine::{Deaths, Standstill};
use crate::api::command::Snapshot;
use crate::api::types::{self, MigrationProgress, Process, Status};
use crate::coordinator::launcher::Launcher;
use crate::coordinator::logs::DROPPED;
use crate::lifecycle::Phase;

use crate::system::{Instance, Restart, System};

impl Vm {
    /// Replaces the snapshot.
    pub(super) fn publish(&mut self) {
        let mut processes = vec![self.own_row()];
        let mut inspectors = Vec::new();
        // In the table's order.
        let lives = self.system.processes().iter().map(|process| (process, self.machine.life_of(process.id)));
        for (instance, life) in lives.chain([(self.system.mover(), self.machine.mover())]) {
            let restart = self.given.handover.restart_of(instance.id, instance.template);
            let Some(life) = life else {
                if self.machine.missing().any(|missing| missing == instance.id) {
                    processes.push(Process { state: "dead".to_owned(), ..table_row(instance, restart) });
                }
                continue;
            };
            // A process is listed from hello on.
            let Some((handle, enforced)) =
                self.processes.get(&life).and_then(|handle| Some((handle, handle.enforced.as_ref()?)))
            else {
                continue;
            };
            let state = self.machine.state_of(life);
            processes.push(Process {
                pid: handle.pid,
                generation: life.generation,
                state: state.map_or_else(|| "dead".to_owned(), |state| format!("{state:?}").to_lowercase()),
                enforced: enforced.clone(),
                limits: Some(handle.limits),
                program_file: self.programs.path_of(life.instance).map(str::to_owned),
                ..table_row(instance, restart)
            });
            inspectors.push(handle.inspector.clone());
        }
        let (status, started) = (self.status(), self.started);
        let owed = self.migration.as_ref().and_then(Migration::owed);
        self.snapshot.send_replace(Snapshot { status, started, processes, inspectors, owed });
    }

    /// The answer to `status`.
    pub(super) fn status(&self) -> Status {
        let lost = self.machine.lost_devices().iter();
        Status {
            name: self.given.handover.name.clone(),
            phase: self.machine.phase().clone(),
            machine: layout::MACHINE_NAME.to_owned(),
            generation: self.machine.generation(),
            reset_count: self.machine.reset_count(),
            memory_len: self.given.handover.memory_len,
            vcpu_count: self.given.handover.vcpu_count,
            cpu: Some(self.given.handover.cpu),
            uptime_ms: millis(self.started.elapsed()),
            log_lines_dropped: DROPPED.load(Ordering::Relaxed),
            direct_dma: self.given.handover.direct_dma().map(|id| id.to_string()).collect(),
            lost_devices: lost.map(|(device, reason)| (device.to_string(), reason.clone())).collect(),
            hang_deadline_s: self.given.handover.hang_deadline,
            held: self.machine.standstill().map(|standstill| self.held(standstill)),
            deaths: self.deaths(),
            programs: self.programs.shown(),
            shape: Some(self.system.shape().clone()),
            migration: self.migration_progress(),
            other_host: self.other_host.clone(),
            ..nothing()
        }
    }

    fn held(&self, standstill: &Standstill) -> types::Held {
        let Standstill { process, cause, .. } = standstill;
        types::Held {
            process: process.to_string(),
            deaths_per_minute: cause.deaths(),
            reason: standstill.sentence(),
            advice: standstill.advice(&self.given.handover.name),
            missing: self.machine.missing().map(|missing| missing.to_string()).collect(),
        }
    }

    fn deaths(&self) -> BTreeMap<String, types::Deaths> {
        let deaths = self.machine.deaths().iter();
        let shown = deaths.map(|(process, Deaths { count, last, .. })| {
            (process.to_string(), types::Deaths { count: *count, last: last.clone() })
        });
        shown.collect()
    }

    fn migration_progress(&self) -> Option<MigrationProgress> {
        let state = self.machine.migration_state()?;
        let memory_len = self.given.handover.memory_len;
        self.migration.as_ref().map(|migration| migration.progress(state, memory_len))
    }

    fn own_row(&self) -> Process {
        Process {
            pid: 1,
            generation: 1,
            state: self.machine.phase().to_string(),
            enforced: self.enforced.clone(),
            limits: Some(self.limits),
            ..table_row(self.system.coordinator(), self.system.coordinator().template.restart)
        }
    }
}

/// A process's row, as far as the system table and the restart policy determine it.
fn table_row(instance: &Instance, restart: Restart) -> Process {
    Process {
        name: instance.id.to_string(),
        role: instance.id.role.to_string(),
        program: instance.template.program.to_owned(),
        pid: 0,
        host_pid: None,
        generation: 0,
        state: String::new(),
        profile: instance.profile_name.to_owned(),
        restart: restart.as_str().to_owned(),
        enforced: Vec::new(),
        limits: None,
        program_file: None,
        observed: None,
    }
}

/// The devices whose servers the launcher could not reach, and why.
pub(super) fn unreachable(system: &System, launcher: &Launcher) -> BTreeMap<InstanceId, String> {
    system
        .processes()
        .iter()
        .filter_map(|process| Some((process.id, launcher.unreachable(process.id)?)))
        .collect()
}

/// The snapshot before the first event.
pub(super) fn empty(started: Instant) -> Snapshot {
    Snapshot { status: nothing(), started, processes: Vec::new(), inspectors: Vec::new(), owed: None }
}

fn nothing() -> Status {
    Status {
        name: String::new(),
        phase: Phase::Created,
        build: ipc::hello::BUILD.to_owned(),
        machine: String::new(),
        generation: 0,
        reset_count: 0,
        memory_len: 0,
        vcpu_count: 0,
        cpu: None,
        uptime_ms: 0,
        log_lines_dropped: 0,
        direct_dma: Vec::new(),
        lost_devices: BTreeMap::new(),
        hang_deadline_s: 0,
        held: None,
        deaths: BTreeMap::new(),
        programs: BTreeMap::new(),
        shape: None,
        migration: None,
        other_host: None,
    }
}
