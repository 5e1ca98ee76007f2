// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest moves to another host: the source's side of a migration.
//!
//! ```text
//! can everyone be saved? ─► connect, start the mover ─► log writes ─► OFFER ─► rounds while the guest runs
//!     ─► pause ─► save ─► last harvest, last round, states ─► disks released ─► LAST ─► READY ─► COMMIT
//!     └── any failure up to here: disks taken back, the guest goes on, logs off, mover ended ──┘      └─► the VM ends
//! ```
//!
//! What is said to the other host, and what follows from its answers, [`Source`] decides; here is how what it orders is
//! done by the processes. Before the offer nothing was touched, and a failure costs nothing. From the commit on the
//! guest does not run here again unless somebody says so: a process that dies then changes nothing about that. One
//! whose death ends the VM does so when the other host has answered: until then the order may still be on its way.

mod stages;

use std::time::Duration;

use ipc::protocol::budget;

use crate::api::types::ResolveRequest;
use crate::coordinator::spans;
use crate::coordinator::vm::action::{Action, MigrationAction};
use crate::coordinator::vm::event::{LifeId, MigrationEvent, Ticket, Timer};
use crate::migration::convergence::{Limits, Round};
use crate::migration::message::Message;
use crate::migration::question::ANSWER_SPAN;
use crate::migration::source::{self, Source, State, Whereabouts};
use crate::problem::{Class, Problem};

/// For the launcher to connect.
const DIAL_SPAN: Duration = budget::sum(&[Duration::from_secs(10), budget::SLACK]);
/// For the connections to be greeted in.
const CONNECT_SPAN: Duration = budget::sum(&[budget::mover::GREETING, budget::SLACK]);
/// For the other host to start its processes, or to load, arm and replay them.
const PEER_SPAN: Duration = spans::MOVE_SPAN;
/// For the other host to let the guest run: it has nothing to do that can fail.
const COMMIT_SPAN: Duration = budget::sum(&[spans::ORDER_SPAN, budget::SLACK]);
/// For the other host to be reached, and to say where the guest is.
const ASK_SPAN: Duration = budget::sum(&[DIAL_SPAN, ANSWER_SPAN, budget::SLACK]);
/// For the connections to be closed.
pub(super) const CLOSE_SPAN: Duration = budget::sum(&[budget::mover::CLOSING, budget::SLACK]);

/// A guest that is leaving.
#[derive(Debug, Clone)]
pub(super) struct Outgoing {
    /// Who waits for it; none once it is known that nothing is known.
    pub ticket: Option<Ticket>,
    /// Whether that is somebody who has resolved an ambiguous end.
    resolves: bool,
    to: String,
    pub mover: LifeId,
    limits: Limits,
    /// The guest ran when it began.
    ran: bool,
    stage: Stage,
    /// Once the offer is made.
    source: Option<Source>,
    offer: Vec<u8>,
    /// In whose name the processes log, and timers run.
    epoch: u64,
    logs_are_on: bool,
    /// Another host may have the disks.
    pub disks_are_released: bool,
    is_back: bool,
    /// The guest's CPUs lose so many percent of their time.
    throttled: u8,
    /// The next round.
    round: u32,
    sent: (u64, Duration),
    /// What the other host is told when the disks are released.
    last: Option<Message>,
    /// What went wrong on this host.
    problem: Option<Problem>,
    /// Why this VM has failed behind `Commit`, and the last lines of the process: it ends when the order is delivered.
    failed: Option<(Problem, Vec<String>)>,
    /// The number of the latest wait.
    wait: u32,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Check,
    Describe,
    Dial,
    Start,
    Connect,
    OpenLogs,
    Enable,
    /// The other host has the word.
    Await,
    Round,
    Rearm,
    Harvest,
    Pause,
    Save,
    LastRearm,
    LastHarvest,
    LastRound,
    States,
    Release,
    /// The way back.
    Relock,
    Resume,
    Disable,
    /// The connections are closed, and the mover is ended.
    Close,
    End,
    /// Somebody has to say where the guest goes on.
    Ambiguous,
    /// Somebody has, and the other host is asked.
    Ask,
}

impl Outgoing {
    pub const fn new(
        ticket: Ticket,
        to: String,
        limits: Limits,
        ran: bool,
        mover: LifeId,
        epoch: u64,
    ) -> Self {
        Self {
            ticket: Some(ticket),
            resolves: false,
            to,
            mover,
            limits,
            ran,
            stage: Stage::Check,
            source: None,
            offer: Vec::new(),
            epoch,
            logs_are_on: false,
            disks_are_released: false,
            is_back: true,
            throttled: 0,
            round: 0,
            sent: (0, Duration::ZERO),
            last: None,
            problem: None,
            failed: None,
            wait: 0,
        }
    }

