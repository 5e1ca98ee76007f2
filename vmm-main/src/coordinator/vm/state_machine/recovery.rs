// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A process that died is started anew under the guest, which runs on, from the checkpoint that it left.
//!
//! ```text
//! reaped ─► end what a move had begun ─► start its next life ─► configure, load the checkpoint ─► rewire its peers
//!     ─► arm, replay ─► it is of the guest's set ─► go (─► pause, if the guest is paused)
//! ```
//!
//! It stands beside the operation, and is none: a CPU that waits for the dead process cannot answer a request to pause
//! that it was given before. Whatever is under way holds still meanwhile, and goes on afterwards: a pause or a resume
//! as if nothing had happened; a move, a restart or a measurement is given up first, for it relies on the life that is
//! over. The next life is a set of its own until it goes, as at a planned restart ([`super::restart`]). One that dies
//! on its way is followed by another, and one that refuses ends the VM, as does a process that dies too often.

use std::collections::BTreeMap;
use std::time::Duration;

use ipc::instance::InstanceId;
use ipc::protocol::lifecycle::State;

use super::given_up::Cause;
use super::transit::Goal;
use super::{Operation, Progress, StateMachine, at_step, cannot_be_killed};
use crate::coordinator::logs;
use crate::coordinator::vm::action::{Action, Ending, LoadSource, Notice, RequestKind};
use crate::coordinator::vm::event::{Departure, LifeId, Timer};
use crate::lifecycle::Phase;
use crate::problem::{Class, Problem};
use crate::system::Rewiring;

/// How long a death counts towards the limit.
const DEATHS_SPAN: Duration = Duration::from_secs(60);

/// A next life on its way.
#[derive(Debug)]
pub(super) struct Recovery {
    new: LifeId,
    /// Which channels to it are not exchanged yet.
    to_rewire: Vec<Rewiring>,
    stage: Stage,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The processes of another set are ended.
    Clear,
    Start,
    Configure,
    Load,
    Rewire,
    Arm,
    Replay,
    Go,
    /// It holds still, if the guest is paused.
    Settle,
}

/// The deaths of a process that were survived.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Deaths {
    /// How many.
    pub count: u32,
    /// How many of them count towards the limit.
    recent: u32,
    /// How it died last.
    pub last: String,
}

impl Stage {
    /// What users are told of it.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Clear | Self::Start => "start",
            Self::Configure => "configure",
            Self::Load => "load",
            Self::Rewire => "rewire",
            Self::Arm => "arm",
            Self::Replay => "replay",
            Self::Go => "go",
            Self::Settle => "pause",
        }
    }
}

impl Recovery {
    /// The set that the next life is alone in until it goes.
    pub const fn set(&self) -> u32 {
        self.new.generation
    }

    /// That set, and which channels to it are not exchanged yet.
    pub const fn rewiring(&mut self) -> (u32, &mut Vec<Rewiring>) {
        (self.new.generation, &mut self.to_rewire)
    }
}

impl StateMachine {
    /// The deaths that were survived.
    pub const fn deaths(&self) -> &BTreeMap<InstanceId, Deaths> {
        &self.deaths
    }

    /// Whether this life is to follow one that died.
    pub(super) fn is_reviving(&self, id: LifeId) -> bool {
        self.recovery.as_ref().is_some_and(|recovery| recovery.new == id)
    }

    /// A process died that can be followed by another life, `max` times within a minute. `had_begun`: it can have left
    /// a checkpoint.
    pub(super) fn died(&mut self, id: LifeId, had_begun: bool, max: u32, departure: Departure) {
        let Departure { reaped, problem, last_lines, .. } = departure;
        if !reaped {
            // It holds what the next life would go on with.
            let problem = cannot_be_killed(&[id.instance], "restart");
            return self.end_failed(problem, last_lines);
        }
        let (Some(to_rewire), true) = (self.rewirings(id.instance), self.is_reviving(id) || had_begun) else {
            return self.end_failed(problem, last_lines);
        };
        let deaths = self.deaths.entry(id.instance).or_default();
        deaths.count = deaths.count.saturating_add(1);
        deaths.recent = deaths.recent.saturating_add(1);
        deaths.last.clone_from(&problem.what);
        let (number, recent) = (deaths.count, deaths.recent);
        if recent > max {
            return self.end_failed(too_often(recent, problem), last_lines);
        }
        self.actions.push(Action::Arm(Timer::DeathForgotten(id.instance, number), DEATHS_SPAN));
        self.tell(Notice::ProcessDied(id.instance, problem.what.clone()));
        self.give_up_for(id, problem);
        let new = LifeId { generation: self.next_generation(), ..id };
        self.recovery = Some(Recovery { new, to_rewire, stage: Stage::Clear });
    }

    /// The channels that are exchanged for a next life of this process alone. None: it cannot have one, or a peer has
    /// not begun itself, and cannot be rewired.
    fn rewirings(&self, instance: InstanceId) -> Option<Vec<Rewiring>> {
        let group = self.plan.member(instance)?.restart.as_ref().ok()?;
        let has_begun = |rewiring: &Rewiring| {
            let life = self.life_of(rewiring.peer).and_then(|life| self.lives.get(life));
            life.is_none_or(|life| matches!(life.state, State::Running | State::Paused))
        };
        let is_possible = group.members == [instance] && group.rewirings.iter().all(has_begun);
        is_possible.then(|| group.rewirings.clone())
    }

