// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A planned restart: one process is started anew under a running guest, with all that it remembers; all others stay.
//!
//! ```text
//! can it be saved? ─► start its next life ─► pause ─► save it ─► configure, load the next ─► rewire its peers
//!     ─► arm, replay ─► COMMIT: end the old life ─► go ─► resume
//!          └──────── any failure from the start on: the next life is ended, the old one goes on ┘
//! ```
//!
//! What the two lives have in common (rings, register pages, doorbells) is looked at by the next one only when the old
//! one holds still, and written only when it goes: so one that fails has touched nothing. Channels are made anew, and
//! their peers keep the old ones until the old life is over. The next life is a set of processes of its own until the
//! commit, which takes it into the set that the guest lives in. From the commit on a loss is one as in a running VM.

use ipc::instance::InstanceId;
use ipc::protocol::lifecycle::State;

use super::given_up::{Cause, GivenUp};
use super::transit::Goal;
use super::{Operation, Progress, StateMachine, Step, cannot_be_killed};
use crate::coordinator::vm::action::{Action, Ending, Memory, Order, Success};
use crate::coordinator::vm::event::{LifeId, Ticket};
use crate::problem::Problem;

/// A restart that is under way.
#[derive(Debug)]
pub(super) struct Restart {
    pub ticket: Ticket,
    /// The life that the process has.
    old: LifeId,
    /// The one that is to follow.
    new: LifeId,
    /// Whose channels to it are not exchanged yet.
    to_rewire: Vec<InstanceId>,
    stage: Stage,
    /// Bytes of state that the old life has saved.
    saved_len: u64,
    /// It is given up: the next life is ended, then the old one goes on.
    given_up: Option<GivenUp>,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Check,
    Prepare,
    Start,
    Pause,
    Save,
    Configure,
    Load,
    Rewire,
    Arm,
    Replay,
    /// The commit: the old life is ended.
    Retire,
    Go,
    Resume,
}

impl Stage {
    /// What users are told of it.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Check => "check",
            Self::Prepare => "prepare",
            Self::Start => "start",
            Self::Pause => "pause",
            Self::Save => "save",
            Self::Configure => "configure",
            Self::Load => "load",
            Self::Rewire => "rewire",
            Self::Arm => "arm",
            Self::Replay => "replay",
            Self::Retire => "end old process",
            Self::Go => "go",
            Self::Resume => "resume",
        }
    }

    /// Whether the old life is the guest's no more.
    const fn is_past_commit(self) -> bool {
        matches!(self, Self::Retire | Self::Go | Self::Resume)
    }
}

impl Restart {
    /// From one life of a process to the next, of which these are told.
    pub fn new(ticket: Ticket, old: LifeId, new: LifeId, to_rewire: Vec<InstanceId>) -> Self {
        Self { ticket, old, new, to_rewire, stage: Stage::Check, saved_len: 0, given_up: None }
    }

    /// Gives it up, if that is still possible. `culprit` is who failed.
    pub fn give_up(&mut self, culprit: Option<InstanceId>, problem: Problem, cause: Cause) {
        match &mut self.given_up {
            Some(given_up) => given_up.came_of(culprit, problem, cause),
            None if self.stage.is_past_commit() => {}
            None => self.given_up = Some(GivenUp::at(self.stage.as_str(), culprit, problem, cause)),
        }
    }

    /// What the next life needs is there.
    pub fn prepared(&mut self) {
        if self.stage == Stage::Prepare {
            self.stage = Stage::Start;
        }
    }

    /// The life that is to follow, as long as it does not.
    pub fn next(&self) -> Option<LifeId> {
        (!self.stage.is_past_commit()).then_some(self.new)
    }

    /// Whether this is the one before.
    pub fn is_leaving(&self, id: LifeId) -> bool {
        self.old == id
    }

    /// Whether this is it.
    pub fn is_next(&self, id: LifeId) -> bool {
        self.next() == Some(id)
    }
}

