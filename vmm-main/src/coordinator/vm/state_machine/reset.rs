// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest's own requests: to be switched off, and to be reset. A reset is a boot: new RAM, new processes, the same
//! kernel. Nothing of the guest's last life survives it, and the servers of devices are connected to anew.

use std::collections::BTreeMap;

use ipc::instance::InstanceId;

use super::{Operation, Progress, StateMachine, Step};
use crate::coordinator::vm::action::{Action, Notice};
use crate::lifecycle::{self, Why};
use crate::problem::Problem;

/// How far a reset is.
#[derive(Debug, Clone)]
pub(super) enum ResetStep {
    /// Every process is ended.
    End,
    /// The launcher connects to the servers of devices.
    Reconnect,
    /// The boot before was too short a time ago.
    Wait,
}

impl StateMachine {
    pub(super) fn power_off(&mut self) -> Step {
        self.tell(Notice::GuestPoweredOff);
        Step::Continue(self.start_ending(Why::GuestPoweredOff))
    }

    pub(super) fn begin_reset(&mut self) -> Step {
        self.tell(Notice::GuestReset);
        if self.plan.reset_ends_vm {
            return Step::Continue(self.start_ending(Why::GuestReset));
        }
        match self.phase.after(lifecycle::Step::Reset) {
            Ok(after) => {
                self.phase = after;
                self.reset_count = self.reset_count.saturating_add(1);
                Step::Continue(Operation::Reset(ResetStep::End))
            }
            Err(problem) => Step::Continue(self.ending_failed(problem)),
        }
    }

    pub(super) fn reset(&mut self, step: ResetStep) -> Step {
        match step {
            ResetStep::End if self.end_everyone() == Progress::Waiting => Step::Break(Operation::Reset(step)),
            ResetStep::End if !self.hanging.is_empty() || !self.left_hanging.is_empty() => {
                self.hanging.append(&mut self.left_hanging);
                let problem = cannot_be_killed(&self.hanging, "reset");
                Step::Continue(self.ending_failed(problem))
            }
            ResetStep::End => {
                self.actions.push(Action::Reconnect);
                Step::Break(Operation::Reset(ResetStep::Reconnect))
            }
            ResetStep::Wait if self.next_boot_due => {
                let boot = self.start_loading();
                Step::Break(boot)
            }
            ResetStep::Reconnect | ResetStep::Wait => Step::Break(Operation::Reset(step)),
        }
    }

    /// The servers of devices were connected to anew.
    pub(super) fn reconnected(&mut self, result: Result<BTreeMap<InstanceId, String>, Problem>) {
        let Operation::Reset(step @ ResetStep::Reconnect) = &mut self.operation else { return };
        match result {
            Ok(unreachable) => {
                *step = ResetStep::Wait;
                self.unreachable = unreachable;
            }
            Err(problem) => self.end_failed(problem, Vec::new()),
        }
    }
}

/// These processes were killed and are not gone.
pub(in crate::coordinator::vm) fn cannot_be_killed(hanging: &[InstanceId], place: &str) -> Problem {
    Problem::host(
        format!("{} cannot be killed: what they hold is still in use", names(hanging)),
        place,
        "look what the host's disks and devices are waiting for",
    )
}

/// The names of processes, in a sentence.
pub(in crate::coordinator::vm) fn names(instances: &[InstanceId]) -> String {
    instances.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
