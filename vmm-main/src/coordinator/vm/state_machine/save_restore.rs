// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Save and restore inside one VM: the guest moves into a new set of processes, its RAM stays where it is.
//!
//! ```text
//! can everyone be saved? ─► start and configure a new set ─► pause ─► save ─► load, arm, replay ─► COMMIT: end the
//! old set ─► go
//!                           └──────── any failure from here on: the new set is ended, the old one goes on ┘
//! ```
//!
//! This is a migration without a wire: the same requests, the same state units, the same order. Nothing is touched
//! before every process has said that it can be saved. What takes longest comes first, while the guest still runs. Up
//! to the commit whatever fails or dies of the new set costs the move, and the guest goes on where it was; the commit
//! ends the old set, and only when all of it is reaped does the new one begin: no two sets ever run, not even for a
//! moment. From the commit on a loss is one as in a running VM.

use ipc::instance::InstanceId;
use ipc::protocol::control::{Quiescence, ReplayOutcome, StreamReplay};

use super::given_up::{Cause, GivenUp};
use super::transit::Goal;
use super::{Operation, Progress, StateMachine, Step, cannot_be_killed};
use crate::coordinator::logs;
use crate::coordinator::vm::action::{Action, Ending, LoadSource, RequestKind, Success};
use crate::coordinator::vm::event::{LifeId, Ticket};
use crate::problem::{Class, Problem};

/// A move that is under way.
#[derive(Debug, Clone)]
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
    /// It is given up: the new set is ended, then the old one goes on.
    given_up: Option<GivenUp>,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Every process of the old set says whether it can be saved.
    Check,
    Prepare,
    Populate,
    Pause,
    Save,
    Load,
    Arm,
    Replay,
    /// The commit: the old set is ended.
    Retire,
    Go,
}

impl Stage {
    /// As messages and reports name it.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Check => "check",
            Self::Prepare => "prepare",
            Self::Populate => "configure",
            Self::Pause => "pause",
            Self::Save => "save",
            Self::Load => "load",
            Self::Arm => "arm",
            Self::Replay => "replay",
            Self::Retire => "end old processes",
            Self::Go => "go",
        }
    }
}

impl SaveRestore {
    /// From the processes of generation `old` into those of `new`.
    pub fn new(ticket: Ticket, old: u32, new: u32) -> Self {
        Self { ticket, old, new, stage: Stage::Check, next: 0, units: Vec::new(), given_up: None }
    }

    /// Gives the move up, if that is still possible. `culprit` is who failed.
    pub fn give_up(&mut self, culprit: Option<InstanceId>, problem: Problem, cause: Cause) {
        match &mut self.given_up {
            Some(given_up) => given_up.came_of(culprit, problem, cause),
            None if matches!(self.stage, Stage::Retire | Stage::Go) => {}
            None => self.given_up = Some(GivenUp::at(self.stage.as_str(), culprit, problem, cause)),
        }
    }
}

impl StateMachine {
    /// A set of processes that lacks one, or is about to, cannot be saved.
    pub(super) fn check_whole(&self) -> Result<(), Problem> {
        let there = |instance| {
            let life = self.life_of(instance).and_then(|life| self.lives.get(life));
            life.is_some_and(|life| !life.is_ending())
        };
        let Some(missing) = self.plan.members.iter().map(|member| member.instance).find(|id| !there(*id))
        else {
            return Ok(());
        };
        Err(self.is_missing(missing))
    }

    /// What such a process remembered went with it.
    pub(super) fn is_missing(&self, missing: InstanceId) -> Problem {
        Problem::new(
            Class::State,
            format!("process {missing} is lost, and its device with it: its state cannot be saved"),
            missing.to_string(),
            format!("start the VM again to have the device back; the guest is {}", self.phase),
        )
    }

    pub(super) fn prepared(&mut self, result: Result<(), Problem>) {
        match (&mut self.operation, result) {
            (Operation::Incoming(_), result) => self.incoming_prepared(result),
            (Operation::SaveRestore(moving), Ok(())) if moving.stage == Stage::Prepare => {
                moving.stage = Stage::Populate;
            }
            (Operation::Restart(restart), Ok(())) => restart.prepared(),
            (_, Ok(())) => {}
            (_, Err(problem)) if self.recovery.is_some() => self.end_failed(problem, Vec::new()),
            (_, Err(problem)) => self.give_up_move(None, problem, Cause::Refusal),
        }
    }

