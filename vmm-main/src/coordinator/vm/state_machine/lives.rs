// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The lives there are: where each process stands, what it was asked, whether it is being ended.
//!
//! The contract's own life cycle ([`State::after`]) says which request is allowed in which state: one that is not is
//! not given.

use std::collections::BTreeMap;

use ipc::instance::InstanceId;
use ipc::protocol::control::DirtyLogOp;
use ipc::protocol::lifecycle::State;

use super::{Progress, StateMachine};
use crate::coordinator::vm::action::{Action, Ending, RequestKind};
use crate::coordinator::vm::event::LifeId;
use crate::coordinator::vm::plan::Member;

/// One process.
#[derive(Debug, Clone)]
pub(super) struct Life {
    /// The set of processes that it belongs to. None: it has left, for its next life.
    pub set: Option<u32>,
    /// Where it stands by the contract.
    pub state: State,
    /// It is sealed and has greeted.
    pub started: bool,
    /// What it was asked and has not answered.
    pub open: Option<RequestKind>,
    /// It refused the last request to pause or to resume, so that its state has to be made sure of.
    pub refused: bool,
    /// What became of its device; none if nothing was said, or if it has none.
    pub device: Option<DeviceOutcome>,
    /// It runs guest code.
    pub runs_guest: bool,
    /// It holds the CPUs, by order.
    pub is_held: bool,
    /// It is the process of a device.
    pub opens_device: bool,
    /// It writes guest RAM, and has a log of that.
    pub has_dirty_log: bool,
    /// What it was last to do with that.
    pub dirty_log: Option<DirtyLogOp>,
    /// It has said that it could be saved.
    pub can_be_saved: bool,
    /// Bytes of state that it has saved.
    pub saved_len: Option<u64>,
    /// It was requested to end, or is being ended.
    pub ending: Option<Ending>,
    /// It is ended because it does not answer a peer: as if it had died by itself.
    pub hangs: bool,
}

/// What became of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DeviceOutcome {
    Opened,
    Failed,
}

impl Life {
    fn new(set: u32, member: &Member) -> Self {
        Self {
            set: Some(set),
            state: State::Unconfigured,
            started: false,
            open: None,
            refused: false,
            device: None,
            runs_guest: member.runs_guest,
            is_held: false,
            opens_device: member.opens_device,
            has_dirty_log: member.has_dirty_log,
            dirty_log: None,
            can_be_saved: false,
            saved_len: None,
            ending: None,
            hangs: false,
        }
    }

    pub fn is_ending(&self) -> bool {
        self.ending.is_some()
    }

    /// It was armed and has not said what became of its device.
    pub fn is_opening(&self) -> bool {
        self.opens_device && self.device.is_none() && self.state == State::Armed
    }

    /// It serves the guest, or did, and ended by itself.
    pub fn has_died(&self) -> bool {
        matches!(self.state, State::Running | State::Paused) && (self.ending.is_none() || self.hangs)
    }

    /// Nothing can be asked of it now: it has not greeted, has something to do, or is being ended.
    pub fn is_busy(&self) -> bool {
        !self.started || self.open.is_some() || self.is_ending()
    }
}

/// All lives.
#[derive(Debug, Clone, Default)]
pub(super) struct Lives(BTreeMap<LifeId, Life>);

impl Lives {
    pub fn get(&self, life: LifeId) -> Option<&Life> {
        self.0.get(&life)
    }

    pub fn get_mut(&mut self, life: LifeId) -> Option<&mut Life> {
        self.0.get_mut(&life)
    }

    pub fn remove(&mut self, life: LifeId) -> Option<Life> {
        self.0.remove(&life)
    }

    pub fn ids(&self) -> Vec<LifeId> {
        self.0.keys().copied().collect()
    }

    /// All of one set of processes.
    pub fn of(&self, set: u32) -> impl Iterator<Item = (LifeId, &Life)> {
        self.0.iter().filter(move |(_, life)| life.set == Some(set)).map(|(id, life)| (*id, life))
    }

