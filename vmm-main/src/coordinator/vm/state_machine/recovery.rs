// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A process that died is started anew under the guest, which runs on, from the checkpoint that it left; and with it
//! those that cannot do without it ([`RestartGroup`](crate::system::RestartGroup)), each from its own.
//!
//! ```text
//! reaped ─► end the others of the group, and what a move had begun (─► hold the CPUs, wait for an order)
//!     ─► start the next lives ─► configure, load the checkpoints ─► rewire their peers ─► arm (─► log, if the guest's
//!     writes are logged) ─► replay ─► they are of the guest's set ─► go ─► rewire the CPUs (─► let them go on)
//!     (─► pause, if the guest is paused)
//! ```
//!
//! It stands beside the operation, and is none: a CPU that waits for the dead process cannot answer an order to pause
//! that it was given before, and so its process is rewired when nobody waits any more. Whatever is under way holds
//! still meanwhile, and goes on afterwards, or is given up first ([`super::interrupted`]). The next lives are a set of
//! their own until they go, as at a planned restart ([`super::restart`]). If one dies on its way, or another process
//! does meanwhile, all of them are begun once more, with that one. One that dies too often is waited for until
//! somebody orders its next life ([`super::standstill`]); one that refuses costs what its death would otherwise. While
//! the disks may be another host's, in the middle of a migration, nothing of this is begun: what a device's next life
//! finds in its checkpoint it would write. Nor is it while the next lives of a planned restart are about to begin.

use std::collections::BTreeMap;

use ipc::hello::Role;
use ipc::instance::InstanceId;
use ipc::protocol::lifecycle::State;

use super::lives::Life;
use super::mover::is_mover;
use super::standstill::{Order, Standstill};
use super::transit::Goal;
use super::{Operation, Progress, StateMachine, at_step};
use crate::coordinator::logs;
use crate::coordinator::vm::action::{Action, Ending, LoadSource, Notice, RequestKind};
use crate::coordinator::vm::event::LifeId;
use crate::lifecycle::Phase;
use crate::problem::{Class, Problem};
use crate::system::{self, RestartGroup, Rewiring};

/// Next lives on their way.
#[derive(Debug, Clone)]
pub(super) struct Recovery {
    /// Whose.
    pub members: Vec<InstanceId>,
    /// The set that they are alone in until they go.
    new: u32,
    /// Which channels to them are not exchanged yet.
    to_rewire: Vec<Rewiring>,
    /// The same of those to the CPUs, which may wait for one of them.
    to_rewire_last: Vec<Rewiring>,
    /// Who was rewired, and has not put into force yet what its new channels are to know.
    to_replay: Vec<InstanceId>,
    /// How many next lives of each have died on their way, those that were ordered too.
    pub died: BTreeMap<InstanceId, u32>,
    stage: Stage,
    /// Why none is started before that is ordered.
    pub standstill: Option<Standstill>,
    /// Users were told that. Not while the disks may be another host's: the guest may be that host's, too.
    pub is_told: bool,
    /// Who has ordered it since, if anybody has.
    pub ordered: Option<Order>,
}

/// So many next lives die on the checkpoint before they are spared it.
const DEATHS_ON_CHECKPOINT: u32 = 3;

/// How far they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The processes of another set are ended, and those that are to be started anew.
    Clear,
    /// The CPUs are held, before an order is waited for.
    Hold,
    Wait,
    Start,
    Configure,
    Load,
    Rewire,
    Arm,
    /// They log their writes, where that was on.
    Log,
    Replay,
    Go,
    RewireLast,
    /// The CPUs go on, if they are held.
    Release,
    /// They hold still, if the guest is paused.
    Settle,
}

impl Stage {
    /// What users are told of it.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Clear | Self::Hold | Self::Wait | Self::Start => "start",
            Self::Configure => "configure",
            Self::Load => "load",
            Self::Rewire | Self::RewireLast => "rewire",
            Self::Arm => "arm",
            Self::Log => "log",
            Self::Replay => "replay",
            Self::Go => "go",
            Self::Release | Self::Settle => "let go on",
        }
    }
}

