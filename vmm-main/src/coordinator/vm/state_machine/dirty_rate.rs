// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How fast the guest dirties its memory: the dirty logs of all processes on, for a while, and harvested once.
//!
//! ```text
//! open the logs ─► enable ─► wait ─► rearm ─► harvest ─► disable ─► answer
//! ```
//!
//! This is one round of a precopy: the same requests in the same order, and the same harvest. The guest runs all the
//! time. A process that refuses a request ends the measurement, and logs nothing when it has ended; one that dies costs
//! what its failure policy says, and its log is harvested all the same. If it comes back, its next life goes on with
//! it.

use std::time::Duration;

use ipc::protocol::control::DirtyLogOp;

use super::{Operation, Progress, StateMachine, Step};
use crate::coordinator::vm::action::{Action, RequestKind, Success};
use crate::coordinator::vm::event::{LifeId, Ticket, Timer};
use crate::lifecycle::Phase;
use crate::problem::{Class, Problem};

/// A measurement that is under way.
#[derive(Debug, Clone)]
pub(super) struct DirtyRate {
    pub ticket: Ticket,
    /// In whose name the processes log: no two measurements have the same.
    epoch: u64,
    /// How long to wait.
    span: Duration,
    stage: Stage,
    failed: Option<Problem>,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Open,
    Enable,
    Wait,
    Rearm,
    Disable,
}

impl DirtyRate {
    /// In which epoch a process has to log its writes that is started anew now; none if nobody has to.
    pub fn logging_epoch(&self) -> Option<u64> {
        matches!(self.stage, Stage::Wait | Stage::Rearm).then_some(self.epoch)
    }
}

impl StateMachine {
    pub(super) fn begin_dirty_rate(&mut self, ticket: Ticket, span: Duration) -> Result<Operation, Problem> {
        if self.phase != Phase::Running {
            return Err(Problem::new(
                Class::State,
                format!("a guest that is {} dirties nothing", self.phase),
                "life cycle",
                "let it run first",
            ));
        }
        self.epoch = self.epoch.saturating_add(1);
        self.actions.push(Action::OpenDirtyLogs(self.epoch));
        let (epoch, stage) = (self.epoch, Stage::Open);
        Ok(Operation::DirtyRate(DirtyRate { ticket, epoch, span, stage, failed: None }))
    }

    /// The logs are mapped and empty, or not.
    pub(super) fn dirty_logs_opened(&mut self, result: Result<(), Problem>) {
        let Operation::DirtyRate(measuring) = &mut self.operation else {
            return self.outgoing_logs_opened(result);
        };
        match result {
            Ok(()) => measuring.stage = Stage::Enable,
            Err(problem) => {
                let ticket = measuring.ticket;
                self.answer(ticket, Err(problem));
                self.operation = Operation::Idle;
            }
        }
    }

    pub(super) fn dirty_rate(&mut self, mut measuring: DirtyRate) -> Step {
        let DirtyRate { ticket, epoch, span, stage, .. } = measuring;
        let op = match stage {
            Stage::Open => return Step::Break(Operation::DirtyRate(measuring)),
            // What the guest asks for waits for no measurement.
            Stage::Wait if self.guest_request.is_none() => {
                return Step::Break(Operation::DirtyRate(measuring));
            }
            Stage::Wait => None,
            Stage::Enable => Some(DirtyLogOp::Enable { epoch }),
            Stage::Rearm => Some(DirtyLogOp::Rearm),
            Stage::Disable => Some(DirtyLogOp::Disable),
        };
        if op.is_some_and(|op| self.switch_dirty_logs(op) == Progress::Waiting) {
            return Step::Break(Operation::DirtyRate(measuring));
        }
        measuring.stage = match stage {
            Stage::Open | Stage::Enable => {
                self.actions.push(Action::Arm(Timer::DirtyRate(epoch), span));
                Stage::Wait
            }
            Stage::Wait => Stage::Rearm,
            Stage::Rearm => {
                self.actions.push(Action::Harvest);
                Stage::Disable
            }
            Stage::Disable => {
                let result = measuring.failed.map_or(Ok(Success::DirtyRateMeasured), Err);
                self.answer(ticket, result);
                return Step::Continue(Operation::Idle);
            }
        };
        Step::Continue(Operation::DirtyRate(measuring))
    }

    /// Has everyone with a log follow `op`.
    pub(super) fn switch_dirty_logs(&mut self, op: DirtyLogOp) -> Progress {
        let is_due = |life: &super::lives::Life| life.has_dirty_log && life.dirty_log != Some(op);
        self.ask_all(self.generation, RequestKind::DirtyLog(op), is_due)
    }

    /// The time is over.
    pub(super) fn dirty_rate_over(&mut self, epoch: u64) {
        if let Operation::DirtyRate(measuring) = &mut self.operation
            && measuring.epoch == epoch
            && measuring.stage == Stage::Wait
        {
            measuring.stage = Stage::Rearm;
        }
    }

    /// A process has refused: it is not asked the same again.
    pub(super) fn refused_to_log(&mut self, id: LifeId, request: Option<RequestKind>, problem: Problem) {
        if let (Some(life), Some(RequestKind::DirtyLog(op))) = (self.lives.get_mut(id), request) {
            life.dirty_log = Some(op);
        }
        if let Operation::DirtyRate(measuring) = &mut self.operation {
            measuring.stage = Stage::Disable;
            measuring.failed.get_or_insert(problem);
        }
    }
}