    /// The life of this instance in a set.
    pub fn of_instance(&self, set: u32, instance: InstanceId) -> Option<LifeId> {
        self.of(set).map(|(id, _)| id).find(|id| id.instance == instance)
    }

    /// The life of this instance that goes with `life`.
    pub fn beside(&self, life: LifeId, instance: InstanceId) -> Option<LifeId> {
        self.of_instance(self.get(life)?.set?, instance)
    }
}

impl StateMachine {
    /// Starts a process, in the set of its generation.
    pub(super) fn start(&mut self, id: LifeId, member: &Member) {
        self.lives.0.insert(id, Life::new(id.generation, member));
        self.actions.push(Action::Start(id));
    }

    /// Asks a process for something, if the contract has a place for it. False: it has not, or the process is busy.
    pub(super) fn ask(&mut self, id: LifeId, request: RequestKind) -> bool {
        let Some(life) = self.lives.get_mut(id).filter(|life| !life.is_busy()) else { return false };
        if request.state_after(life.state).is_none() {
            return false;
        }
        life.open = Some(request);
        self.actions.push(Action::Request(id, request));
        true
    }

    /// Ends a process, unless that was requested already.
    pub(super) fn end_life(&mut self, id: LifeId, ending: Ending) {
        let Some(life) = self.lives.get_mut(id).filter(|life| !life.is_ending()) else { return };
        life.ending = Some(ending.clone());
        self.actions.push(Action::End(id, ending));
    }

    /// A process is not to be trusted any more: it is ended, and its end reported.
    pub(super) fn fail(&mut self, id: LifeId, reason: String) {
        self.end_life(id, Ending::Failed(reason));
    }

    /// The lives of a tier in one set of processes.
    pub(super) fn tier(&self, generation: u32, tier: usize) -> Vec<LifeId> {
        let members = self.plan.members.iter().filter(|member| member.tier == tier);
        members.filter_map(|member| self.lives.of_instance(generation, member.instance)).collect()
    }

    /// Sends `request` to each process of a set that `is_due` selects, tier by tier; the next tier's turn comes when no
    /// process of the one before has an open request.
    pub(super) fn ask_by_tiers(
        &mut self,
        generation: u32,
        tiers: impl Iterator<Item = usize>,
        request: RequestKind,
        is_due: impl Fn(&Life) -> bool,
    ) -> Progress {
        for tier in tiers {
            let mut waiting = false;
            for id in self.tier(generation, tier) {
                let due = self.lives.get(id).is_some_and(|life| !life.is_busy() && is_due(life));
                if due {
                    self.ask(id, request);
                }
                waiting |= self.lives.get(id).is_some_and(Life::is_busy);
            }
            if waiting {
                return Progress::Waiting;
            }
        }
        Progress::Done
    }

    /// Sends `request` to each process of a set that `is_due` selects, all at once. Done when none has an open request.
    pub(super) fn ask_all(
        &mut self,
        generation: u32,
        request: RequestKind,
        is_due: impl Fn(&Life) -> bool,
    ) -> Progress {
        let ids: Vec<LifeId> = self.lives.of(generation).map(|(id, _)| id).collect();
        let mut progress = Progress::Done;
        for id in ids {
            if self.lives.get(id).is_some_and(|life| !life.is_busy() && is_due(life)) {
                self.ask(id, request);
            }
            if self.lives.get(id).is_some_and(Life::is_busy) {
                progress = Progress::Waiting;
            }
        }
        progress
    }

    /// Ends every process: first those that run the guest, then all others. Done once they are gone.
    pub(super) fn end_everyone(&mut self) -> Progress {
        for runs_guest in [true, false] {
            let turn = |id: &LifeId| {
                self.plan.member(id.instance).is_some_and(|member| member.runs_guest) == runs_guest
            };
            let ids: Vec<_> = self.lives.ids().into_iter().filter(turn).collect();
            for id in &ids {
                self.end_life(*id, Ending::Quit);
            }
            if !ids.is_empty() {
                return Progress::Waiting;
            }
        }
        Progress::Done
    }
}