impl Recovery {
    /// The set that the next lives are alone in until they go.
    pub const fn set(&self) -> u32 {
        self.new
    }

    /// A peer has its new channel to this life.
    pub fn rewired(&mut self, peer: InstanceId, next: LifeId) {
        if next.generation == self.new {
            let is_other = |waiting: &Rewiring| *waiting != Rewiring { peer, member: next.instance };
            self.to_rewire.retain(is_other);
            self.to_rewire_last.retain(is_other);
        }
    }

    /// Whether this life is one of them.
    pub fn is_next(&self, id: LifeId) -> bool {
        self.new == id.generation && self.members.contains(&id.instance)
    }

    /// What it begins with. A guest can reset a disk's controller, and no other process of its devices.
    pub fn source_of(&self, member: InstanceId) -> LoadSource {
        match self.died.get(&member) {
            Some(DEATHS_ON_CHECKPOINT..) if member.role == Role::Nvme => LoadSource::Failed,
            _ => LoadSource::Checkpoint,
        }
    }

    /// The CPUs are held, and nothing goes on before an order.
    #[cfg(test)]
    pub fn waits_for_order(&self) -> bool {
        self.stage == Stage::Wait
    }

    fn is_member_of(device: InstanceId) -> impl Fn(&InstanceId) -> bool {
        move |member| system::device_of(*member) == Some(device)
    }
}

impl StateMachine {
    /// Begins with the end of those that are to be started anew; or begins once more, because of this.
    pub(super) fn begin_recovery(
        &mut self,
        group: RestartGroup,
        standstill: Option<Standstill>,
        problem: &Problem,
    ) {
        let RestartGroup { members, rewirings } = group;
        let (ordered, died) =
            self.recovery.take().map(|recovery| (recovery.ordered, recovery.died)).unwrap_or_default();
        if let Some(order) = ordered {
            self.end_order(order, Err(problem.clone()));
        }
        let new = self.next_generation();
        let is_last =
            |rewiring: &Rewiring| self.plan.member(rewiring.peer).is_some_and(|peer| peer.runs_guest);
        let (to_rewire_last, to_rewire): (Vec<_>, Vec<_>) = rewirings.into_iter().partition(is_last);
        let smmus = to_rewire.iter().map(|rewiring| rewiring.peer).filter(|peer| peer.role == Role::Smmu);
        let to_replay = smmus.collect();
        self.recovery = Some(Recovery {
            members,
            new,
            to_rewire,
            to_rewire_last,
            to_replay,
            died,
            stage: Stage::Clear,
            standstill,
            is_told: !self.defers_recovery(),
            ordered: None,
        });
    }

    /// Who is started anew when this process is, with those that are being already, and whose channels are exchanged.
    /// None: it cannot be, or a peer has not begun itself, and cannot be rewired.
    pub(super) fn group_with(&self, instance: InstanceId) -> Option<RestartGroup> {
        let mut all = RestartGroup { members: Vec::new(), rewirings: Vec::new() };
        let under_way = self.recovery.iter().flat_map(|recovery| &recovery.members);
        for member in std::iter::once(&instance).chain(under_way) {
            let group = self.plan.member(*member)?.restart.as_ref().ok()?;
            for member in &group.members {
                if !all.members.contains(member) {
                    all.members.push(*member);
                }
            }
            for rewiring in &group.rewirings {
                if !all.rewirings.contains(rewiring) {
                    all.rewirings.push(*rewiring);
                }
            }
        }
        let members = &all.members;
        all.rewirings.retain(|rewiring| !members.contains(&rewiring.peer));
        let has_begun = |rewiring: &Rewiring| {
            let life = self.life_of(rewiring.peer).and_then(|life| self.lives.get(life));
            life.is_none_or(|life| matches!(life.state, State::Running | State::Paused))
        };
        (self.restart_is_beginning() || all.rewirings.iter().all(has_begun)).then_some(all)
    }

