// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the loss of a process or a device costs.
//!
//! A process that is lost costs what its failure policy says, in the middle of whatever is under way. A device that is
//! lost costs the guest that device, is told once as a warning with the reason, and ends the VM only if it is required.

use std::collections::BTreeSet;

use ipc::hello::Role;
use ipc::instance::InstanceId;
use ipc::protocol::lifecycle::State;

use super::given_up::Cause;
use super::lives::Life;
use super::mover::is_mover;
use super::recovery::Recovery;
use super::restart::Restart;
use super::{Operation, StateMachine, cannot_be_killed};
use crate::coordinator::logs;
use crate::coordinator::vm::action::{Action, Ending, Notice};
use crate::coordinator::vm::event::{Departure, LifeId};
use crate::coordinator::vm::plan::FailurePolicy;
use crate::problem::{Class, Problem};
use crate::system;

impl StateMachine {
    /// A life is over.
    pub(super) fn gone(&mut self, id: LifeId, departure: Departure) {
        let Some(life) = self.lives.remove(id) else { return };
        if self.guest_request.is_some_and(|(asked_by, _)| asked_by == id) {
            // The guest's request goes with the life of the CPUs that it was made in.
            self.guest_request = None;
        }
        self.failing_devices.remove(&id);
        if !departure.reaped {
            let counts = matches!(self.operation, Operation::Ending(_) | Operation::Reset(_));
            let is_left = self.is_past_commit() && id.generation < self.generation;
            if counts || is_left || self.is_retired(id) {
                self.hanging.push(id.instance);
            } else {
                self.left_hanging.push(id.instance);
                self.tell(Notice::Hanging(vec![id.instance]));
            }
        }
        match life.ending {
            // Ended with one that died, and it holds what its next life would go on with.
            Some(Ending::Discard) if !departure.reaped && self.is_to_be_followed(id, &life) => {
                self.end_failed(cannot_be_killed(&[id.instance], "restart"), departure.last_lines);
            }
            Some(Ending::Discard) if departure.by_itself && self.is_moving_to(id) => {
                self.lost_of_next(id, departure.problem);
            }
            // Its next life may have been lost before it was gone.
            Some(Ending::Quit | Ending::Discard) if self.is_retired(id) => self.tell_dma_ended(),
            // The guest's own process of a lost device, not one of another set.
            Some(Ending::Discard)
                if self.lost_devices.contains_key(&id.instance) && self.life_of(id.instance).is_none() =>
            {
                self.lost_is_gone(id, &departure)
            }
            Some(Ending::Quit | Ending::Discard) => {}
            Some(Ending::Failed(_) | Ending::Hung(_)) | None => self.lost(id, &life, departure),
        }
    }

    /// A process was lost that was not supposed to end.
    fn lost(&mut self, id: LifeId, life: &Life, departure: Departure) {
        match &self.operation {
            // They are all being ended.
            Operation::Ending(_) | Operation::Over | Operation::Reset(_) => return,
            // The set that the guest lives in is whole.
            Operation::SaveRestore(_) | Operation::Restart(_) | Operation::Incoming(_)
                if self.is_moving_to(id) =>
            {
                return self.lost_of_next(id, departure.problem);
            }
            _ => {}
        }
        if is_mover(id.instance) {
            return self.mover_lost(id, departure.problem);
        }
        let member = self.plan.member(id.instance).map(|member| (member.policy, member.restarts));
        let (policy, restarts) = member.unzip();
        // Of a device that is lost already no process is followed.
        let is_lost = system::device_of(id.instance).is_some_and(|it| self.lost_devices.contains_key(&it));
        let left_checkpoint = life.has_died() || self.is_beginning(id);
        let departure = match restarts.flatten().filter(|_| !is_lost) {
            Some(max) => match self.died(id, left_checkpoint, max, departure) {
                Ok(()) => return,
                Err(departure) => departure,
            },
            None => departure,
        };
        let device = match policy {
            Some(FailurePolicy::FailsDevice(device)) => device,
            Some(FailurePolicy::EndsVm) | None => {
                return self.end_failed(departure.problem, departure.last_lines);
            }
        };
        let refused = Problem::host(
            "the host refuses to probe: the process is gone, and with it a device of the guest",
            "coordinator",
            "check the host's limits",
        );
        self.answer_probe(id, Err(refused));
        if device == id.instance {
            if !departure.reaped {
                return self.end_failed(still_does_dma(device, &departure.problem), departure.last_lines);
            }
            self.dma_ended.extend(life.set.map(|set| (set, device)));
            self.tell_dma_ended();
        }
        // Its own end says more than the closed connection that its client has seen.
        self.lost_devices.remove(&device);
        self.failing_devices.retain(|failing, _| failing.instance != device);
        self.lose_device(device, &departure.problem.what, departure.last_lines);
    }