    /// What users are told of it.
    pub const fn as_str(&self) -> &'static str {
        match &self.source {
            None => "connecting",
            Some(source) => source.state().as_str(),
        }
    }

    /// Whether the guest is being handed over: its processes here are of no use any more, and the mover is.
    pub fn hands_over(&self) -> bool {
        let committed = matches!(
            self.source.as_ref().map(Source::state),
            Some(State::Committing | State::Moved | State::Ambiguous)
        );
        committed && matches!(self.stage, Stage::Await | Stage::Close | Stage::End)
    }

    /// The VM ends when the guest is handed over. The first reason counts.
    pub fn end_behind(&mut self, problem: Problem, last_lines: Vec<String>) {
        self.failed.get_or_insert((problem, last_lines));
    }

    fn enter(&mut self, stage: Stage) {
        self.stage = stage;
        self.wait = self.wait.wrapping_add(1);
    }

    /// Enters a stage that is over after this long, whatever happens.
    fn enter_for(&mut self, stage: Stage, span: Duration, actions: &mut Vec<Action>) {
        self.enter(stage);
        actions.push(Action::Arm(Timer::Migration(self.epoch, self.wait), span));
    }

    /// Whether the guest is on its way back, or will not come back.
    fn is_decided(&self) -> bool {
        match &self.source {
            None => self.problem.is_some(),
            Some(source) => !source.may_give_up(),
        }
    }

    /// Whether a process that dies now, and comes back, costs nothing: the guest still runs, or is being paused, and no
    /// state is saved.
    pub const fn survives_deaths(&self) -> bool {
        if !self.ran {
            return false;
        }
        match self.stage {
            Stage::Check
            | Stage::Describe
            | Stage::Dial
            | Stage::Start
            | Stage::Connect
            | Stage::OpenLogs
            | Stage::Enable
            | Stage::Round
            | Stage::Rearm
            | Stage::Harvest
            | Stage::Pause => true,
            // For the answer to the offer, before the first round.
            Stage::Await => !self.disks_are_released,
            Stage::Save
            | Stage::LastRearm
            | Stage::LastHarvest
            | Stage::LastRound
            | Stage::States
            | Stage::Release
            | Stage::Relock
            | Stage::Resume
            | Stage::Disable
            | Stage::Close
            | Stage::End
            | Stage::Ambiguous
            | Stage::Ask => false,
        }
    }

    /// In which epoch a process has to log its writes that is started anew now; none if nobody has to.
    pub const fn logging_epoch(&self) -> Option<u64> {
        match self.stage {
            // It is asked with all others.
            Stage::Enable => None,
            _ if self.logs_are_on => Some(self.epoch),
            _ => None,
        }
    }

    /// Something on this host does not do its part.
    pub fn fail(&mut self, problem: Problem, actions: &mut Vec<Action>) {
        if self.is_decided() {
            return;
        }
        let why = problem.what.clone();
        self.problem = Some(problem);
        if self.source.is_some() {
            return self.handle(source::Event::Failed(why), actions);
        }
        self.enter(Stage::Resume);
    }

    /// The source's machine is told, and what it orders begun.
    fn handle(&mut self, event: source::Event, actions: &mut Vec<Action>) {
        let Some(source) = &mut self.source else { return };
        let before = std::mem::discriminant(source.state());
        let ordered = source.handle(event);
        let is_over = before != std::mem::discriminant(source.state())
            && matches!(source.state(), State::Moved | State::Ambiguous);
        self.obey(ordered, actions);
        if is_over {
            self.close(actions);
        }
    }

    fn obey(&mut self, ordered: Vec<source::Action>, actions: &mut Vec<Action>) {
        for order in ordered {
            match order {
                source::Action::Send(message) => {
                    let span = match message {
                        Message::Offer(_) | Message::Last { .. } => Some(PEER_SPAN),
                        Message::Commit => Some(COMMIT_SPAN),
                        _ => None,
                    };
                    if let Some(span) = span {
                        self.enter_for(Stage::Await, span, actions);
                    }
                    actions.push(Action::Migration(MigrationAction::Say(message)));
                }
                source::Action::SendRound => {
                    self.enter(Stage::Round);
                    self.send_round(actions);
                }
                source::Action::Throttle(percent) => self.throttle(percent, actions),
                source::Action::Pause => {
                    actions.push(Action::Lap("precopy"));
                    self.enter(Stage::Pause);
                }
                source::Action::Finish => self.enter(Stage::Save),
                source::Action::Resume => self.go_back(actions),
                source::Action::Ask => {
                    actions.push(Action::Migration(MigrationAction::Ask));
                    self.enter_for(Stage::Ask, ASK_SPAN, actions);
                }
                // Not before the guest goes on: that does not wait for the network.
                source::Action::Close | source::Action::Discard => {}
            }
        }
    }

    fn send_round(&mut self, actions: &mut Vec<Action>) {
        actions.push(Action::Migration(MigrationAction::SendRound(self.round)));
        self.round = self.round.saturating_add(1);
    }

    fn throttle(&mut self, percent: u8, actions: &mut Vec<Action>) {
        if std::mem::replace(&mut self.throttled, percent) != percent {
            actions.push(Action::Migration(MigrationAction::Throttle(percent)));
        }
    }

    fn go_back(&mut self, actions: &mut Vec<Action>) {
        self.throttle(0, actions);
        if self.disks_are_released {
            actions.push(Action::Migration(MigrationAction::LockDisks));
            self.enter(Stage::Relock);
        } else {
            self.enter(Stage::Resume);
        }
    }

    fn close(&mut self, actions: &mut Vec<Action>) {
        actions.push(Action::Migration(MigrationAction::Close));
        self.enter_for(Stage::Close, CLOSE_SPAN, actions);
    }

    /// An event of the host, the mover, or the other coordinator. Late ones change nothing.
    fn happened(&mut self, event: MigrationEvent, actions: &mut Vec<Action>) {
        match (self.stage, event) {
            (Stage::Describe, MigrationEvent::Offered(Ok(offer))) => {
                self.offer = offer;
                actions.push(Action::Migration(MigrationAction::Dial));
                self.enter_for(Stage::Dial, DIAL_SPAN, actions);
            }
            (Stage::Dial, MigrationEvent::Dialled(Ok(()))) => self.enter(Stage::Start),
            (Stage::Connect, MigrationEvent::Connected) if self.ran => {
                actions.push(Action::OpenDirtyLogs(self.epoch));
                self.enter(Stage::OpenLogs);
            }
            (Stage::Connect, MigrationEvent::Connected) => self.begin(actions),
            (_, MigrationEvent::Heard(message)) => self.handle(source::Event::Received(message), actions),
            (Stage::Round, MigrationEvent::RoundSent { carried_len, took }) => {
                self.sent = (carried_len, took);
                self.enter(Stage::Rearm);
            }
            (Stage::Harvest, MigrationEvent::Harvested(owed_len)) => {
                let (carried_len, took) = self.sent;
                let round = Round { carried_len, took, owed_len, overhead: Duration::ZERO };
                self.handle(source::Event::RoundSent(round), actions);
            }
            (Stage::LastHarvest, MigrationEvent::Harvested(_)) => self.send_last_round(actions),
            (Stage::LastRound, MigrationEvent::RoundSent { .. }) => {
                actions.push(Action::Lap("last round"));
                actions.push(Action::Migration(MigrationAction::SendStates));
                self.enter(Stage::States);
            }
            (Stage::States, MigrationEvent::StatesQueued(Ok(last))) => {
                self.disks_are_released = true;
                actions.push(Action::Migration(MigrationAction::ReleaseDisks));
                self.enter(Stage::Release);
                self.last = Some(last);
            }
            (Stage::Release, MigrationEvent::DisksReleased(Ok(()))) => {
                actions.push(Action::Lap("send state"));
                if let Some(last) = self.last.take() {
                    self.handle(source::Event::Finished(last), actions);
                }
            }
            (Stage::Relock, MigrationEvent::DisksLocked(Ok(()))) => {
                self.disks_are_released = false;
                self.enter(Stage::Resume);
            }
            (Stage::Relock, MigrationEvent::DisksLocked(Err(problem))) => {
                self.is_back = false;
                self.problem = Some(problem);
                self.enter(Stage::Resume);
            }
            (Stage::Close, MigrationEvent::Closed) => self.enter(Stage::End),
            (Stage::Ask, MigrationEvent::Asked(place, said)) => self.asked(place, &said, actions),
            (
                _,
                MigrationEvent::Unidentified(problem)
                | MigrationEvent::Offered(Err(problem))
                | MigrationEvent::Dialled(Err(problem))
                | MigrationEvent::StatesQueued(Err(problem))
                | MigrationEvent::DisksReleased(Err(problem)),
            ) => self.fail(problem, actions),
            (_, MigrationEvent::LinkLost(why)) => self.link_lost(why, actions),
            _ => {}
        }
    }
}