    /// Whether this life, which the guest lived with, is to be followed by another.
    pub(super) fn is_to_be_followed(&self, id: LifeId, life: &Life) -> bool {
        let is_member = |recovery: &Recovery| recovery.members.contains(&id.instance);
        life.set == Some(self.generation) && self.recovery.as_ref().is_some_and(is_member)
    }

    /// Lets it go on until it has to wait, or is done.
    pub(super) fn recover(&mut self) {
        if self.defers_recovery() {
            return;
        }
        self.tell_of_standstill();
        while let Some(mut recovery) = self.recovery.take() {
            let new = recovery.new;
            let (progress, next) = match recovery.stage {
                Stage::Clear if recovery.standstill.is_some() => (self.clear_for(&recovery), Stage::Hold),
                Stage::Clear => (self.clear_for(&recovery), Stage::Start),
                Stage::Hold => (self.hold_cpus(true), Stage::Wait),
                Stage::Wait if recovery.ordered.is_none() => (Progress::Waiting, Stage::Wait),
                Stage::Wait => (Progress::Done, Stage::Start),
                Stage::Start => (self.start_anew(&recovery), Stage::Configure),
                Stage::Configure => (self.configure_next(new), Stage::Load),
                Stage::Load => (self.load_next(&recovery), Stage::Rewire),
                Stage::Rewire => (self.rewire(&mut recovery.to_rewire, new), Stage::Arm),
                Stage::Arm => (self.arm(new, &LoadSource::Checkpoint), Stage::Log),
                Stage::Log => (self.log_as_before(new), Stage::Replay),
                Stage::Replay => (self.replay_revived(&mut recovery), Stage::Go),
                Stage::Go => (self.let_go(&recovery), Stage::RewireLast),
                Stage::RewireLast => (self.rewire(&mut recovery.to_rewire_last, new), Stage::Release),
                Stage::Release => (self.hold_cpus(false), Stage::Settle),
                Stage::Settle => (self.settle_revived(), Stage::Settle),
            };
            if progress == Progress::Waiting {
                self.recovery = Some(recovery);
                return;
            }
            let lives: Vec<LifeId> =
                recovery.members.iter().map(|member| LifeId { generation: new, instance: *member }).collect();
            match recovery.stage {
                Stage::Clear => self.all_are_reaped(&recovery),
                Stage::RewireLast => self.actions.push(Action::CloseConnections(new)),
                Stage::Replay => {
                    for id in lives {
                        if let Some(life) = self.lives.get_mut(id) {
                            life.set = Some(self.generation);
                        }
                    }
                }
                Stage::Settle => return self.end_recovery(&recovery, &lives),
                _ => {}
            }
            if next == Stage::Start {
                self.actions.push(Action::Renew(new, recovery.members.clone()));
            }
            recovery.stage = next;
            self.recovery = Some(recovery);
        }
    }

    /// Ends those that a move had started, which are not needed any more, for no two sets ever run; and of those that
    /// are to be started anew the lives that there are. A mover is the migration's to end.
    fn clear_for(&mut self, recovery: &Recovery) -> Progress {
        let is_due = |id: &LifeId| {
            let is_other = self.lives.get(*id).is_some_and(|life| life.set != Some(self.generation));
            is_other && !is_mover(id.instance) || recovery.members.contains(&id.instance)
        };
        let due: Vec<LifeId> = self.lives.ids().into_iter().filter(is_due).collect();
        due.iter().for_each(|id| self.end_life(*id, Ending::Discard));
        if due.is_empty() { Progress::Done } else { Progress::Waiting }
    }

    /// All of them go on.
    fn end_recovery(&mut self, recovery: &Recovery, lives: &[LifeId]) {
        lives.iter().for_each(|life| self.tell(Notice::ProcessRevived(*life)));
        if let Some(order) = recovery.ordered {
            self.end_order(order, Ok(LifeId { generation: recovery.new, instance: order.process }));
        }
    }

