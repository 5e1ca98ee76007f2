// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The state machine's view of the system table: order of pausing, dependencies, and failure policies.

use std::sync::Arc;

use ipc::hello::Role;
use ipc::instance::InstanceId;
use ipc::slot::SlotKind;

use crate::config::OnReset;
use crate::coordinator::handover::Handover;
use crate::system::{self, EdgeKind, Instance, Restart, RestartGroup, System};

/// The consequence of the loss of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailurePolicy {
    /// The VM ends.
    EndsVm,
    /// The guest loses this device and goes on.
    FailsDevice(InstanceId),
}

/// One instance.
#[derive(Debug, Clone)]
pub struct Member {
    /// Its name.
    pub instance: InstanceId,
    /// Members of one tier are paused, resumed and started together: the lowest tier is paused first and resumed last.
    pub tier: usize,
    /// It runs the guest's CPUs: the only one whose reports of a reset or power-off count, and the first to be ended.
    pub runs_guest: bool,
    /// After `Arm` it reports the outcome of opening its device.
    pub opens_device: bool,
    /// It writes guest RAM and has a dirty log.
    pub has_dirty_log: bool,
    /// The process that serves its device, if that is one of ours.
    pub server: Option<InstanceId>,
    /// The consequence of its loss.
    pub policy: FailurePolicy,
    /// It is not lost when it dies: its next life goes on from its checkpoint, up to so many times a minute, and by
    /// order beyond that. None: never.
    pub restarts: Option<u32>,
    /// The host does its device's DMA, and goes on when it dies.
    pub dma_is_hosts: bool,
    /// The VM ends if its device is lost.
    pub required: bool,
    /// What is started anew with it under the guest, or what there is that no next life can be given.
    pub restart: Result<RestartGroup, &'static str>,
}

/// All instances of a VM, in the order of pausing.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The instances.
    pub members: Vec<Member>,
    /// A guest's reset ends the VM.
    pub reset_ends_vm: bool,
}

impl Plan {
    /// The plan of the VM that was handed over.
    pub fn of(system: &System, handover: &Handover) -> Self {
        let member = |instance: &Arc<Instance>| {
            let id = instance.id;
            let policy = match (instance.template.restart, system::device_of(id)) {
                (Restart::DeviceFails, Some(device)) => FailurePolicy::FailsDevice(device),
                (
                    Restart::DeviceFails
                    | Restart::StartsAnew
                    | Restart::Asks
                    | Restart::EndsVm
                    | Restart::MigrationFails,
                    _,
                ) => FailurePolicy::EndsVm,
            };
            Member {
                instance: id,
                tier: instance.template.tier.into(),
                runs_guest: id.role == Role::Vcpu,
                opens_device: id.role == Role::Vfio,
                has_dirty_log: instance.number(&SlotKind::DirtyLog.into()).is_some(),
                server: system.server_of(id),
                policy,
                restarts: handover.restarts_of(id),
                dma_is_hosts: instance.holds(EdgeKind::PhysicalDevice),
                required: handover.requires(id),
                restart: system.restart_group(id),
            }
        };
        let members = system.processes().iter().map(member).collect();
        Self { members, reset_ends_vm: handover.on_reset == OnReset::Exit }
    }

    /// The member of this instance.
    pub fn member(&self, instance: InstanceId) -> Option<&Member> {
        self.members.iter().find(|member| member.instance == instance)
    }

    /// The number of tiers.
    pub fn tier_count(&self) -> usize {
        self.members.last().map_or(0, |member| member.tier.saturating_add(1))
    }

    /// Whether the VM ends if this device is lost.
    pub fn requires(&self, device: InstanceId) -> bool {
        self.member(device).is_some_and(|member| member.required)
    }
}