impl Outgoing {
    /// The offer is made: from here on the other host has a say.
    fn begin(&mut self, actions: &mut Vec<Action>) {
        actions.push(Action::Migration(MigrationAction::OweAll));
        actions.push(Action::Lap("connect"));
        let (source, ordered) = Source::begin(std::mem::take(&mut self.offer), self.limits, self.ran);
        self.source = Some(source);
        self.obey(ordered, actions);
    }

    fn send_last_round(&mut self, actions: &mut Vec<Action>) {
        self.enter(Stage::LastRound);
        self.send_round(actions);
    }

    /// The connection, or the mover, is lost.
    pub fn link_lost(&mut self, why: String, actions: &mut Vec<Action>) {
        if self.source.is_some() {
            return self.handle(source::Event::LinkLost(why), actions);
        }
        let advice = "see that `bulkhead receive` waits there, and look at its log";
        self.fail(Problem::host(why, &*self.to, advice), actions);
    }

    fn is_over_time(&mut self, actions: &mut Vec<Action>) {
        let late = |what: &str| format!("the other host has not {what} in time");
        match self.stage {
            Stage::Dial => self.link_lost(late("taken the connections"), actions),
            Stage::Connect => self.link_lost(late("greeted"), actions),
            Stage::Await => self.link_lost(late("answered"), actions),
            Stage::Close => self.enter(Stage::End),
            Stage::Ask => self.asked(Whereabouts::NoAnswer, &late("answered"), actions),
            _ => {}
        }
    }

