// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The one way into a life, of a boot as of a save/restore: `Load`, `Arm`, `Replay`, `Go`, after the processes of a set
//! were started and configured.
//!
//! Everything that can fail does so before `Go`, and nothing moves before. `Load` is each process's own affair: all
//! take it at once. `Arm` goes tier by tier, those that pause last first, for it greets peers; a process of a device
//! has armed when it has said what became of its device. `Replay` reaches the devices of a vSMMU, so all are armed.
//! `Go` lets the CPUs begin last. Of a guest that was paused they begin paused, and execute nothing before it is
//! resumed: the other processes go first, and pause behind the CPUs, as ever.

use std::time::Duration;

use ipc::protocol::lifecycle::State;

use super::lives::Life;
use super::{Progress, StateMachine};
use crate::coordinator::spans;
use crate::coordinator::vm::action::{Action, LoadSource, RequestKind};
use crate::coordinator::vm::event::{LifeId, Timer};

/// From the request to arm to the event about the device.
pub(super) const fn outcome_deadline(memory: &LoadSource) -> Duration {
    match memory {
        LoadSource::Reset => spans::OPENING_SPAN,
        LoadSource::Saved | LoadSource::Checkpoint | LoadSource::Failed => spans::RESTORING_SPAN,
    }
}

impl StateMachine {
    /// Gives every configured process of a set what it remembers.
    pub(super) fn load(&mut self, generation: u32, memory: LoadSource) -> Progress {
        self.ask_all(generation, RequestKind::Load(memory), |life| life.state == State::Configured)
    }

    /// Arms the processes of a set. A tier is through when all of it is armed and every device in it has come to
    /// something.
    pub(super) fn arm(&mut self, generation: u32, memory: &LoadSource) -> Progress {
        for tier in (0..self.plan.tier_count()).rev() {
            for id in self.tier(generation, tier) {
                let life = self.lives.get(id).filter(|life| !life.is_busy() && life.state == State::Loaded);
                let Some(opens_device) = life.map(|life| life.opens_device) else { continue };
                if self.ask(id, RequestKind::Arm) && opens_device {
                    self.actions.push(Action::Arm(Timer::DeviceOutcome(id), outcome_deadline(memory)));
                }
            }
            let waits = |id: LifeId| {
                let undecided = self.failing_devices.contains_key(&id);
                undecided || self.lives.get(id).is_some_and(|life| life.is_busy() || life.is_opening())
            };
            if self.tier(generation, tier).into_iter().any(waits) {
                return Progress::Waiting;
            }
        }
        Progress::Done
    }

    /// Puts into force what the processes of a set remember.
    pub(super) fn replay(&mut self, generation: u32) -> Progress {
        self.ask_all(generation, RequestKind::Replay, |life: &Life| life.state == State::Armed)
    }

    /// Lets the processes of a set begin, devices before CPUs.
    pub(super) fn go(&mut self, generation: u32) -> Progress {
        let tiers = (0..self.plan.tier_count()).rev();
        self.ask_by_tiers(generation, tiers, RequestKind::Go, |life| life.state == State::Replayed)
    }

    /// Lets the processes of a set begin, but for those that run guest code.
    pub(super) fn go_without_cpus(&mut self, generation: u32) -> Progress {
        let tiers = (0..self.plan.tier_count()).rev();
        let is_due = |life: &Life| life.state == State::Replayed && !life.runs_guest;
        self.ask_by_tiers(generation, tiers, RequestKind::Go, is_due)
    }

    /// Has those begin paused that have not begun, and pauses all others.
    pub(super) fn begin_paused(&mut self, generation: u32) -> Progress {
        let tiers = 0..self.plan.tier_count();
        let is_due = |life: &Life| matches!(life.state, State::Replayed | State::Running);
        self.ask_by_tiers(generation, tiers, RequestKind::Pause, is_due)
    }
}
