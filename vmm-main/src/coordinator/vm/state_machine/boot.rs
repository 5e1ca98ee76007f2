// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A boot: load the guest, start and configure every process, then the way in, out of reset ([`super::way_in`]).
//!
//! A process that cannot be started, or refuses its configuration, ends the VM: no guest runs to find it missing. One
//! that is lost costs what its failure policy says, from its first message on. A device that cannot be opened costs
//! the guest that device, unless it is required: then the CPUs do not begin.

use std::time::Duration;

use ipc::protocol::lifecycle::State;

use super::{Operation, Progress, StateMachine, Step};
use crate::coordinator::vm::action::{Action, LoadSource, Notice, RequestKind};
use crate::coordinator::vm::event::{LifeId, Timer};
use crate::lifecycle;
use crate::problem::Problem;

/// A guest that resets at once again and again must not turn the host into a process starter.
const BOOT_SPAN_MIN: Duration = Duration::from_secs(1);

/// How far a boot is.
#[derive(Debug, Clone)]
pub(super) enum BootStep {
    /// RAM is made and the guest loaded into it.
    Load,
    /// Processes are started and configured, one after the other; the next is this one of the plan.
    Populate(usize),
    /// They take the state of reset.
    LoadReset,
    /// Everything else that can fail is done.
    Arm,
    /// The state of reset is put into force.
    Replay,
    /// They begin.
    Go,
}

impl StateMachine {
    /// The first boot.
    pub(super) fn begin_boot(&mut self) {
        if self.is_idle() && self.boot_count == 0 {
            self.operation = self.start_loading();
        }
    }

    /// Orders that the guest be loaded.
    pub(super) fn start_loading(&mut self) -> Operation {
        self.boot_count = self.boot_count.saturating_add(1);
        self.next_boot_due = false;
        self.lost_devices.clear();
        self.dma_ended.clear();
        self.unmapped.clear();
        self.failing_devices.clear();
        self.guest_request = None;
        self.actions.push(Action::Arm(Timer::NextBoot(self.boot_count), BOOT_SPAN_MIN));
        self.actions.push(Action::Load);
        Operation::Boot(BootStep::Load)
    }

    /// The guest is in its RAM, or not.
    pub(super) fn loaded(&mut self, result: Result<(), Problem>) {
        match (&self.operation, result) {
            (Operation::Boot(BootStep::Load), Ok(())) => {
                self.operation = Operation::Boot(BootStep::Populate(0));
                self.generation = self.next_generation();
            }
            (Operation::Boot(BootStep::Load), Err(problem)) => self.end_failed(problem, Vec::new()),
            // The VM is being ended meanwhile.
            _ => {}
        }
    }

    pub(super) fn boot(&mut self, step: BootStep) -> Step {
        match step {
            BootStep::Load => Step::Break(Operation::Boot(step)),
            BootStep::Populate(mut next) => match self.populate(self.generation, &mut next) {
                Progress::Waiting => Step::Break(Operation::Boot(BootStep::Populate(next))),
                Progress::Done => {
                    self.actions.push(Action::CloseConnections(self.generation));
                    Step::Continue(Operation::Boot(BootStep::LoadReset))
                }
            },
            BootStep::LoadReset => {
                Self::next(self.load(self.generation, LoadSource::Reset), step, BootStep::Arm)
            }
            BootStep::Arm => {
                Self::next(self.arm(self.generation, &LoadSource::Reset), step, BootStep::Replay)
            }
            BootStep::Replay => Self::next(self.replay(self.generation), step, BootStep::Go),
            BootStep::Go => match self.go(self.generation) {
                Progress::Waiting => Step::Break(Operation::Boot(step)),
                Progress::Done => match self.phase.after(lifecycle::Step::Start) {
                    Ok(after) => {
                        self.phase = after;
                        self.tell(Notice::GuestRuns);
                        Step::Continue(Operation::Idle)
                    }
                    Err(problem) => Step::Continue(self.ending_failed(problem)),
                },
            },
        }
    }

    /// What follows a step of the way in.
    fn next(progress: Progress, step: BootStep, next: BootStep) -> Step {
        match progress {
            Progress::Waiting => Step::Break(Operation::Boot(step)),
            Progress::Done => Step::Continue(Operation::Boot(next)),
        }
    }

    /// Starts and configures the processes of a set, one after the other; `next` is the first of the plan that was
    /// not started. One that is lost meanwhile is not waited for.
    pub(super) fn populate(&mut self, generation: u32, next: &mut usize) -> Progress {
        loop {
            let open = self
                .lives
                .of(generation)
                .find(|(_, life)| life.is_busy() || life.state == State::Unconfigured);
            if let Some((id, _)) = open {
                // Not asked while it is busy.
                self.ask(id, RequestKind::Configure);
                return Progress::Waiting;
            }
            let Some(member) = self.plan.members.get(*next).cloned() else { return Progress::Done };
            *next = next.saturating_add(1);
            self.start(LifeId { generation, instance: member.instance }, &member);
        }
    }
}
