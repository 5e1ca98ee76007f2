// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is under way when a process dies that comes back: it goes on behind the next life, or is given up.
//!
//! A pause, a resume, a measurement, and a migration whose guest still runs go on as if nothing had happened; another
//! move or a restart relies on the life that is over. Where writes are logged the dead life's log is the next one's,
//! with all that it marked and what it was just writing; and that logs before it begins, so that none of its writes is
//! missed. Nothing waits for a next life that only a person starts.

use ipc::protocol::control::DirtyLogOp;

use super::given_up::Cause;
use super::{Operation, Progress, StateMachine};
use crate::coordinator::vm::action::RequestKind;
use crate::coordinator::vm::event::LifeId;
use crate::problem::Problem;

impl StateMachine {
    /// What counts on a life that is over is given up, and what cannot wait for its next one.
    pub(super) fn give_up_for(&mut self, id: LifeId, is_followed: bool, problem: Problem) {
        let problem = Problem { advice: "ask again".to_owned(), ..problem };
        self.answer_probe(id, Err(problem.clone()));
        match self.operation {
            _ if is_followed && self.survives_deaths() => {}
            Operation::DirtyRate(_) => self.refused_to_log(id, None, problem),
            _ => self.give_up_move(Some(id.instance), problem, Cause::Death),
        }
    }

    /// Next lives log their writes if those that died had to.
    pub(super) fn log_as_before(&mut self, new: u32) -> Progress {
        let epoch = match &self.operation {
            Operation::DirtyRate(measuring) => measuring.logging_epoch(),
            Operation::Outgoing(leaving) if leaving.survives_deaths() => leaving.logging_epoch(),
            _ => None,
        };
        let Some(epoch) = epoch else { return Progress::Done };
        let op = DirtyLogOp::Enable { epoch };
        self.ask_all(new, RequestKind::DirtyLog(op), |life| life.has_dirty_log && life.dirty_log != Some(op))
    }

    /// Whether what is under way goes on when a process has died that comes back, though it relies on the lives there
    /// were.
    fn survives_deaths(&self) -> bool {
        match &self.operation {
            Operation::DirtyRate(_) => true,
            Operation::Outgoing(leaving) => leaving.survives_deaths(),
            _ => false,
        }
    }
}
