// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A planned restart: a process is started anew under a running guest, with all that it remembers; all others stay, but
//! for those that cannot do without the one that leaves ([`RestartGroup`](crate::system::RestartGroup)).
//!
//! ```text
//! can they be saved? ─► start their next lives ─► pause ─► save them ─► configure, load the next ─► rewire their peers
//!     ─► arm, replay ─► COMMIT: end the old lives ─► go ─► resume
//!          └──────── any failure from the start on: the next lives are ended, the old ones go on ┘
//! ```
//!
//! What two lives have in common (rings, register pages, doorbells) is looked at by the next one only when the old one
//! holds still, and written only when it goes: so one that fails has touched nothing. Channels are made anew, and their
//! peers keep the old ones until the old lives are over. The next lives are a set of processes of their own until the
//! commit, which takes them into the set that the guest lives in. From the commit on a loss is one as in a running VM.

use std::collections::BTreeSet;

use ipc::instance::InstanceId;
use ipc::protocol::lifecycle::State;

use super::given_up::{Cause, GivenUp};
use super::lives::Life;
use super::transit::Goal;
use super::{Operation, Progress, StateMachine, Step, bug, cannot_be_killed};
use crate::coordinator::vm::action::{Action, Ending, LoadSource, RequestKind, Success};
use crate::coordinator::vm::event::{LifeId, Ticket};
use crate::problem::Problem;
use crate::system::Rewiring;

/// A restart that is under way.
#[derive(Debug, Clone)]
pub(super) struct Restart {
    pub ticket: Ticket,
    /// The lives that the processes have: that of the one that was asked for first.
    old: Vec<LifeId>,
    /// The set of those that are to follow.
    new: u32,
    /// Which channels to them are not exchanged yet.
    to_rewire: Vec<Rewiring>,
    /// Who was rewired, and has not put into force yet what its new channels are to know.
    to_replay: Vec<InstanceId>,
    stage: Stage,
    /// Bytes of state that the old lives have saved.
    units: Vec<(InstanceId, u64)>,
    /// It is given up: the next lives are ended, then the old ones go on.
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
    /// The commit: the old lives are ended.
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
            Self::Retire => "end old processes",
            Self::Go => "go",
            Self::Resume => "resume",
        }
    }

    /// Whether the old lives are the guest's no more.
    const fn is_past_commit(self) -> bool {
        matches!(self, Self::Retire | Self::Go | Self::Resume)
    }
}

impl Restart {
    /// From these lives to those of the set `new`, of which others are told.
    pub fn new(ticket: Ticket, old: Vec<LifeId>, new: u32, to_rewire: Vec<Rewiring>) -> Self {
        let to_replay: BTreeSet<InstanceId> = to_rewire.iter().map(|rewiring| rewiring.peer).collect();
        let to_replay = to_replay.into_iter().collect();
        let stage = Stage::Check;
        Self { ticket, old, new, to_rewire, to_replay, stage, units: Vec::new(), given_up: None }
    }

    /// Gives it up, if that is still possible. `culprit` is who failed.
    pub fn give_up(&mut self, culprit: Option<InstanceId>, problem: Problem, cause: Cause) {
        match &mut self.given_up {
            Some(given_up) => given_up.came_of(culprit, problem, cause),
            None if self.stage.is_past_commit() => {}
            None => self.given_up = Some(GivenUp::at(self.stage.as_str(), culprit, problem, cause)),
        }
    }

    /// What the next lives need is there.
    pub fn prepared(&mut self) {
        if self.stage == Stage::Prepare {
            self.stage = Stage::Start;
        }
    }

    /// Whether the next lives are the guest's, and have not all begun yet.
    const fn is_beginning(&self) -> bool {
        matches!(self.stage, Stage::Retire | Stage::Go)
    }

    /// The set of the lives that are to follow, as long as they do not.
    pub fn next(&self) -> Option<u32> {
        (!self.stage.is_past_commit()).then_some(self.new)
    }

    /// Whether this is one of those before.
    pub fn is_leaving(&self, id: LifeId) -> bool {
        self.old.contains(&id)
    }

    /// Whether this is one of those that are to follow.
    pub fn is_next(&self, id: LifeId) -> bool {
        self.next() == Some(id.generation)
    }

