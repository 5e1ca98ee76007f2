// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the state machine does for a guest that is leaving: its stages go on as the processes answer, and end with a
//! guest that is here, elsewhere, or nobody knows where.

use ipc::protocol::control::DirtyLogOp;
use ipc::shm::dirty_log::Moment;

use super::super::transit::Goal;
use super::super::{Operation, Progress, StateMachine, Step};
use super::{CONNECT_SPAN, Outgoing, Stage};
use crate::api::types::ResolveRequest;
use crate::coordinator::vm::action::{Action, MigrationAction, Notice, RequestKind, Success};
use crate::coordinator::vm::event::{LifeId, MigrationEvent, Ticket};
use crate::lifecycle::{Phase, Why};
use crate::migration::convergence::Limits;
use crate::migration::source::{self, Source, State};
use crate::problem::{Class, Problem};

impl StateMachine {
    pub(in crate::coordinator::vm::state_machine) fn begin_migrate(
        &mut self,
        ticket: Ticket,
        to: String,
        limits: Limits,
    ) -> Result<Operation, Problem> {
        if !matches!(self.phase, Phase::Running | Phase::Paused) {
            return Err(Problem::new(
                Class::State,
                format!("a VM that is {} cannot be migrated", self.phase),
                "life cycle",
                "let it run first",
            ));
        }
        self.check_whole()?;
        self.forget_saves();
        self.epoch = self.epoch.saturating_add(1);
        let mover = self.next_mover();
        let ran = self.phase == Phase::Running;
        let leaving = Outgoing::new(ticket, to, limits, ran, mover, self.epoch);
        let disks_are_released = self.disks_are_released;
        Ok(Operation::Outgoing(Box::new(Outgoing { disks_are_released, ..leaving })))
    }

    pub(in crate::coordinator::vm::state_machine) fn outgoing(&mut self, mut leaving: Box<Outgoing>) -> Step {
        let guests = self.generation;
        if matches!(leaving.source.as_ref().map(Source::state), Some(State::GivingUp { .. }))
            && let Some((problem, last_lines)) = leaving.failed.take()
        {
            // It does not run there, and cannot go on here.
            return self.ended_behind(leaving.ticket, problem, last_lines);
        }
        // The guest's last word before the pause is in no saved state.
        if self.guest_request.is_some() {
            leaving.fail(asks_for_its_end(), &mut self.actions);
        }
        let progress = match leaving.stage {
            Stage::Check => self.ask_all(guests, RequestKind::CheckSave, |life| !life.can_be_saved),
            Stage::Start => self.start_mover(leaving.mover),
            Stage::Enable => self.switch_dirty_logs(DirtyLogOp::Enable { epoch: leaving.epoch }),
            Stage::Rearm | Stage::LastRearm => self.switch_dirty_logs(DirtyLogOp::Rearm),
            Stage::Pause => self.bring(guests, Goal::Paused),
            Stage::Save => self.ask_all(guests, RequestKind::Save, |life| life.saved_len.is_none()),
            Stage::Resume => {
                let goes_on = leaving.ran && leaving.is_back;
                self.bring(guests, if goes_on { Goal::Running } else { Goal::Paused })
            }
            Stage::Disable if leaving.logs_are_on => self.switch_dirty_logs(DirtyLogOp::Disable),
            // Somebody may still be busy with what was asked before.
            Stage::Disable => self.ask_all(guests, RequestKind::CheckSave, |_| false),
            Stage::End => self.end_mover(leaving.mover),
            _ => Progress::Waiting,
        };
        if progress == Progress::Waiting {
            return Step::Break(Operation::Outgoing(leaving));
        }
        if leaving.stage == Stage::End {
            return self.gone_or_back(leaving);
        }
        if matches!(leaving.stage, Stage::Rearm | Stage::LastRearm) {
            self.forget_rearmed();
        }
        let actions = &mut self.actions;
        match leaving.stage {
            Stage::Check => {
                actions.push(Action::Migration(MigrationAction::Describe(leaving.ran)));
                leaving.enter(Stage::Describe);
            }
            Stage::Start => {
                actions.push(Action::Migration(MigrationAction::TakeLanes));
                leaving.enter_for(Stage::Connect, CONNECT_SPAN, actions);
            }
            Stage::Enable => leaving.begin(actions),
            Stage::Rearm => {
                actions.push(Action::Migration(MigrationAction::Harvest(Moment::Running)));
                leaving.enter(Stage::Harvest);
            }
            Stage::Pause => {
                actions.push(Action::Lap("pause"));
                leaving.handle(source::Event::Paused, actions);
            }
            Stage::Save => {
                actions.push(Action::Lap("save"));
                // Without a log all of RAM is owed since the beginning, and nothing has run.
                if leaving.logs_are_on {
                    leaving.enter(Stage::LastRearm);
                } else {
                    leaving.send_last_round(actions);
                }
            }
            Stage::LastRearm => {
                actions.push(Action::Migration(MigrationAction::Harvest(Moment::Stopped)));
                leaving.enter(Stage::LastHarvest);
            }
            Stage::Resume => leaving.enter(Stage::Disable),
            Stage::Disable => {
                leaving.logs_are_on = false;
                leaving.handle(source::Event::Resumed(leaving.is_back), actions);
                leaving.close(actions);
            }
            _ => {}
        }
        Step::Continue(Operation::Outgoing(leaving))
    }

