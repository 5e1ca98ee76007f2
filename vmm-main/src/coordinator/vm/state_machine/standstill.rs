// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The VM stands still: a process that the guest cannot do without has died, and is not started anew before somebody
//! orders it, because it dies too often or because the configuration has it ask.
//!
//! It is a recovery ([`super::recovery`]) that waits behind the end of the dead lives. The vCPU process holds the CPUs
//! and guest time, so that the guest sees no time pass; a CPU that waits for the dead process goes on waiting. It is no
//! pause: what such a CPU has begun could not be saved, so nothing else is begun meanwhile, and what was under way is
//! given up first and answered. `restart` of one of the processes that are missing starts all of them, from their
//! checkpoints, and their deaths count anew. If that fails, whatever the reason, the VM stands still as before and the
//! order is answered with it.

use ipc::instance::InstanceId;
use ipc::protocol::lifecycle::State;

use super::deaths::DEATHS_SPAN;
use super::transit::Goal;
use super::{Operation, Progress, StateMachine};
use crate::coordinator::vm::action::{Action, Notice, RequestKind, Success};
use crate::coordinator::vm::event::{LifeId, Ticket};
use crate::problem::{Class, Problem};

/// Why the VM stands still.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standstill {
    /// Who died.
    pub process: InstanceId,
    /// Why it is not started anew by itself.
    pub cause: Cause,
    /// How it died last.
    pub last: String,
}

/// Why a process is not started anew by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// It has died so often within a minute.
    TooOften(u32),
    /// The configuration has it ask.
    Asks,
    /// Another one is missing already.
    Beside,
}

/// The order to start the next lives.
#[derive(Debug, Clone, Copy)]
pub(super) struct Order {
    pub ticket: Ticket,
    /// Who was named.
    pub process: InstanceId,
}

impl Cause {
    /// How often the process had died within a minute.
    pub const fn deaths(self) -> u32 {
        match self {
            Self::TooOften(count) => count,
            Self::Asks | Self::Beside => 1,
        }
    }
}

impl Standstill {
    /// What has happened, in a sentence.
    pub fn sentence(&self) -> String {
        let last = &self.last;
        match self.cause {
            Cause::TooOften(count) => {
                format!("{last}; it has died {count} times within {} s", DEATHS_SPAN.as_secs())
            }
            Cause::Asks => format!("{last}; it is started anew by order only (`restart = \"ask\"`)"),
            Cause::Beside => format!("{last}; it is started anew with the one that the guest is held for"),
        }
    }

    /// What can be done about it, in a VM of this name.
    pub fn advice(&self, vm: &str) -> String {
        format!(
            "`bulkhead restart {} {vm}` starts it from its checkpoint, with `--program FILE` in another program; \
             `bulkhead stop {vm}` ends the VM",
            self.process
        )
    }

    /// Why nothing else is begun.
    fn problem(&self) -> Problem {
        let what = format!("the guest is held: {}", self.sentence());
        Problem::new(Class::State, what, self.process.to_string(), self.advice("NAME"))
    }
}

impl StateMachine {
    /// Why the VM stands still, if it does.
    pub fn standstill(&self) -> Option<&Standstill> {
        let recovery = self.recovery.as_ref().filter(|_| !self.defers_recovery())?;
        recovery.standstill.as_ref()
    }

    /// Whose next life an order would start.
    pub fn missing(&self) -> impl Iterator<Item = InstanceId> {
        let recovery = self.recovery.as_ref().filter(|recovery| recovery.standstill.is_some());
        recovery.into_iter().flat_map(|recovery| recovery.members.iter().copied())
    }

    /// Nothing is begun while the VM stands still.
    pub(super) fn check_not_held(&self) -> Result<(), Problem> {
        self.standstill().map_or(Ok(()), |standstill| Err(standstill.problem()))
    }

    /// The VM comes to a standstill: whoever waits for what is under way is told.
    pub(super) fn stand_still(&mut self, standstill: &Standstill) {
        self.tell(Notice::Held(standstill.clone()));
        let problem = standstill.problem();
        if let Some(ticket) = self.open_ticket() {
            self.answer(ticket, Err(problem.clone()));
            self.answered_early = Some(ticket);
        }
        match &mut self.operation {
            Operation::Outgoing(leaving) => (leaving.ticket, self.answered_early) = (None, None),
            Operation::Transit(transit) => {
                // Back to where the phase says it is, when it goes on.
                transit.goal = Goal::of(&self.phase);
                transit.failed.get_or_insert(problem);
            }
            _ => {}
        }
    }