    /// The life that follows an old one.
    fn following(&self, old: LifeId) -> LifeId {
        LifeId { generation: self.new, ..old }
    }
}

impl StateMachine {
    pub(super) fn restart(&mut self, mut restart: Restart) -> Step {
        let new = restart.new;
        if let Some(given_up) = &restart.given_up {
            return match self.go_back(new, restart.ticket, given_up) {
                Progress::Waiting => Step::Break(Operation::Restart(restart)),
                Progress::Done => Step::Continue(Operation::Idle),
            };
        }
        let (progress, next) = match restart.stage {
            Stage::Check => {
                (self.ask_old(&restart, RequestKind::CheckSave, |life| !life.can_be_saved), Stage::Prepare)
            }
            Stage::Prepare => return Step::Break(Operation::Restart(restart)),
            Stage::Start => (self.start_next(&restart), Stage::Pause),
            Stage::Pause => (self.bring(self.generation, Goal::Paused), Stage::Save),
            Stage::Save => {
                (self.ask_old(&restart, RequestKind::Save, |life| life.saved_len.is_none()), Stage::Configure)
            }
            Stage::Configure => (self.configure_next(new), Stage::Load),
            Stage::Load => (self.load(new, LoadSource::Saved), Stage::Rewire),
            Stage::Rewire => (self.rewire(&mut restart.to_rewire, new), Stage::Arm),
            Stage::Arm => (self.arm(new, &LoadSource::Saved), Stage::Replay),
            Stage::Replay => (self.replay_all(&mut restart), Stage::Retire),
            Stage::Retire => (self.retire(&restart), Stage::Go),
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
            (_, Stage::Prepare) => {
                let members = restart.old.iter().map(|old| old.instance).collect();
                self.actions.push(Action::PrepareRestart(members));
            }
            (Stage::Save, _) => {
                let saved = |old: &LifeId| Some((old.instance, self.lives.get(*old)?.saved_len?));
                restart.units = restart.old.iter().filter_map(saved).collect();
            }
            (Stage::Rewire, _) => self.actions.push(Action::CloseConnections(new)),
            (_, Stage::Retire) => self.follow(&restart),
            (Stage::Retire, _) if !self.hanging.is_empty() => {
                // It holds what the next life would go on with.
                self.operation = Operation::Restart(restart);
                let problem = cannot_be_killed(&self.hanging, Stage::Retire.as_str());
                return Step::Continue(self.ending_failed(problem));
            }
            (Stage::Resume, _) => {
                // There is always the one that was asked for.
                let asked = restart.old.first().map(|old| restart.following(*old));
                let done = asked.map(|asked| Success::Restarted(asked, restart.units));
                let done = done.ok_or_else(|| bug("nothing was to be restarted"));
                self.answer(restart.ticket, done);
                return Step::Continue(Operation::Idle);
            }
            _ => {}
        }
        restart.stage = next;
        Step::Continue(Operation::Restart(restart))
    }

    /// Asks the old lives, all at once. One that is gone ends the restart, one way or the other.
    fn ask_old(
        &mut self,
        restart: &Restart,
        request: RequestKind,
        is_due: impl Fn(&Life) -> bool,
    ) -> Progress {
        let mut progress = Progress::Done;
        for old in &restart.old {
            if self.lives.get(*old).is_none_or(&is_due) {
                // Not asked while it is busy.
                self.ask(*old, request);
                progress = Progress::Waiting;
            }
        }
        progress
    }

    /// Starts the next lives, sealed and greeted; what they are they are told when they may look at what the old ones
    /// have.
    fn start_next(&mut self, restart: &Restart) -> Progress {
        let mut progress = Progress::Done;
        for next in restart.old.iter().map(|old| restart.following(*old)) {
            match (self.lives.get(next), self.plan.member(next.instance).cloned()) {
                (Some(life), _) if life.started => continue,
                (None, Some(member)) => self.start(next, &member),
                _ => {}
            }
            progress = Progress::Waiting;
        }
        progress
    }

    /// Tells next lives what they are.
    pub(super) fn configure_next(&mut self, new: u32) -> Progress {
        self.ask_all(new, RequestKind::Configure, |life| life.state == State::Unconfigured)
    }