    /// The process of a device that is lost was ended with another one of it.
    fn lost_is_gone(&mut self, id: LifeId, departure: &Departure) {
        if !departure.reaped {
            return self.end_failed(still_does_dma(id.instance, &departure.problem), Vec::new());
        }
        self.dma_ended.insert((self.generation, id.instance));
        self.tell_dma_ended();
    }

    /// A process that the guest was to go on with has died: what others have refused meanwhile came of that.
    fn lost_of_next(&mut self, id: LifeId, problem: Problem) {
        let advice = "look at the log for its last words".to_owned();
        self.give_up_move(Some(id.instance), Problem { advice, ..problem }, Cause::Death);
    }

    /// Tells every vSMMU which of the devices behind it do no DMA any more: until then it takes what was in force
    /// before a command to them as still in use, and the guest's commands wait. A physical device does it as long as
    /// its BARs are mapped. A vSMMU can hear that once it is configured; to say it again changes nothing.
    pub(super) fn tell_dma_ended(&mut self) {
        // A vSMMU that is to go on in place of one of a set has the devices of that set behind it.
        let restart = match &self.operation {
            Operation::Restart(restart) => Some(restart),
            _ => None,
        };
        let revived = self.recovery.as_ref().map(Recovery::set);
        let next = restart.and_then(Restart::next).into_iter().chain(revived);
        // A device whose old life is not reaped may still do DMA, whatever has become of the next one.
        let leaves = |id: LifeId| restart.is_some_and(|restart| restart.is_leaving(id));
        let leaving: BTreeSet<InstanceId> =
            self.lives.ids().into_iter().filter(|id| leaves(*id)).map(|id| id.instance).collect();
        let goes_on = |set: u32, device: InstanceId| leaving.contains(&device) || self.is_mapped(set, device);
        let mut told = Vec::new();
        for (set, device) in self.dma_ended.iter().filter(|(set, device)| !goes_on(*set, *device)) {
            let next = next.clone().filter(|_| *set == self.generation);
            let next = next.flat_map(|next| self.lives.of(next));
            let smmus = self.lives.of(*set).chain(next).filter(|(smmu, life)| {
                smmu.instance.role == Role::Smmu && life.state != State::Unconfigured && !life.is_ending()
            });
            told.extend(smmus.map(|(smmu, _)| Action::DmaEnded { smmu, device: *device }));
        }
        self.actions.extend(told);
    }

    /// The guest is without this device from now on.
    pub(super) fn lose_device(&mut self, device: InstanceId, reason: &str, last_lines: Vec<String>) {
        let reason = logs::printable(reason.as_bytes());
        let reason = self.unreachable.get(&device).cloned().unwrap_or(reason);
        if self.plan.requires(device) {
            let problem = Problem::new(
                Class::Died,
                format!("the device {device} is lost: {reason}"),
                device.to_string(),
                "the VM is not to run without it (`required = true`): see to its server, then start the VM again",
            );
            return self.end_failed(problem, last_lines);
        }
        if !self.lost_devices.contains_key(&device) {
            self.tell(Notice::DeviceLost(device, reason.clone()));
            self.lost_devices.insert(device, reason);
        }
        let problem =
            Problem::new(Class::State, "the guest has lost this device meanwhile", "save", "see the log");
        self.give_up_move(Some(device), problem, Cause::Death);
        // The host goes on with a physical device as long as a process of it lives.
        if self.plan.member(device).is_some_and(|member| member.restarts.is_some() || member.dma_is_hosts) {
            self.end_device(device);
        }
    }
}

/// A device's process that does not even obey a kill. Its device may go on with DMA by what the guest's SMMU said last,
/// so that the guest's commands to that could never complete.
fn still_does_dma(device: InstanceId, problem: &Problem) -> Problem {
    Problem::new(
        Class::Died,
        format!(
            "the process of the device {device} was killed and is not gone, so its DMA has not ended: {}",
            problem.what
        ),
        device.to_string(),
        "see in the host's kernel log what it waits for",
    )
}