    /// The mover is gone, and what became of the guest is known, or that it is not.
    fn gone_or_back(&mut self, mut leaving: Box<Outgoing>) -> Step {
        let ticket = leaving.ticket.take();
        let answer = |result| ticket.map(|ticket| Action::Answer(ticket, result));
        match leaving.source.as_ref().map(Source::state) {
            Some(State::Moved) => {
                self.actions.extend(answer(Ok(Success::Migrated)));
                return Step::Continue(self.start_ending(Why::Moved { to: leaving.to }));
            }
            Some(State::Ambiguous) if let Some((problem, last_lines)) = leaving.failed => {
                let what = format!(
                    "{}, when the other host {} had been told to let the guest run and had not said that it does",
                    problem.what, leaving.to
                );
                let advice = "look there: if it does not run there, it has ended here".to_owned();
                return self.ended_behind(ticket, Problem { what, advice, ..problem }, last_lines);
            }
            Some(State::Ambiguous) => {
                self.actions.extend(answer(Err(leaving.is_not_known())));
                self.phase = Phase::Paused;
                self.tell(Notice::Ambiguous);
                leaving.enter(Stage::Ambiguous);
                return Step::Break(Operation::Outgoing(leaving));
            }
            _ => {}
        }
        self.phase = if leaving.ran && leaving.is_back { Phase::Running } else { Phase::Paused };
        self.disks_are_released = leaving.disks_are_released;
        let problem = leaving.stays();
        let advice = format!("{}; the guest is {}", problem.advice, self.phase);
        let result = if leaving.resolves && leaving.is_back {
            Ok(Success::In(self.phase.clone()))
        } else {
            Err(Problem { advice, ..problem })
        };
        self.actions.extend(answer(result));
        self.actions.push(Action::Migration(MigrationAction::Forget));
        Step::Continue(Operation::Idle)
    }

    /// A VM that has failed behind `Commit` ends, and its guest does not run elsewhere, or nobody knows.
    fn ended_behind(&mut self, ticket: Option<Ticket>, problem: Problem, last_lines: Vec<String>) -> Step {
        self.actions.extend(ticket.map(|ticket| Action::Answer(ticket, Err(problem.clone()))));
        Step::Continue(self.start_ending(Why::Failed { problem, last_lines }))
    }

    /// Something of a guest that is leaving.
    pub(in crate::coordinator::vm::state_machine) fn outgoing_event(&mut self, event: MigrationEvent) {
        let (Operation::Outgoing(leaving), actions) = (&mut self.operation, &mut self.actions) else {
            return;
        };
        leaving.happened(event, actions);
    }