    /// A person says where the guest goes on.
    fn resolve(&mut self, ticket: Ticket, request: ResolveRequest, actions: &mut Vec<Action>) {
        let ResolveRequest { resume: here, force: forced } = request;
        (self.ticket, self.resolves) = (Some(ticket), true);
        self.handle(source::Event::Resolve { here, forced }, actions);
    }

    /// The other host has been asked whether that can be.
    fn asked(&mut self, place: Whereabouts, said: &str, actions: &mut Vec<Action>) {
        let Some(source) = &mut self.source else { return };
        let ordered = source.handle(source::Event::Answered(place));
        if *source.state() == State::Ambiguous {
            self.enter(Stage::Ambiguous);
            let advice = match place {
                Whereabouts::There => {
                    "`--resolve discard` ends this VM; with `--force` the guest would run twice"
                }
                Whereabouts::Unknown | Whereabouts::NoAnswer => {
                    "look at the other host; then `--resolve resume --force` if the guest does not run there and never \
                     will, else `--resolve discard --force`"
                }
            };
            let problem = Problem::new(Class::State, said, &*self.to, advice);
            let ticket = self.ticket.take();
            return actions.extend(ticket.map(|ticket| Action::Answer(ticket, Err(problem))));
        }
        let is_over = *source.state() == State::Moved;
        self.obey(ordered, actions);
        if is_over {
            self.close(actions);
        }
    }

    /// Why the guest stays.
    fn stays(&self) -> Problem {
        if let Some(problem) = &self.problem {
            return problem.clone();
        }
        let reason = match self.source.as_ref().map(Source::state) {
            Some(State::Stays { reason, .. }) => reason.as_str(),
            _ => "it was given up",
        };
        let advice = "look at the log of `bulkhead receive` on the other host, and try again";
        Problem::new(Class::State, reason, &*self.to, advice)
    }

    fn is_not_known(&self) -> Problem {
        Problem::new(
            Class::State,
            "the other host was told to let the guest run, and has not said that it does: the guest is paused here, and may run there",
            &*self.to,
            "look there: `bulkhead migrate NAME --resolve discard` if it runs, `--resolve resume` if it does not and never will",
        )
    }
}

impl Outgoing {
    fn cancel(&mut self, actions: &mut Vec<Action>) {
        let problem =
            Problem::new(Class::State, "it was cancelled", "migration", "start it again when it is wanted");
        self.problem = Some(problem.clone());
        match &self.source {
            Some(_) => self.handle(source::Event::Cancel, actions),
            None => {
                self.problem = None;
                self.fail(problem, actions);
            }
        }
    }
}