    /// It has come to a standstill while the disks may have been another host's, and they are not.
    pub(super) fn tell_of_standstill(&mut self) {
        let Some(recovery) = self.recovery.as_mut().filter(|recovery| !recovery.is_told) else { return };
        recovery.is_told = true;
        if let Some(standstill) = recovery.standstill.clone() {
            self.stand_still(&standstill);
        }
    }

    /// Answers a client, but for one that was answered when the VM came to a standstill.
    pub(super) fn answer(&mut self, ticket: Ticket, result: Result<Success, Problem>) {
        if self.answered_early.take_if(|early| *early == ticket).is_none() {
            self.actions.push(Action::Answer(ticket, result));
        }
    }

    /// Whether an order to restart this process would be one to let the VM go on.
    pub(super) fn check_order(&self, named: Option<InstanceId>) -> Result<InstanceId, Problem> {
        let recovery = self.recovery.as_ref();
        let known = named.filter(|named| recovery.is_some_and(|it| it.members.contains(named)));
        match (recovery.and_then(|recovery| recovery.ordered), known) {
            (Some(order), _) => Err(Problem::new(
                Class::State,
                format!("{} is being started anew by another command", order.process),
                order.process.to_string(),
                "ask again when that is done",
            )),
            (None, Some(named)) => Ok(named),
            (None, None) => self.check_not_held().and(Err(super::bug("the VM does not stand still"))),
        }
    }

    /// A client orders the next lives.
    pub(super) fn order(&mut self, ticket: Ticket, named: Option<InstanceId>) {
        match (self.check_order(named), &mut self.recovery) {
            (Ok(process), Some(recovery)) => {
                recovery.ordered = Some(Order { ticket, process });
                for member in &recovery.members {
                    self.deaths.entry(*member).and_modify(super::Deaths::begin_anew);
                }
            }
            (Ok(_), None) => {}
            (Err(problem), _) => self.answer(ticket, Err(problem)),
        }
    }

    /// The next lives that were ordered have begun, or the order is over otherwise.
    pub(super) fn end_order(&mut self, order: Order, result: Result<LifeId, Problem>) {
        if result.is_ok() {
            self.actions.push(Action::KeepProgram);
        }
        self.answer(order.ticket, result.map(Success::Revived));
    }

    /// Whether this is one of the next lives that were ordered.
    pub(super) fn is_ordered(&self, id: LifeId) -> bool {
        self.recovery.as_ref().is_some_and(|recovery| recovery.ordered.is_some() && recovery.is_next(id))
    }

    /// Something of what was ordered has failed: the VM stands still again. False: nothing was ordered.
    pub(super) fn fail_order(&mut self, id: LifeId, problem: &Problem) -> bool {
        let Some(recovery) = &self.recovery else { return false };
        if recovery.ordered.is_none() {
            return false;
        }
        // For that reason now.
        let standstill = recovery.standstill.clone();
        let standstill = standstill.map(|before| Standstill { last: problem.what.clone(), ..before });
        let Some(group) = self.group_with(id.instance) else { return false };
        if let Some(standstill) = &standstill {
            self.stand_still(standstill);
        }
        self.begin_recovery(group, standstill, problem);
        true
    }

    /// Has the CPUs held, and guest time, or go on. CPUs that have not begun, or are paused, stand anyway.
    pub(super) fn hold_cpus(&mut self, held: bool) -> Progress {
        let Some(cpus) = self.cpus() else { return Progress::Done };
        let Some(life) = self.lives.get(cpus) else { return Progress::Done };
        // Those that nobody has held may wait for a process, and be to pause.
        let are_free = !life.is_held && life.open != Some(RequestKind::HoldCpus(true));
        if !held && are_free {
            return Progress::Done;
        }
        if life.is_busy() {
            return Progress::Waiting;
        }
        if life.state != State::Running || life.is_held == held {
            return Progress::Done;
        }
        self.ask(cpus, RequestKind::HoldCpus(held));
        Progress::Waiting
    }
}