    /// What counts on a life that is over is given up.
    fn give_up_for(&mut self, id: LifeId, problem: Problem) {
        let problem = Problem { advice: "ask again".to_owned(), ..problem };
        self.answer_probe(id, Err(problem.clone()));
        match self.operation {
            Operation::DirtyRate(_) => self.refused_to_log(id, None, problem),
            _ => self.give_up_move(Some(id.instance), problem, Cause::Death),
        }
    }

    /// A death was long enough ago not to count any more.
    pub(super) fn forget_death(&mut self, instance: InstanceId) {
        if let Some(deaths) = self.deaths.get_mut(&instance) {
            deaths.recent = deaths.recent.saturating_sub(1);
        }
    }

    /// Lets it go on until it has to wait, or is done.
    pub(super) fn recover(&mut self) {
        while let Some(mut recovery) = self.recovery.take() {
            let new = recovery.new;
            let (progress, next) = match recovery.stage {
                Stage::Clear => (self.end_other_sets(), Stage::Start),
                Stage::Start => (self.start_anew(new), Stage::Configure),
                Stage::Configure => (self.configure_next(new.generation), Stage::Load),
                Stage::Load => (self.load(new.generation, LoadSource::Checkpoint), Stage::Rewire),
                Stage::Rewire => (self.rewire(&mut recovery.to_rewire, new.generation), Stage::Arm),
                Stage::Arm => (self.arm(new.generation, &LoadSource::Checkpoint), Stage::Replay),
                Stage::Replay => (self.replay(new.generation), Stage::Go),
                Stage::Go => (self.let_go(new), Stage::Settle),
                Stage::Settle => (self.settle_revived(), Stage::Settle),
            };
            if progress == Progress::Waiting {
                self.recovery = Some(recovery);
                return;
            }
            match recovery.stage {
                Stage::Rewire => self.actions.push(Action::CloseConnections(new.generation)),
                Stage::Replay => {
                    if let Some(life) = self.lives.get_mut(new) {
                        life.set = Some(self.generation);
                    }
                }
                Stage::Settle => {
                    self.tell(Notice::ProcessRevived(new));
                    return;
                }
                _ => {}
            }
            recovery.stage = next;
            self.recovery = Some(recovery);
        }
    }

    /// Those that a move had started are not needed any more, and no two sets ever run.
    fn end_other_sets(&mut self) -> Progress {
        let is_other =
            |id: &LifeId| self.lives.get(*id).is_some_and(|life| life.set != Some(self.generation));
        let others: Vec<LifeId> = self.lives.ids().into_iter().filter(is_other).collect();
        others.iter().for_each(|id| self.end_life(*id, Ending::Discard));
        if others.is_empty() { Progress::Done } else { Progress::Waiting }
    }

    fn start_anew(&mut self, new: LifeId) -> Progress {
        match self.lives.get(new) {
            Some(life) if life.started => Progress::Done,
            Some(_) => Progress::Waiting,
            None => {
                if let Some(member) = self.plan.member(new.instance).cloned() {
                    self.revive(new, &member);
                }
                Progress::Waiting
            }
        }
    }

    fn let_go(&mut self, new: LifeId) -> Progress {
        match self.lives.get(new) {
            Some(life) if life.state == State::Running && !life.is_busy() => Progress::Done,
            _ => {
                self.ask(new, RequestKind::Go);
                Progress::Waiting
            }
        }
    }

    /// An operation that is under way brings everyone to where they are to be itself.
    fn settle_revived(&mut self) -> Progress {
        if self.phase == Phase::Paused && matches!(self.operation, Operation::Idle) {
            self.bring(self.generation, Goal::Paused)
        } else {
            Progress::Done
        }
    }

    /// A process has refused its part. Whether there is any.
    pub(super) fn refused_recovery(
        &mut self,
        id: LifeId,
        request: Option<RequestKind>,
        problem: &Problem,
    ) -> bool {
        let Some(recovery) = &self.recovery else { return false };
        if recovery.new == id {
            let what = at_step(recovery.stage.as_str(), Some(id.instance), problem.clone()).what;
            let last = self.deaths.get(&id.instance).map_or("", |deaths| &deaths.last);
            let problem = Problem::new(
                Class::Died,
                format!("{last}; its next life cannot go on: {what}"),
                id.instance.to_string(),
                problem.advice.clone(),
            );
            self.end_failed(problem, Vec::new());
            return true;
        }
        if request == Some(RequestKind::Rewire(recovery.new)) {
            // The guest's commands would never reach it.
            let why = logs::printable(problem.what.as_bytes());
            self.fail(
                id,
                format!("it cannot be reached by the next life of {}: {why}", recovery.new.instance),
            );
            return true;
        }
        // To a life that died on its way, and was followed by this one.
        matches!(request, Some(RequestKind::Rewire(next)) if next.instance == recovery.new.instance)
    }
}

fn too_often(count: u32, problem: Problem) -> Problem {
    Problem::new(
        Class::Died,
        format!("{}; it has died {count} times within {} s", problem.what, DEATHS_SPAN.as_secs()),
        problem.place,
        "the VM has ended with it; report this if it was not killed by hand",
    )
}
