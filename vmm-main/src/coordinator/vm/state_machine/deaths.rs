// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A process has died: whether another life follows, from what, and when. How often it has died, and how many of its
//! deaths count towards the limit of its restarts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ipc::instance::InstanceId;

use super::standstill::{self, Standstill};
use super::{StateMachine, cannot_be_killed};
use crate::coordinator::vm::action::{Action, LoadSource, Notice};
use crate::coordinator::vm::event::{Departure, LifeId, Timer};

/// How long a death counts towards the limit.
pub const DEATHS_SPAN: Duration = Duration::from_secs(60);

/// The deaths of a process that the guest went on after, or waits behind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Deaths {
    /// How many.
    pub count: u32,
    /// How it died last.
    pub last: String,
    /// The numbers of those that count towards the limit.
    recent: BTreeSet<u32>,
}

impl Deaths {
    /// It has died once more, so. The number of this death, and how many count towards the limit now.
    pub fn add(&mut self, how: &str) -> (u32, u32) {
        self.count = self.count.saturating_add(1);
        how.clone_into(&mut self.last);
        self.recent.insert(self.count);
        (self.count, self.recent_count())
    }

    /// How many count towards the limit.
    pub fn recent_count(&self) -> u32 {
        u32::try_from(self.recent.len()).unwrap_or(u32::MAX)
    }

    /// Somebody has ordered its next life: the count begins anew.
    pub fn begin_anew(&mut self) {
        self.recent.clear();
    }
}

impl StateMachine {
    /// The deaths that the guest went on after, or waits behind.
    pub const fn deaths(&self) -> &BTreeMap<InstanceId, Deaths> {
        &self.deaths
    }

    /// A process died that can be followed by another life, `max` times within a minute; beyond that by order only.
    /// `left_checkpoint`: there is one for the next life.
    ///
    /// # Errors
    /// Its departure, if it is not followed.
    pub(super) fn died(
        &mut self,
        id: LifeId,
        left_checkpoint: bool,
        max: u32,
        departure: Departure,
    ) -> Result<(), Departure> {
        if !departure.reaped {
            // It holds what the next life would go on with.
            let problem = cannot_be_killed(&[id.instance], "restart");
            self.end_failed(problem, departure.last_lines);
            return Ok(());
        }
        let is_reviving = self.recovery.as_ref().is_some_and(|recovery| recovery.is_next(id));
        let group = self.group_with(id.instance).filter(|_| is_reviving || left_checkpoint);
        let Some(group) = group else { return Err(departure) };
        let Departure { problem, .. } = departure;
        let (number, recent) = self.deaths.entry(id.instance).or_default().add(&problem.what);
        self.actions.push(Action::Arm(Timer::DeathForgotten(id.instance, number), DEATHS_SPAN));
        let stands = self.recovery.as_ref().and_then(|recovery| recovery.standstill.clone());
        let cause = match (max, &stands) {
            (0, _) => Some(standstill::Cause::Asks),
            _ if recent > max => Some(standstill::Cause::TooOften(recent)),
            (_, Some(stands)) if stands.process == id.instance => Some(stands.cause),
            (_, Some(_)) => Some(standstill::Cause::Beside),
            (_, None) => None,
        };
        let process = id.instance;
        let own = cause.map(|cause| Standstill { process, cause, last: problem.what.clone() });
        match &own {
            Some(own) if !self.defers_recovery() => self.stand_still(own),
            _ => self.tell(Notice::ProcessDied(process, problem.what.clone())),
        }
        self.give_up_for(id, own.is_none(), problem.clone());
        let standstill = stands.filter(|stands| stands.process != process).or(own);
        self.begin_recovery(group, standstill, &problem);
        if is_reviving && !left_checkpoint {
            self.died_on_its_way(process);
        }
        Ok(())
    }

    /// It has not come to serve the guest.
    fn died_on_its_way(&mut self, process: InstanceId) {
        let Some(recovery) = &mut self.recovery else { return };
        let count = recovery.died.entry(process).or_default();
        *count = count.saturating_add(1);
        let count = *count;
        if recovery.source_of(process) == LoadSource::Failed {
            self.tell(Notice::GivenUpCheckpoint(process, count));
        }
    }

    /// A death was long enough ago not to count any more.
    pub(super) fn forget_death(&mut self, instance: InstanceId, number: u32) {
        if let Some(deaths) = self.deaths.get_mut(&instance) {
            deaths.recent.remove(&number);
        }
    }
}
