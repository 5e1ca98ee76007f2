// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What readers may know of a VM, whatever it is doing: the answer to `status` and `ps`, replaced as a whole.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use machine::layout;

use super::{Vm, millis};
use crate::api::command::Picture;
use crate::api::types::{Process, Status};
use crate::coordinator::logs::DROPPED;
use crate::lifecycle::Phase;
use crate::system::{COORDINATOR, COORDINATOR_ID};

impl Vm {
    /// Replaces what readers see.
    pub fn publish(&mut self) {
        let mut processes = vec![self.own_row()];
        processes.extend(self.running.iter().flat_map(|running| running.set.picture()));
        let inspectors = self.running.iter().flat_map(|running| running.set.inspectors()).collect();
        let (status, started) = (self.status(), self.started);
        self.picture.send_replace(Picture { status, started, processes, inspectors });
    }

    /// What `status` answers.
    pub(super) fn status(&self) -> Status {
        Status {
            name: self.given.handover.name.clone(),
            phase: self.phase.clone(),
            machine: layout::MACHINE_NAME.to_owned(),
            generation: self.generation,
            reset_count: self.reset_count,
            memory_len: self.given.handover.memory_len,
            vcpu_count: self.given.handover.vcpu_count,
            cpu: Some(self.given.handover.cpu),
            uptime_ms: millis(self.started.elapsed()),
            log_lines_dropped: DROPPED.load(Ordering::Relaxed),
            direct_dma: self.given.handover.direct_dma().map(|id| id.to_string()).collect(),
            lost_devices: self
                .lost_devices
                .iter()
                .map(|(id, reason)| (id.to_string(), reason.clone()))
                .collect(),
            ..nothing()
        }
    }

    fn own_row(&self) -> Process {
        Process {
            name: COORDINATOR_ID.to_string(),
            role: COORDINATOR.role.to_string(),
            program: COORDINATOR.program.to_owned(),
            pid: 1,
            host_pid: None,
            generation: 1,
            state: self.phase.word().to_owned(),
            profile: COORDINATOR.profile().name.to_owned(),
            restart: COORDINATOR.restart.as_str().to_owned(),
            enforced: self.enforced.clone(),
            limits: Some(self.limits),
            observed: None,
        }
    }
}

/// The status of a VM that nothing is known of yet.
pub(super) fn nothing() -> Status {
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
    }
}