    /// All lives before are reaped: what they had is the next ones'.
    fn all_are_reaped(&mut self, recovery: &Recovery) {
        // What waits for the DMA of one of them waits for the next life from now on.
        let is_running = |id: &LifeId| {
            let life = self.lives.get(*id);
            life.is_some_and(|life| matches!(life.state, State::Running | State::Paused) && !life.is_ending())
        };
        let smmus = self.lives.of(self.generation).map(|(id, _)| id);
        let smmus: Vec<LifeId> =
            smmus.filter(|id| id.instance.role == Role::Smmu).filter(is_running).collect();
        let devices = recovery.members.iter().filter(|member| system::device_of(**member) == Some(**member));
        // But for what the host does for a physical device: that goes on, and is waited for.
        let devices = devices.filter(|device| !self.dma_is_hosts(**device));
        let told = devices.flat_map(|device| smmus.iter().map(|smmu| (*smmu, *device)));
        let told: Vec<_> = told.map(|(smmu, device)| Action::DmaEnded { smmu, device }).collect();
        self.actions.extend(told);
        // Ends of channels to the lives of a move that was given up: their peers are to see that those are over.
        self.actions.push(Action::Abandon);
    }

    fn start_anew(&mut self, recovery: &Recovery) -> Progress {
        let mut progress = Progress::Done;
        for instance in &recovery.members {
            let new = LifeId { generation: recovery.new, instance: *instance };
            match (self.lives.get(new), self.plan.member(*instance).cloned()) {
                (Some(life), _) if life.started => continue,
                (None, Some(member)) => self.start(new, &member),
                _ => {}
            }
            progress = Progress::Waiting;
        }
        progress
    }

    /// Gives each what the life before has left, or nothing of that.
    fn load_next(&mut self, recovery: &Recovery) -> Progress {
        let mut progress = Progress::Done;
        for member in &recovery.members {
            let id = LifeId { generation: recovery.new, instance: *member };
            let is_due = |life: &Life| life.state == State::Configured;
            if self.lives.get(id).is_some_and(is_due) {
                // Not asked while it is busy.
                self.ask(id, RequestKind::Load(recovery.source_of(*member)));
                progress = Progress::Waiting;
            }
        }
        progress
    }

    /// Puts into force what the next lives remember, and what the vSMMU has to tell those behind it.
    fn replay_revived(&mut self, recovery: &mut Recovery) -> Progress {
        recovery.to_replay.retain(|peer| self.life_of(*peer).is_some());
        for peer in &recovery.to_replay {
            if let Some(life) = self.life_of(*peer) {
                self.ask(life, RequestKind::Replay);
            }
        }
        match self.replay(recovery.new) {
            Progress::Done if recovery.to_replay.is_empty() => Progress::Done,
            _ => Progress::Waiting,
        }
    }

    /// A vSMMU has told the next lives behind it what it has to; or lives before them, if it was asked for those.
    pub(super) fn peer_replayed_revived(&mut self, id: LifeId) {
        if let Some(recovery) = self.recovery.as_mut().filter(|recovery| !recovery.is_next(id))
            && recovery.stage == Stage::Replay
        {
            recovery.to_replay.retain(|peer| *peer != id.instance);
        }
    }

    /// Lets them begin, each behind what it depends on.
    fn let_go(&mut self, recovery: &Recovery) -> Progress {
        for tier in (0..self.plan.tier_count()).rev() {
            let mut progress = Progress::Done;
            for id in self.tier(self.generation, tier) {
                let is_through = |life: &Life| life.state == State::Running && !life.is_busy();
                if recovery.is_next(id) && !self.lives.get(id).is_some_and(is_through) {
                    self.ask(id, RequestKind::Go);
                    progress = Progress::Waiting;
                }
            }
            if progress == Progress::Waiting {
                return progress;
            }
        }
        Progress::Done
    }