    pub(super) fn save_restore(&mut self, mut moving: SaveRestore) -> Step {
        let (old, new) = (moving.old, moving.new);
        if let Some(given_up) = &moving.given_up {
            return match self.go_back(new, moving.ticket, given_up) {
                Progress::Waiting => Step::Break(Operation::SaveRestore(moving)),
                Progress::Done => Step::Continue(Operation::Idle),
            };
        }
        let (progress, next) = match moving.stage {
            Stage::Check => {
                (self.ask_all(old, RequestKind::CheckSave, |life| !life.can_be_saved), Stage::Prepare)
            }
            Stage::Prepare => return Step::Break(Operation::SaveRestore(moving)),
            Stage::Populate => (self.populate(new, &mut moving.next), Stage::Pause),
            Stage::Pause => (self.bring(old, Goal::Paused), Stage::Save),
            Stage::Save => {
                (self.ask_all(old, RequestKind::Save, |life| life.saved_len.is_none()), Stage::Load)
            }
            Stage::Load => (self.load(new, LoadSource::Saved), Stage::Arm),
            Stage::Arm => (self.arm(new, &LoadSource::Saved), Stage::Replay),
            Stage::Replay => (self.replay(new), Stage::Retire),
            Stage::Retire => (self.discard(old), Stage::Go),
            Stage::Go => (self.go(new), Stage::Go),
        };
        if progress == Progress::Waiting {
            return Step::Break(Operation::SaveRestore(moving));
        }
        if moving.stage != Stage::Check {
            self.actions.push(Action::Lap(moving.stage.as_str()));
        }
        match (moving.stage, next) {
            (_, Stage::Prepare) => self.actions.push(Action::Prepare),
            (_, Stage::Pause) => self.actions.push(Action::CloseConnections(new)),
            (_, Stage::Load) => {
                let lens = self.lives.of(old).map(|(id, life)| (id.instance, life.saved_len.unwrap_or(0)));
                moving.units = lens.collect();
            }
            (_, Stage::Retire) => {
                self.generation = new;
                self.actions.push(Action::Commit);
            }
            (Stage::Retire, _) if !self.hanging.is_empty() => {
                // It holds what the new set would go on with.
                self.operation = Operation::SaveRestore(moving);
                let problem = cannot_be_killed(&self.hanging, Stage::Retire.as_str());
                return Step::Continue(self.ending_failed(problem));
            }
            (Stage::Go, _) => {
                self.answer(moving.ticket, Ok(Success::Moved(new, moving.units)));
                return Step::Continue(Operation::Idle);
            }
            _ => {}
        }
        // A reset or power-off that the guest requested before the pause is in no saved state.
        if matches!(next, Stage::Prepare | Stage::Pause | Stage::Save) && self.guest_request.is_some() {
            moving.give_up(
                None,
                Problem::new(
                    Class::State,
                    "the guest has just asked to be switched off or reset",
                    "save",
                    "ask again when that is done",
                ),
                Cause::Refusal,
            );
        } else {
            moving.stage = next;
        }
        Step::Continue(Operation::SaveRestore(moving))
    }

    /// Nothing of an earlier attempt is relied on.
    pub(super) fn forget_saves(&mut self) {
        for id in self.lives.ids() {
            if let Some(life) = self.lives.get_mut(id) {
                (life.can_be_saved, life.saved_len) = (false, None);
            }
        }
    }

    /// Ends a set at once. Done when all of it is gone.
    pub(super) fn discard(&mut self, generation: u32) -> Progress {
        let ids: Vec<LifeId> = self.lives.of(generation).map(|(id, _)| id).collect();
        ids.iter().for_each(|id| self.end_life(*id, Ending::Discard));
        if ids.is_empty() { Progress::Done } else { Progress::Waiting }
    }

    /// Whether this is a life that the guest is to go on with, and does not yet.
    pub(super) fn is_moving_to(&self, id: LifeId) -> bool {
        match &self.operation {
            // One that was restarted has a later generation than the set that it is of.
            Operation::SaveRestore(moving) => id.generation == moving.new && self.generation != moving.new,
            Operation::Restart(restart) => restart.is_next(id),
            Operation::Incoming(coming) => coming.is_next(id),
            _ => false,
        }
    }

    /// Whether the set that the guest lives in is just beginning, after a commit.
    pub(super) const fn is_past_commit(&self) -> bool {
        matches!(&self.operation, Operation::SaveRestore(moving) if moving.new == self.generation)
    }

    /// A process has paused, with so much in flight.
    pub(super) fn paused_with(&mut self, id: LifeId, in_flight: Quiescence) {
        // Of a restart the others stay, with all that they have begun.
        let stays = matches!(&self.operation, Operation::Restart(restart) if !restart.is_leaving(id));
        // Signals that wait for the CPUs are in their state: devices pause later, and may signal until then.
        let has_cpus = self.plan.member(id.instance).is_some_and(|member| member.runs_guest);
        let in_flight = if has_cpus { Quiescence { vectors: 0, pins: 0, ..in_flight } } else { in_flight };
        if !in_flight.is_quiet() && !stays {
            let problem = Problem::new(
                Class::State,
                format!("it is paused, and in flight are {in_flight}: they would be lost"),
                id.instance.to_string(),
                "ask again",
            );
            self.give_up_move(Some(id.instance), problem, Cause::Refusal);
        }
    }

    /// A vSMMU has attached its streams anew, or not.
    pub(super) fn replayed(&mut self, id: LifeId, streams: &[StreamReplay]) {
        let aborted = streams.iter().find_map(|replay| match &replay.outcome {
            ReplayOutcome::Attached => None,
            ReplayOutcome::Aborted(why) => Some((replay.stream, logs::printable(why.as_bytes()))),
        });
        if let Some((stream, why)) = aborted {
            let problem = Problem::new(
                Class::State,
                format!(
                    "DMA of stream {:#x} would end in abort, and its guest says otherwise: {why}",
                    stream.0
                ),
                id.instance.to_string(),
                "look at the process of the device behind it",
            );
            self.give_up_move(Some(id.instance), problem, Cause::Refusal);
        }
    }

    /// A process of either set has refused its part of the move.
    pub(super) fn refused_to_move(&mut self, id: LifeId, request: Option<RequestKind>, problem: Problem) {
        let Operation::SaveRestore(moving) = &mut self.operation else { return };
        if moving.given_up.is_some() {
            // Others may still refuse what was asked before it was given up.
            if id.generation != moving.new && request == Some(RequestKind::Resume) {
                self.refused_way_back(id, &problem);
            }
        } else {
            moving.give_up(Some(id.instance), problem, Cause::of_refusal(request));
        }
    }
}