    /// The dirty logs of a guest that is leaving are mapped and empty, or not.
    pub(in crate::coordinator::vm::state_machine) fn outgoing_logs_opened(
        &mut self,
        result: Result<(), Problem>,
    ) {
        let (Operation::Outgoing(leaving), actions) = (&mut self.operation, &mut self.actions) else {
            return;
        };
        match result {
            Ok(()) if leaving.stage == Stage::OpenLogs => {
                leaving.logs_are_on = true;
                leaving.enter(Stage::Enable);
            }
            Ok(()) => {}
            Err(problem) => leaving.fail(problem, actions),
        }
    }

    /// A wait for the other host is over.
    pub(in crate::coordinator::vm::state_machine) fn outgoing_over_time(&mut self, epoch: u64, wait: u32) {
        let (Operation::Outgoing(leaving), actions) = (&mut self.operation, &mut self.actions) else {
            return;
        };
        if (leaving.epoch, leaving.wait) == (epoch, wait) {
            leaving.is_over_time(actions);
        }
    }

    /// A client wants the migration stopped.
    pub(in crate::coordinator::vm::state_machine) fn cancel_migration(&mut self, ticket: Ticket) {
        let result = match &mut self.operation {
            Operation::Outgoing(leaving) if leaving.is_decided() => Err(Problem::new(
                Class::State,
                "the migration is past the point where it can be stopped",
                "life cycle",
                "see `bulkhead migrate --status`",
            )),
            Operation::Outgoing(leaving) => {
                leaving.cancel(&mut self.actions);
                Ok(Success::In(self.phase.clone()))
            }
            _ => Err(no_migration()),
        };
        self.actions.push(Action::Answer(ticket, result));
    }

    /// A person knows where the guest is to go on.
    pub(in crate::coordinator::vm::state_machine) fn resolve_migration(
        &mut self,
        ticket: Ticket,
        request: ResolveRequest,
    ) {
        match &mut self.operation {
            Operation::Outgoing(leaving) if leaving.stage == Stage::Ambiguous => {
                leaving.resolve(ticket, request, &mut self.actions);
            }
            _ => self.actions.push(Action::Answer(ticket, Err(no_migration()))),
        }
    }

    /// A process has refused its part of a guest's leaving.
    pub(in crate::coordinator::vm::state_machine) fn refused_to_leave(
        &mut self,
        id: LifeId,
        request: Option<RequestKind>,
        problem: Problem,
    ) {
        if let (Some(life), Some(RequestKind::DirtyLog(op))) = (self.lives.get_mut(id), request) {
            // It is not asked the same again.
            life.dirty_log = Some(op);
        }
        let (Operation::Outgoing(leaving), actions) = (&mut self.operation, &mut self.actions) else {
            return;
        };
        if request == Some(RequestKind::Resume) {
            return self.refused_way_back(id, &problem);
        }
        let what = format!("{}: {}", id.instance, problem.what);
        leaving.fail(Problem { what, ..problem }, actions);
    }

    /// Whether nobody knows where the guest runs.
    pub(in crate::coordinator::vm::state_machine) fn is_ambiguous(&self) -> bool {
        matches!(&self.operation, Operation::Outgoing(it) if matches!(it.stage, Stage::Ambiguous | Stage::Ask))
    }

    /// Logs that were rearmed are to be rearmed again.
    fn forget_rearmed(&mut self) {
        for id in self.lives.ids() {
            if let Some(life) =
                self.lives.get_mut(id).filter(|life| life.dirty_log == Some(DirtyLogOp::Rearm))
            {
                life.dirty_log = None;
            }
        }
    }
}

fn no_migration() -> Problem {
    Problem::new(Class::State, "there is no such migration", "life cycle", "see `bulkhead migrate --status`")
}

fn asks_for_its_end() -> Problem {
    Problem::new(
        Class::State,
        "the guest has just asked to be switched off or reset",
        "save",
        "ask again when that is done",
    )
}
