// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The process that carries a migration: a life of its own set, beside those that the guest lives in.
//!
//! No plan has it: it is started for one migration, configured, and ended with it. Its loss costs the migration, or
//! makes its end ambiguous, and never the guest.

use ipc::hello::Role;
use ipc::instance::InstanceId;
use ipc::protocol::lifecycle::State;

use super::{Operation, Progress, StateMachine};
use crate::coordinator::vm::action::{Ending, RequestKind};
use crate::coordinator::vm::event::LifeId;
use crate::coordinator::vm::plan::{FailurePolicy, Member};
use crate::problem::Problem;
use crate::system::MOVER;

/// Whether this is a mover.
pub(super) fn is_mover(instance: InstanceId) -> bool {
    instance.role == Role::Mover
}

/// A mover, as the plan would have it.
fn member() -> Member {
    Member {
        instance: MOVER,
        tier: 0,
        runs_guest: false,
        opens_device: false,
        has_dirty_log: false,
        server: None,
        policy: FailurePolicy::EndsVm,
        restarts: None,
        dma_is_hosts: false,
        required: false,
        restart: Err("migration"),
    }
}

impl StateMachine {
    /// The mover, while there is one.
    pub fn mover(&self) -> Option<LifeId> {
        let mover = match &self.operation {
            Operation::Outgoing(leaving) => leaving.mover,
            Operation::Incoming(coming) => coming.mover,
            _ => return None,
        };
        self.lives.get(mover).map(|_| mover)
    }

    /// The life of the next migration's mover.
    pub(super) fn next_mover(&mut self) -> LifeId {
        LifeId { generation: self.next_generation(), instance: MOVER }
    }

    /// Starts and configures the mover.
    pub(super) fn start_mover(&mut self, id: LifeId) -> Progress {
        match self.lives.get(id) {
            None => self.start(id, &member()),
            Some(life) if life.state == State::Configured && !life.is_busy() => return Progress::Done,
            // Not asked while it is busy.
            Some(_) => drop(self.ask(id, RequestKind::Configure)),
        }
        Progress::Waiting
    }

    /// Ends the mover. Done when it is gone.
    pub(super) fn end_mover(&mut self, id: LifeId) -> Progress {
        self.end_life(id, Ending::Quit);
        if self.lives.get(id).is_none() { Progress::Done } else { Progress::Waiting }
    }

    /// The mover is gone that was not supposed to end.
    pub(super) fn mover_lost(&mut self, id: LifeId, problem: Problem) {
        let why = format!("the mover is lost: {}", problem.what);
        self.answer_probe(id, Err(problem));
        match &mut self.operation {
            Operation::Outgoing(leaving) if leaving.mover == id => leaving.link_lost(why, &mut self.actions),
            Operation::Incoming(coming) if coming.mover == id => coming.link_lost(why, &mut self.actions),
            _ => {}
        }
    }
}
