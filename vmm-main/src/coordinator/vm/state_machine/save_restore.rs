// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Save and restore inside one VM: the guest moves into a new set of processes, its RAM stays where it is.
//!
//! ```text
//! prepare, start a new set ─► pause ─► save (a memory file per process) ─► restore ─► begin the new set ─► end the
//! old one
//!                               └──── any failure from here on: the old set is still paused and whole ────┘
//! ```
//!
//! This is a migration without a wire: the same requests, the same state units, the same order (CPUs stop first;
//! devices are restored and begin before CPUs). The two sets never run at the same time, and the old one is ended
//! only after the new one runs. What takes longest comes first, while the guest still runs. A loss in the new set is
//! a refusal.

use ipc::instance::InstanceId;
use ipc::protocol::lifecycle::State;

use super::lives::Life;
use super::transit::Goal;
use super::{Operation, Progress, StateMachine, Step, bug};
use crate::coordinator::vm::action::{Action, Ending, Order, Success};
use crate::coordinator::vm::event::{LifeId, Ticket};
use crate::problem::{Class, Problem};

/// A move that is under way.
#[derive(Debug)]
pub(super) struct SaveRestore {
    pub ticket: Ticket,
    /// The set that the guest leaves.
    old: u32,
    /// The set that it moves into.
    new: u32,
    stage: Stage,
    /// The next process of the plan to be started.
    next: usize,
    units: Vec<(InstanceId, u64)>,
    /// Where the old set is brought while it pauses, or if that failed.
    goal: Goal,
    /// Why it is given up.
    failed: Option<Problem>,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Prepare,
    Populate,
    Pause,
    Save,
    Restore,
    Begin,
    /// The old set is ended.
    Retire,
    /// The new set is ended, and the old one goes on if it was not paused as a whole.
    GiveUp,
}

impl SaveRestore {
    /// From the processes of generation `old` into those of `new`.
    pub fn new(ticket: Ticket, old: u32, new: u32) -> Self {
        Self {
            ticket,
            old,
            new,
            stage: Stage::Prepare,
            next: 0,
            units: Vec::new(),
            goal: Goal::Paused,
            failed: None,
        }
    }

    /// Gives the move up, if that is still possible.
    fn give_up(&mut self, problem: Problem) {
        let goal = match self.stage {
            Stage::Prepare | Stage::Populate | Stage::Pause => Goal::Running,
            Stage::Save | Stage::Restore | Stage::Begin => Goal::Paused,
            Stage::Retire | Stage::GiveUp => return,
        };
        (self.stage, self.goal, self.failed) = (Stage::GiveUp, goal, Some(problem));
    }
}

impl StateMachine {
    /// A set of processes that lacks one cannot be saved.
    pub(super) fn check_whole(&self) -> Result<(), Problem> {
        let there = |instance| self.lives.get(LifeId { generation: self.generation, instance }).is_some();
        let Some(missing) = self.plan.members.iter().map(|member| member.instance).find(|id| !there(*id))
        else {
            return Ok(());
        };
        Err(Problem::new(
            Class::State,
            format!("process {missing} is lost, and its device with it: the VM cannot be saved"),
            missing.to_string(),
            format!("start the VM again to have the device back; the guest is {}", self.phase),
        ))
    }

    pub(super) fn prepared(&mut self, result: Result<(), Problem>) {
        let Operation::SaveRestore(moving) = &mut self.operation else { return };
        match result {
            Ok(()) if moving.stage == Stage::Prepare => moving.stage = Stage::Populate,
            Ok(()) => {}
            Err(problem) => moving.give_up(problem),
        }
    }

