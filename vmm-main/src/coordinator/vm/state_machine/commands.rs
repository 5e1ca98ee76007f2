// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What clients ask for, one command at a time. Each is answered once: when it is done, when it is refused, or when
//! the VM ends before it is done.

use ipc::protocol::probe::{Probe, ProbeOutcome};

use super::restart::Restart;
use super::save_restore::SaveRestore;
use super::transit::{Goal, Transit};
use super::{Operation, StateMachine, has_ended};
use crate::coordinator::logs;
use crate::coordinator::vm::action::{Action, MigrationAction, RequestKind, Success};
use crate::coordinator::vm::event::{Command, LifeId, Ticket};
use crate::lifecycle::{self, Phase};
use crate::problem::{Class, Problem};
use crate::system::{MOVER, Rewiring};

impl StateMachine {
    /// Begins what a client asks for, or refuses it.
    pub(super) fn command(&mut self, ticket: Ticket, command: Command) {
        if let (Command::Probe(name, probe), Some(mover)) = (&command, self.mover())
            && name.parse() == Ok(MOVER)
        {
            return self.probe_mover(ticket, mover, *probe);
        }
        if let (Command::Restart(name), Some(_)) = (&command, self.standstill()) {
            return self.order(ticket, name.parse().ok());
        }
        match self.check_free().and_then(|()| self.begin_command(ticket, command)) {
            Ok(operation) => self.operation = operation,
            Err(problem) => self.actions.push(Action::Answer(ticket, Err(problem))),
        }
    }

    /// Whether a command can begin now.
    fn check_free(&self) -> Result<(), Problem> {
        self.check_not_held()?;
        match self.operation {
            Operation::Idle if !self.is_recovering() => Ok(()),
            Operation::Ending(_) | Operation::Over => Err(has_ended()),
            Operation::Outgoing(_) if self.is_ambiguous() => Err(Problem::new(
                Class::State,
                "it is not known whether the guest runs on the other host",
                "control API",
                "see there, then `bulkhead migrate NAME --resolve resume` or `--resolve discard`",
            )),
            Operation::Outgoing(_) | Operation::Incoming(_) => Err(Problem::new(
                Class::State,
                "the guest is being migrated",
                "control API",
                "ask again when that is done, or stop it with `bulkhead migrate NAME --cancel`",
            )),
            _ => Err(Problem::new(
                Class::State,
                "the VM is working on another command",
                "control API",
                "ask again when that is done",
            )),
        }
    }

    /// Whether the process of this name could be restarted now: for who has to prepare that.
    ///
    /// # Errors
    /// The answer to the command, if it came now.
    pub fn check_restart(&self, name: &str) -> Result<(), Problem> {
        if self.standstill().is_some() {
            return self.check_order(name.parse().ok()).map(drop);
        }
        self.check_free()?;
        self.restart_of(name).map(drop)
    }

    fn begin_command(&mut self, ticket: Ticket, command: Command) -> Result<Operation, Problem> {
        match command {
            Command::Pause => {
                self.phase.after(lifecycle::Step::Pause)?;
                Ok(Operation::Transit(Transit { ticket, goal: Goal::Paused, failed: None }))
            }
            Command::Resume => {
                self.phase.after(lifecycle::Step::Resume)?;
                if self.disks_are_released {
                    self.actions.push(Action::Migration(MigrationAction::LockDisks));
                }
                Ok(Operation::Transit(Transit { ticket, goal: Goal::Running, failed: None }))
            }
            Command::SaveRestore => self.begin_save_restore(ticket),
            Command::Restart(name) => self.begin_restart(ticket, &name),
            Command::Migrate(to, limits) => self.begin_migrate(ticket, to, limits),
            Command::DirtyRate(span) => self.begin_dirty_rate(ticket, span),
            Command::Probe(name, probe) => self.begin_probe(ticket, &name, probe),
        }
    }