    /// Who has been asked to take a channel to a life that is lost by now answers that first. An operation that is
    /// under way brings everyone to where they are to be itself.
    fn settle_revived(&mut self) -> Progress {
        let is_rewired = |life: &Life| !matches!(life.open, Some(RequestKind::Rewire(_)));
        if !self.lives.of(self.generation).all(|(_, life)| is_rewired(life)) {
            return Progress::Waiting;
        }
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
        order: Option<RequestKind>,
        problem: &Problem,
    ) -> bool {
        let next = match order {
            Some(RequestKind::Rewire(next)) if id.instance.role != Role::Vfio => next,
            _ => id,
        };
        if self.is_ordered(next) && self.fail_order(next, problem) {
            return true;
        }
        let Some(recovery) = &self.recovery else { return false };
        if recovery.is_next(id) {
            let what = at_step(recovery.stage.as_str(), Some(id.instance), problem.clone()).what;
            let died = recovery.members.iter().find_map(|member| self.deaths.get(member));
            let last = self.deaths.get(&id.instance).or(died).map_or("", |deaths| &deaths.last);
            let what = format!("{last}; its next life cannot go on: {what}");
            match system::device_of(id.instance) {
                Some(device) => self.lose_device(device, &what, Vec::new()),
                None => {
                    let (place, advice) = (id.instance.to_string(), problem.advice.clone());
                    self.end_failed(Problem::new(Class::Died, what, place, advice), Vec::new());
                }
            }
            return true;
        }
        let Some(RequestKind::Rewire(next)) = order else { return false };
        if !recovery.is_next(next) {
            // To a life that died on its way, and was followed by this one.
            return recovery.members.contains(&next.instance);
        }
        let why = logs::printable(problem.what.as_bytes());
        if id.instance.role == Role::Vfio {
            // What the guest orders would never reach it.
            self.fail(id, format!("it cannot be reached by the next life of {}: {why}", next.instance));
        } else if let Some(device) = system::device_of(next.instance) {
            let reason = format!("its next life cannot be reached by {}: {why}", id.instance);
            self.lose_device(device, &reason, Vec::new());
        }
        true
    }

    /// No life of this device's processes follows any more: those that there are end, and nobody waits for them.
    pub(super) fn end_device(&mut self, device: InstanceId) {
        let is_member = Recovery::is_member_of(device);
        if let Some(recovery) = &mut self.recovery {
            recovery.members.retain(|member| !is_member(member));
            recovery.to_rewire.retain(|rewiring| !is_member(&rewiring.member));
            recovery.to_rewire_last.retain(|rewiring| !is_member(&rewiring.member));
            if recovery.members.is_empty() {
                self.actions.push(Action::CloseConnections(recovery.new));
                self.end_without_members();
            }
        }
        let ids: Vec<LifeId> = self.lives.ids().into_iter().filter(|id| is_member(&id.instance)).collect();
        let is_reaped = !ids.iter().any(|id| id.instance == device);
        ids.into_iter().for_each(|id| self.end_life(id, Ending::Discard));
        self.close_link(device);
        if is_reaped && self.dma_is_hosts(device) {
            // No end of a process follows at which it would be told.
            self.dma_ended.insert((self.generation, device));
            self.tell_dma_ended();
        }
    }

    /// None of those is missing any more that were to be started anew: the guest goes on without them.
    fn end_without_members(&mut self) {
        let Some(recovery) = &mut self.recovery else { return };
        if recovery.standstill.is_none() {
            recovery.stage = Stage::Settle;
            return;
        }
        if let Some(order) = recovery.ordered {
            let what = "the guest has lost this device meanwhile";
            let problem = Problem::new(Class::State, what, order.process.to_string(), "see the log");
            self.end_order(order, Err(problem));
        }
        if let Some(recovery) = &mut self.recovery {
            (recovery.standstill, recovery.ordered) = (None, None);
            recovery.stage = Stage::Release;
        }
    }
}