    pub(super) fn save_restore(&mut self, mut moving: SaveRestore) -> Step {
        let (old, new) = (moving.old, moving.new);
        let (progress, lap, next) = match moving.stage {
            Stage::Prepare => return Step::Break(Operation::SaveRestore(moving)),
            Stage::Populate => (self.populate(new, &mut moving.next), "start new processes", Stage::Pause),
            Stage::Pause => (self.bring(old, Goal::Paused), "pause", Stage::Save),
            Stage::Save => (self.save(old), "save", Stage::Restore),
            Stage::Restore => (self.restore(new), "restore", Stage::Begin),
            Stage::Begin => (self.begin(new), "resume", Stage::Retire),
            Stage::Retire => return self.retire(moving),
            Stage::GiveUp => return self.go_back(moving),
        };
        if progress == Progress::Waiting {
            return Step::Break(Operation::SaveRestore(moving));
        }
        self.actions.push(Action::Lap(lap));
        moving.stage = next;
        match next {
            Stage::Pause => self.actions.push(Action::CloseConnections(new)),
            Stage::Restore => {
                let lens = self.lives.of(old).map(|(id, life)| (id.instance, life.saved_len.unwrap_or(0)));
                moving.units = lens.collect();
            }
            Stage::Retire => {
                self.generation = new;
                self.actions.push(Action::Commit);
            }
            _ => {}
        }
        // The guest's last word before the pause is in no saved state.
        if matches!(next, Stage::Pause | Stage::Save) && self.guest_request.is_some() {
            moving.give_up(Problem::new(
                Class::State,
                "the guest has just asked to be switched off or reset",
                "save",
                "ask again when that is done",
            ));
        }
        Step::Continue(Operation::SaveRestore(moving))
    }

    /// Lets every paused process write its state.
    fn save(&mut self, old: u32) -> Progress {
        self.ask_by_tiers(old, 0..self.plan.tier_count(), Order::Save, |life| life.saved_len.is_none())
    }

    /// Gives every configured process its state, devices before CPUs.
    fn restore(&mut self, new: u32) -> Progress {
        let is_due = |life: &Life| life.state == State::Configured;
        self.ask_by_tiers(new, (0..self.plan.tier_count()).rev(), Order::Restore, is_due)
    }

    /// Ends the old set, whose guest lives in the new one.
    fn retire(&mut self, moving: SaveRestore) -> Step {
        if self.discard(moving.old) == Progress::Waiting {
            return Step::Break(Operation::SaveRestore(moving));
        }
        self.actions.push(Action::Answer(moving.ticket, Ok(Success::Moved(moving.new, moving.units))));
        Step::Continue(Operation::Idle)
    }

    /// Ends the new set, and leaves the old one running or paused.
    fn go_back(&mut self, moving: SaveRestore) -> Step {
        let gone = self.discard(moving.new);
        if self.bring(moving.old, moving.goal) == Progress::Waiting || gone == Progress::Waiting {
            return Step::Break(Operation::SaveRestore(moving));
        }
        self.phase = moving.goal.phase();
        self.actions.push(Action::Abandon);
        let problem = moving.failed.unwrap_or_else(|| bug("a move was given up for no reason"));
        let advice = format!("{}; the guest is {}", problem.advice, self.phase);
        self.actions.push(Action::Answer(moving.ticket, Err(Problem { advice, ..problem })));
        Step::Continue(Operation::Idle)
    }

    /// Ends a set at once.
    fn discard(&mut self, generation: u32) -> Progress {
        let ids: Vec<LifeId> = self.lives.of(generation).map(|(id, _)| id).collect();
        ids.iter().for_each(|id| self.end_life(*id, Ending::Discard));
        if ids.is_empty() { Progress::Done } else { Progress::Waiting }
    }

    /// Whether this is a life of the set that the guest is to move into.
    pub(super) const fn is_moving_to(&self, id: LifeId) -> bool {
        matches!(self.operation, Operation::SaveRestore(_)) && id.generation > self.generation
    }

    /// Gives the move up that is under way, if there is one.
    pub(super) fn give_up_move(&mut self, problem: Problem) {
        if let Operation::SaveRestore(moving) = &mut self.operation {
            moving.give_up(problem);
        }
    }

    /// A device of the new set has failed.
    pub(super) fn not_coming_along(&mut self, id: LifeId, reason: &str) {
        self.give_up_move(Problem::new(
            Class::State,
            format!("the device {} does not come along: {reason}", id.instance),
            "restore",
            "the guest is where it was",
        ));
    }

    /// A process of either set has refused its part of the move.
    pub(super) fn refused_to_move(&mut self, id: LifeId, problem: Problem) {
        let Operation::SaveRestore(moving) = &mut self.operation else { return };
        if moving.stage == Stage::GiveUp && id.generation == moving.old {
            self.refused_way_back(id, &problem);
        } else {
            moving.give_up(problem);
        }
    }
}