    fn begin_save_restore(&mut self, ticket: Ticket) -> Result<Operation, Problem> {
        if self.phase != Phase::Running {
            // The same words as for any other step that needs a running guest.
            return Err(Problem::new(
                Class::State,
                format!("a VM that is {} cannot be saved and restored", self.phase),
                "life cycle",
                "let it run first",
            ));
        }
        self.check_whole()?;
        self.forget_saves();
        let new = self.next_generation();
        Ok(Operation::SaveRestore(SaveRestore::new(ticket, self.generation, new)))
    }

    /// The life that the guest lives with of the process of this name.
    fn life_called(&self, name: &str) -> Result<LifeId, Problem> {
        let life = name.parse().ok().and_then(|instance| self.life_of(instance));
        life.ok_or_else(|| unknown(name))
    }

    fn begin_restart(&mut self, ticket: Ticket, name: &str) -> Result<Operation, Problem> {
        let (leaving, rewirings) = self.restart_of(name)?;
        self.forget_saves();
        let new = self.next_generation();
        Ok(Operation::Restart(Restart::new(ticket, leaving, new, rewirings)))
    }

    /// Which lives end with a restart of this process, and which channels are made anew.
    fn restart_of(&self, name: &str) -> Result<(Vec<LifeId>, Vec<Rewiring>), Problem> {
        let old = self.life_called(name)?;
        if self.phase != Phase::Running {
            return Err(Problem::new(
                Class::State,
                format!("{old} of a VM that is {} cannot be restarted", self.phase, old = old.instance),
                "life cycle",
                "let it run first",
            ));
        }
        let group = match self.plan.member(old.instance).map(|member| &member.restart) {
            Some(Ok(group)) => group.clone(),
            Some(Err(edge)) => {
                return Err(Problem::usage(
                    format!(
                        "{} cannot be restarted: its {edge} cannot be given to a next life",
                        old.instance
                    ),
                    old.instance.to_string(),
                    "`bulkhead save-restore` starts all processes anew",
                ));
            }
            None => return Err(unknown(name)),
        };
        let mut leaving = Vec::new();
        for member in group.members {
            // One that is being ended, with a device that is lost, has no next life.
            let lives = |life: &LifeId| self.lives.get(*life).is_some_and(|life| !life.is_ending());
            leaving.push(self.life_of(member).filter(lives).ok_or_else(|| self.is_missing(member))?);
        }
        Ok((leaving, group.rewirings))
    }

    fn begin_probe(&mut self, ticket: Ticket, name: &str, probe: Probe) -> Result<Operation, Problem> {
        let life = self.life_called(name)?;
        if self.ask(life, RequestKind::Probe(probe)) {
            Ok(Operation::Probe { ticket, life })
        } else {
            Err(unknown(name))
        }
    }

    /// A mover lives in the middle of a migration only: it is asked beside that.
    fn probe_mover(&mut self, ticket: Ticket, mover: LifeId, probe: Probe) {
        if self.mover_probe.is_none() && self.ask(mover, RequestKind::Probe(probe)) {
            self.mover_probe = Some((ticket, mover));
        } else {
            let problem = Problem::new(Class::State, "the mover is busy", "control API", "ask again");
            self.actions.push(Action::Answer(ticket, Err(problem)));
        }
    }

    /// The process that attempts something has lived to tell.
    pub(super) fn probed(&mut self, id: LifeId, outcome: ProbeOutcome) {
        self.answer_probe(id, Ok(Success::Probed(outcome)));
    }

    /// Answers who wanted this process to attempt something, if that is what is under way.
    pub(super) fn answer_probe(&mut self, id: LifeId, result: Result<Success, Problem>) {
        if let Some((ticket, _)) = self.mover_probe.take_if(|(_, life)| *life == id) {
            self.actions.push(Action::Answer(ticket, result));
        } else if let Operation::Probe { ticket, life } = self.operation
            && life == id
        {
            self.answer(ticket, result);
            self.operation = Operation::Idle;
        }
    }
}

fn unknown(name: &str) -> Problem {
    Problem::usage(
        format!("there is no process called {:?}", logs::printable(name.as_bytes())),
        "process",
        "`bulkhead ps` lists them",
    )
}