    /// Exchanges the channels of peers to the lives of the set `new`, of each when it is not busy. Those that the guest
    /// is without have none.
    pub(super) fn rewire(&mut self, to_rewire: &mut Vec<Rewiring>, new: u32) -> Progress {
        to_rewire.retain(|rewiring| self.life_of(rewiring.peer).is_some());
        for Rewiring { peer, member } in to_rewire.iter().copied() {
            if let Some(life) = self.life_of(peer) {
                self.ask(life, RequestKind::Rewire(LifeId { generation: new, instance: member }));
            }
        }
        if to_rewire.is_empty() { Progress::Done } else { Progress::Waiting }
    }

    /// A peer has its new channel to this life.
    pub(super) fn rewired(&mut self, peer: InstanceId, next: LifeId) {
        if let Operation::Restart(restart) = &mut self.operation
            && restart.new == next.generation
        {
            restart.to_rewire.retain(|waiting| *waiting != Rewiring { peer, member: next.instance });
        }
        self.recovery.iter_mut().for_each(|recovery| recovery.rewired(peer, next));
    }

    /// Puts into force what the next lives remember, and what those that were rewired have to tell them.
    fn replay_all(&mut self, restart: &mut Restart) -> Progress {
        restart.to_replay.retain(|peer| self.life_of(*peer).is_some());
        for peer in &restart.to_replay {
            if let Some(life) = self.life_of(*peer) {
                self.ask(life, RequestKind::Replay);
            }
        }
        match self.replay(restart.new) {
            Progress::Done if restart.to_replay.is_empty() => Progress::Done,
            _ => Progress::Waiting,
        }
    }

    /// A peer of the next lives has told them what it has to; or others, if it was asked for those before.
    pub(super) fn peer_replayed(&mut self, id: LifeId) {
        if let Operation::Restart(restart) = &mut self.operation
            && !restart.is_next(id)
            && restart.stage == Stage::Replay
        {
            restart.to_replay.retain(|peer| *peer != id.instance);
        }
    }

    /// The commit: the next lives are of the set that the guest lives in, and the old ones of none.
    fn follow(&mut self, restart: &Restart) {
        for old in &restart.old {
            for (id, set) in [(*old, None), (restart.following(*old), Some(self.generation))] {
                if let Some(life) = self.lives.get_mut(id) {
                    life.set = set;
                }
            }
        }
        self.actions.push(Action::Commit);
    }

    /// Ends the old lives at once. Done when they are gone.
    fn retire(&mut self, restart: &Restart) -> Progress {
        restart.old.iter().for_each(|old| self.end_life(*old, Ending::Discard));
        let are_gone = restart.old.iter().all(|old| self.lives.get(*old).is_none());
        if are_gone { Progress::Done } else { Progress::Waiting }
    }

    /// Whether this is the next life of a restart that is under way, or was ordered of a VM that stands still.
    pub fn is_restarting_into(&self, id: LifeId) -> bool {
        self.is_ordered(id) || matches!(&self.operation, Operation::Restart(restart) if restart.is_next(id))
    }

    /// Whether the next lives of a restart are the guest's, and have not all begun yet.
    pub(super) const fn restart_is_beginning(&self) -> bool {
        matches!(&self.operation, Operation::Restart(restart) if restart.is_beginning())
    }

    /// Whether this is one of those: the checkpoint that the old life left is what it would have gone on from.
    pub(super) fn is_beginning(&self, id: LifeId) -> bool {
        let Operation::Restart(restart) = &self.operation else { return false };
        restart.is_beginning() && restart.new == id.generation
    }

    /// Whether this is a life that was ended for its next one.
    pub(super) fn is_retired(&self, id: LifeId) -> bool {
        matches!(&self.operation, Operation::Restart(restart) if restart.is_leaving(id) && restart.stage == Stage::Retire)
    }

    /// A process has refused its part of a restart.
    pub(super) fn refused_restart(&mut self, id: LifeId, request: Option<RequestKind>, problem: Problem) {
        let Operation::Restart(restart) = &mut self.operation else { return };
        let is_way_back = restart.given_up.is_some() || restart.stage == Stage::Resume;
        if is_way_back && request == Some(RequestKind::Resume) {
            // It is neither paused nor does it run.
            self.refused_way_back(id, &problem);
        } else {
            restart.give_up(Some(id.instance), problem, Cause::of_refusal(request));
        }
    }
}
