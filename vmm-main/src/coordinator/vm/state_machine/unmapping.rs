// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The end of a physical device that the guest has lost: who holds its file keeps its DMA going, and the vCPU process
//! holds it by the mapping of its BARs.
//!
//! ```text
//! lost ─► its link is closed, its process ended ─► reaped ─┬─► the files are closed, the vSMMU is told: DMA has ended
//!                └─► the vCPU process has unmapped ────────┘
//! ```
//!
//! A mapping can also be on its way: a channel to a next life, with what that has sent in it, that the vCPU process was
//! asked to take and has not answered. The guest's orders to its SMMU wait until all of it is over; a vCPU process that
//! does not unmap within its time ends the VM, for these orders would wait for ever.

use ipc::hello::Role;
use ipc::instance::InstanceId;

use super::StateMachine;
use crate::coordinator::spans::UNMAPPING_SPAN;
use crate::coordinator::vm::action::{Action, RequestKind};
use crate::coordinator::vm::event::{LifeId, Timer};
use crate::problem::{Class, Problem};

impl StateMachine {
    /// No life follows at the function link of this device, which is lost: the CPUs wait for it no longer, and unmap
    /// it.
    pub(super) fn close_link(&mut self, device: InstanceId) {
        self.actions.push(Action::CloseLink(device));
        if self.is_mapped(self.generation, device) {
            self.actions.push(Action::Arm(Timer::Unmapping(device, self.boot_count), UNMAPPING_SPAN));
        }
    }

    /// Whether the CPUs' process of this set has, or may yet be given, a part of the host's file of this device.
    pub(super) fn is_mapped(&self, set: u32, device: InstanceId) -> bool {
        if !self.dma_is_hosts(device) {
            return false;
        }
        let is_given = |request| matches!(request, RequestKind::Rewire(next) if next.instance == device);
        let mut cpus = self.lives.of(set).filter(|(_, life)| life.runs_guest);
        let is_being_given = cpus.any(|(_, life)| life.open.is_some_and(is_given));
        is_being_given || !self.unmapped.contains(&(set, device))
    }

    /// The CPUs' process says that it holds nothing of a physical device any more.
    pub(super) fn said_unmapped(&mut self, id: LifeId, name: &str) {
        let device = name.parse().ok().filter(|device: &InstanceId| self.dma_is_hosts(*device));
        let set = self.lives.get(id).filter(|life| life.runs_guest).and_then(|life| life.set);
        let (Some(device), Some(set)) = (device, set) else {
            return self.fail(id, "it has unmapped a device that it never had".to_owned());
        };
        self.unmapped.insert((set, device));
        self.tell_dma_ended();
    }

    /// The CPUs' process has, or refuses, a channel to a life of a device that may be lost by now.
    pub(super) fn given_channel(&mut self, next: LifeId) {
        if next.instance.role == Role::Vfio && self.dma_is_hosts(next.instance) {
            self.tell_dma_ended();
        }
    }

    /// The CPUs' process has had its time to unmap a device.
    pub(super) fn unmapping_over(&mut self, device: InstanceId, boot: u32) {
        if boot == self.boot_count && self.is_mapped(self.generation, device) {
            let what = format!(
                "the vCPU process has not unmapped the device {device} within {} s, so its DMA has not ended",
                UNMAPPING_SPAN.as_secs()
            );
            let advice = "see in the log, and in the host's kernel log, what it waits for";
            self.end_failed(Problem::new(Class::Died, what, device.to_string(), advice), Vec::new());
        }
    }

    /// The host does this device's DMA, and goes on with it whatever becomes of its process.
    pub(super) fn dma_is_hosts(&self, device: InstanceId) -> bool {
        self.plan.member(device).is_some_and(|member| member.dma_is_hosts)
    }
}