impl StateMachine {
    pub(super) fn restart(&mut self, mut restart: Restart) -> Step {
        let (old, new) = (restart.old, restart.new);
        if let Some(given_up) = &restart.given_up {
            return match self.go_back(new.generation, restart.ticket, given_up) {
                Progress::Waiting => Step::Break(Operation::Restart(restart)),
                Progress::Done => Step::Continue(Operation::Idle),
            };
        }
        let (progress, next) = match restart.stage {
            Stage::Check => (self.check_old(old), Stage::Prepare),
            Stage::Prepare => return Step::Break(Operation::Restart(restart)),
            Stage::Start => (self.start_next(new), Stage::Pause),
            Stage::Pause => (self.bring(self.generation, Goal::Paused), Stage::Save),
            Stage::Save => (self.save_old(&mut restart), Stage::Configure),
            Stage::Configure => (self.configure_next(new), Stage::Load),
            Stage::Load => (self.load(new.generation, Memory::Saved), Stage::Rewire),
            Stage::Rewire => (self.rewire(&mut restart), Stage::Arm),
            Stage::Arm => (self.arm(new.generation, &Memory::Saved), Stage::Replay),
            Stage::Replay => (self.replay(new.generation), Stage::Retire),
            Stage::Retire => (self.retire(old), Stage::Go),
            Stage::Go => (self.go(self.generation), Stage::Resume),
            Stage::Resume => (self.bring(self.generation, Goal::Running), Stage::Resume),
        };
        if progress == Progress::Waiting {
            return Step::Break(Operation::Restart(restart));
        }
        if restart.stage != Stage::Check {
            self.actions.push(Action::Lap(restart.stage.as_str()));
        }
        match (restart.stage, next) {
            (_, Stage::Prepare) => self.actions.push(Action::PrepareRestart(new.instance)),
            (Stage::Rewire, _) => self.actions.push(Action::CloseConnections(new.generation)),
            (_, Stage::Retire) => {
                if let Some(life) = self.lives.get_mut(old) {
                    life.set = None;
                }
                if let Some(life) = self.lives.get_mut(new) {
                    life.set = Some(self.generation);
                }
                self.actions.push(Action::Commit);
            }
            (Stage::Retire, _) if !self.hanging.is_empty() => {
                // It holds what the next life would go on with.
                self.operation = Operation::Restart(restart);
                let problem = cannot_be_killed(&self.hanging, Stage::Retire.as_str());
                return Step::Continue(self.ending_failed(problem));
            }
            (Stage::Resume, _) => {
                let done = Success::Restarted(new, restart.saved_len);
                self.actions.push(Action::Answer(restart.ticket, Ok(done)));
                return Step::Continue(Operation::Idle);
            }
            _ => {}
        }
        restart.stage = next;
        Step::Continue(Operation::Restart(restart))
    }

    /// Has the old life say whether it can be saved.
    fn check_old(&mut self, old: LifeId) -> Progress {
        match self.lives.get(old) {
            Some(life) if life.can_be_saved => Progress::Done,
            _ => {
                // Not asked while it is busy; its death ends the restart, one way or the other.
                self.ask(old, Order::CheckSave);
                Progress::Waiting
            }
        }
    }

    /// Starts the next life, sealed and greeted; what it is it is told when it may look at what the old one has.
    fn start_next(&mut self, new: LifeId) -> Progress {
        match self.lives.get(new) {
            Some(life) if life.started => Progress::Done,
            Some(_) => Progress::Waiting,
            None => {
                if let Some(member) = self.plan.member(new.instance).cloned() {
                    self.start(new, &member);
                }
                Progress::Waiting
            }
        }
    }

    fn save_old(&mut self, restart: &mut Restart) -> Progress {
        match self.lives.get(restart.old).and_then(|life| life.saved_len) {
            Some(len) => {
                restart.saved_len = len;
                Progress::Done
            }
            None => {
                self.ask(restart.old, Order::Save);
                Progress::Waiting
            }
        }
    }

    fn configure_next(&mut self, new: LifeId) -> Progress {
        self.ask_all(new.generation, Order::Configure, |life| life.state == State::Unconfigured)
    }

    /// Exchanges the channels of its peers, all at once. Those that the guest is without have none.
    fn rewire(&mut self, restart: &mut Restart) -> Progress {
        restart.to_rewire.retain(|peer| self.life_of(*peer).is_some());
        for peer in &restart.to_rewire {
            if let Some(life) = self.life_of(*peer) {
                self.ask(life, Order::Rewire(restart.new));
            }
        }
        if restart.to_rewire.is_empty() { Progress::Done } else { Progress::Waiting }
    }

    /// A peer has its new channel.
    pub(super) fn rewired(&mut self, peer: InstanceId, next: LifeId) {
        if let Operation::Restart(restart) = &mut self.operation
            && restart.new == next
        {
            restart.to_rewire.retain(|waiting| *waiting != peer);
        }
    }

    /// Ends the old life at once. Done when it is gone.
    fn retire(&mut self, old: LifeId) -> Progress {
        self.end_life(old, Ending::Discard);
        if self.lives.get(old).is_none() { Progress::Done } else { Progress::Waiting }
    }

    /// Whether this is a life that was ended for its next one.
    pub(super) fn is_retired(&self, id: LifeId) -> bool {
        matches!(&self.operation, Operation::Restart(restart) if restart.old == id && restart.stage == Stage::Retire)
    }

    /// A process has refused its part of a restart.
    pub(super) fn refused_restart(&mut self, id: LifeId, order: Option<Order>, problem: Problem) {
        let Operation::Restart(restart) = &mut self.operation else { return };
        let is_way_back = restart.given_up.is_some() || restart.stage == Stage::Resume;
        if is_way_back && order == Some(Order::Resume) {
            // It is neither paused nor does it run.
            self.refused_way_back(id, &problem);
        } else {
            restart.give_up(Some(id.instance), problem, Cause::Refusal);
        }
    }
}
