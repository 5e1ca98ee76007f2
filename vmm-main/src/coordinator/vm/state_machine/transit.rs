// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Pausing and going on, tier by tier, and the way back.
//!
//! The CPUs pause first, so that devices see no new work, and go on last, so that every device answers before the guest
//! asks. If a process refuses, the way that was gone is gone back: everyone who has paused goes on, or the other way
//! round, and the phase stays what it was. So the phase is true whatever happens. Who refused is asked to go back as
//! well: only it says that its state is unchanged. One that refuses the way back is not to be trusted any more.

use ipc::protocol::lifecycle::State;

use super::lives::Life;
use super::{Operation, Progress, StateMachine, Step};
use crate::coordinator::vm::action::{RequestKind, Success};
use crate::coordinator::vm::event::{LifeId, Ticket};
use crate::lifecycle::Phase;
use crate::problem::Problem;

/// Where the processes are to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goal {
    Paused,
    Running,
}

/// A way from one to the other.
#[derive(Debug, Clone)]
pub(super) struct Transit {
    pub ticket: Ticket,
    pub goal: Goal,
    /// Why it is a way back.
    pub failed: Option<Problem>,
}

impl Goal {
    pub const fn back(self) -> Self {
        match self {
            Self::Paused => Self::Running,
            Self::Running => Self::Paused,
        }
    }

    /// Where they are in this phase.
    pub const fn of(phase: &Phase) -> Self {
        match phase {
            Phase::Paused => Self::Paused,
            _ => Self::Running,
        }
    }

    pub const fn request(self) -> RequestKind {
        match self {
            Self::Paused => RequestKind::Pause,
            Self::Running => RequestKind::Resume,
        }
    }

    pub const fn phase(self) -> Phase {
        match self {
            Self::Paused => Phase::Paused,
            Self::Running => Phase::Running,
        }
    }
}

impl StateMachine {
    pub(super) fn transit(&mut self, transit: Transit) -> Step {
        if self.disks_are_released || self.bring(self.generation, transit.goal) == Progress::Waiting {
            return Step::Break(Operation::Transit(transit));
        }
        self.phase = transit.goal.phase();
        let result = transit.failed.map_or_else(|| Ok(Success::In(self.phase.clone())), Err);
        self.answer(transit.ticket, result);
        Step::Continue(Operation::Idle)
    }

    /// A guest that was paused without its disks has them again, or not: then it stays paused.
    pub(super) fn disks_locked(&mut self, result: Result<(), Problem>) {
        let Operation::Transit(transit) = &self.operation else { return };
        match result {
            Ok(()) => self.disks_are_released = false,
            Err(problem) => {
                let ticket = transit.ticket;
                self.answer(ticket, Err(problem));
                self.operation = Operation::Idle;
            }
        }
    }

    /// A process has refused a step of this way: it is gone back. False: it is the way back.
    pub(super) fn turn_back(goal: &mut Goal, failed: &mut Option<Problem>, problem: Problem) -> bool {
        if failed.is_some() {
            return false;
        }
        *goal = goal.back();
        *failed = Some(problem);
        true
    }

    /// Brings a set of processes to where they are to be.
    pub(super) fn bring(&mut self, generation: u32, goal: Goal) -> Progress {
        let tiers = 0..self.plan.tier_count();
        match goal {
            Goal::Paused => {
                let is_due = |life: &Life| life.state == State::Running || life.refused;
                self.ask_by_tiers(generation, tiers, goal.request(), is_due)
            }
            Goal::Running => {
                let is_due = |life: &Life| life.state == State::Paused || life.refused;
                self.ask_by_tiers(generation, tiers.rev(), goal.request(), is_due)
            }
        }
    }

    /// A process refused the way back.
    pub(super) fn refused_way_back(&mut self, id: LifeId, problem: &Problem) {
        self.fail(id, format!("it is neither paused nor does it run: {}", problem.what));
    }
}
