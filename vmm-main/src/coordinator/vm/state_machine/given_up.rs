// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Why a move or a restart is given up, and the way back from it.
//!
//! A process that dies is often noticed by its neighbours first: they refuse their part because a connection is
//! closed. So a refusal is only what is known so far: a death that is found while the next processes are being ended
//! takes its place. The step stays that at which it was given up.

use ipc::instance::InstanceId;

use super::transit::Goal;
use super::{Operation, Progress, StateMachine, at_step};
use crate::coordinator::vm::action::{Action, RequestKind};
use crate::coordinator::vm::event::Ticket;
use crate::problem::Problem;

/// Why it is given up.
#[derive(Debug, Clone)]
pub(super) struct GivenUp {
    /// The step, as messages name it.
    step: &'static str,
    /// Who failed, if it was a process.
    culprit: Option<InstanceId>,
    problem: Problem,
    cause: Cause,
}

/// What kind of failure it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// A step was refused, or did not come out as it must.
    Refusal,
    /// A process died, or could not be started: nothing else came before that.
    Death,
}

impl Cause {
    /// Of a process that refuses `request`; none if it could not be started.
    pub const fn of_refusal(request: Option<RequestKind>) -> Self {
        match request {
            Some(_) => Self::Refusal,
            None => Self::Death,
        }
    }
}

impl GivenUp {
    /// Given up at this step.
    pub const fn at(step: &'static str, culprit: Option<InstanceId>, problem: Problem, cause: Cause) -> Self {
        Self { step, culprit, problem, cause }
    }

    /// Something else is found to have failed: the first death is what the rest came of.
    pub fn came_of(&mut self, culprit: Option<InstanceId>, problem: Problem, cause: Cause) {
        if self.cause == Cause::Refusal && cause == Cause::Death {
            *self = Self::at(self.step, culprit, problem, cause);
        }
    }

    /// The answer to the command.
    fn problem(&self) -> Problem {
        at_step(self.step, self.culprit, self.problem.clone())
    }
}

impl StateMachine {
    /// Gives the move or the restart up that is under way, if there is one and it can be.
    pub(super) fn give_up_move(&mut self, culprit: Option<InstanceId>, problem: Problem, cause: Cause) {
        match &mut self.operation {
            Operation::SaveRestore(moving) => moving.give_up(culprit, problem, cause),
            Operation::Restart(restart) => restart.give_up(culprit, problem, cause),
            Operation::Outgoing(leaving) => leaving.fail(problem, &mut self.actions),
            Operation::Incoming(coming) => coming.fail(problem, &mut self.actions),
            _ => {}
        }
    }

    /// Ends the set `new`, then lets the guest go on where it is, and says why to whoever asked.
    pub(super) fn go_back(&mut self, new: u32, ticket: Ticket, failed: &GivenUp) -> Progress {
        if self.discard(new) == Progress::Waiting
            || self.bring(self.generation, Goal::Running) == Progress::Waiting
        {
            return Progress::Waiting;
        }
        self.actions.push(Action::Abandon);
        let problem = failed.problem();
        let advice = format!("{}; the guest is {}", problem.advice, self.phase);
        self.answer(ticket, Err(Problem { advice, ..problem }));
        Progress::Done
    }
}
