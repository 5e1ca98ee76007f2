// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest comes from another host: the destination's side of a migration, and the beginning of this VM.
//!
//! ```text
//! RAM, mover ─► somebody connects ─► OFFER: compared ─► processes started and configured ─► ACCEPT ─► pages, states
//!     ─► LAST: states checked, disks locked ─► load, arm, replay ─► READY ─► COMMIT: go ─► RUNNING ─► KNOWN
//!     └───────────────────── any failure up to here: everything is ended ─┘      └─► a VM like any other
//! ```
//!
//! What is said to the other host, and what follows from its words, [`Destination`] decides. Nothing of a guest
//! is started before its offer is found to fit. The way in is the one of every life ([`super::way_in`]). A device that
//! does not come along fails the migration, as whatever else goes wrong: the guest is better off where it is.

use std::time::Duration;

use ipc::protocol::budget;

use super::outgoing::CLOSE_SPAN;
use super::{Operation, Progress, StateMachine, Step};
use crate::coordinator::spans;
use crate::coordinator::vm::action::{Action, LoadSource, MigrationAction, Notice};
use crate::coordinator::vm::event::{LifeId, MigrationEvent, Timer};
use crate::lifecycle::{self, Why};
use crate::migration::destination::{self, Destination, State};
use crate::migration::features::Extent;
use crate::problem::{Class, Problem};

/// For the source to make its offer, once it has connected.
const OFFER_SPAN: Duration = budget::sum(&[Duration::from_secs(10), budget::SLACK]);
/// For the source to commit, once everything is ready: what it then waits for is this host's word alone.
const COMMIT_SPAN: Duration = budget::sum(&[spans::ORDER_SPAN, budget::SLACK]);

/// For the source to say that it knows: it has nothing to do before.
const KNOWN_SPAN: Duration = budget::sum(&[Duration::from_secs(5), budget::SLACK]);

/// A guest that is on its way here.
#[derive(Debug, Clone)]
pub(super) struct Incoming {
    destination: Destination,
    pub mover: LifeId,
    /// The set that it is to live in.
    new: u32,
    stage: Stage,
    /// The next process of the plan to be started.
    next: usize,
    /// It runs; otherwise it is paused, and arrives so.
    runs: bool,
    /// The connections are lost.
    link_is_lost: bool,
    /// What went wrong on this host.
    problem: Option<Problem>,
    epoch: u64,
    /// The number of the latest wait.
    wait: u32,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Open,
    Start,
    /// Somebody is to connect.
    Listen,
    /// The source has the word.
    Await,
    Compare,
    Prepare,
    Populate,
    /// What the processes have said of themselves is compared: before RAM comes, and with devices open.
    Features,
    DeviceFeatures,
    Check,
    Lock,
    Load,
    Arm,
    Replay,
    Go,
    /// It was paused, and stays so.
    BeginPaused,
    /// The source is to say that it knows.
    Known,
    /// The connections are closed, and the mover is ended.
    Close,
    End,
}

impl Incoming {
    /// What users are told of it.
    pub const fn as_str(&self) -> &'static str {
        match self.stage {
            Stage::Open | Stage::Start | Stage::Listen => "listening",
            _ => self.destination.state().as_str(),
        }
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

    /// Whether the guest is this host's.
    pub const fn is_committed(&self) -> bool {
        matches!(self.destination.state(), State::Runs { .. })
    }

    /// Whether the source knows that: it will not ask.
    const fn is_known(&self) -> bool {
        matches!(self.destination.state(), State::Runs { is_known: true })
    }

    /// Whether this life is of the set that the guest is to live in, and does not yet.
    pub fn is_next(&self, id: LifeId) -> bool {
        id.generation == self.new && !self.is_committed()
    }

    /// Something on this host does not do its part.
    pub fn fail(&mut self, problem: Problem, actions: &mut Vec<Action>) {
        if matches!(self.destination.state(), State::Runs { .. } | State::Over { .. }) {
            return;
        }
        let why = problem.what.clone();
        self.problem = Some(problem);
        self.handle(destination::Event::Failed(why), actions);
    }

    /// The connection, or the mover, is lost.
    pub fn link_lost(&mut self, why: String, actions: &mut Vec<Action>) {
        self.link_is_lost = true;
        self.handle(destination::Event::LinkLost(why), actions);
        if self.stage == Stage::Known {
            self.close(actions);
        }
    }

    /// The destination's machine is told, and what it orders begun.
    fn handle(&mut self, event: destination::Event, actions: &mut Vec<Action>) {
        for request in self.destination.handle(event) {
            let migration = match request {
                destination::Action::Send(message) => MigrationAction::Say(message),
                destination::Action::Compare(offer) => {
                    self.enter(Stage::Compare);
                    MigrationAction::Compare(offer)
                }
                destination::Action::Prepare => {
                    self.enter(Stage::Prepare);
                    MigrationAction::Prepare
                }
                destination::Action::Take(last) => {
                    self.enter(Stage::Check);
                    MigrationAction::Check(last)
                }
                destination::Action::Go => {
                    self.enter(Stage::Go);
                    continue;
                }
                destination::Action::End => {
                    self.close(actions);
                    continue;
                }
            };
            actions.push(Action::Migration(migration));
        }
    }

    fn close(&mut self, actions: &mut Vec<Action>) {
        actions.push(Action::Migration(MigrationAction::Close));
        self.enter_for(Stage::Close, CLOSE_SPAN, actions);
    }

    /// An event of the host, the mover, or the other coordinator. Late ones change nothing.
    fn happened(&mut self, event: MigrationEvent, actions: &mut Vec<Action>) {
        match (self.stage, event) {
            (Stage::Open, MigrationEvent::Opened(Ok(()))) => self.enter(Stage::Start),
            (Stage::Listen, MigrationEvent::Connected) => self.enter_for(Stage::Await, OFFER_SPAN, actions),
            (_, MigrationEvent::Heard(message)) => {
                self.handle(destination::Event::Received(message), actions);
                if self.stage == Stage::Known && self.is_known() {
                    self.close(actions);
                }
            }
            (Stage::Compare, MigrationEvent::Compared(Ok((differences, runs)))) => {
                self.runs = runs;
                let event = match differences.is_empty() {
                    true => destination::Event::Fits,
                    false => destination::Event::Differs(differences),
                };
                self.handle(event, actions);
            }
            (Stage::Features, MigrationEvent::FeaturesCompared(differences)) if differences.is_empty() => {
                actions.push(Action::Migration(MigrationAction::TakeStates));
                // As long as rounds come: a mover notices a silent host.
                self.enter(Stage::Await);
                self.handle(destination::Event::Prepared, actions);
            }
            (Stage::Features, MigrationEvent::FeaturesCompared(differences)) => {
                self.handle(destination::Event::Differs(differences), actions);
            }
            (Stage::DeviceFeatures, MigrationEvent::FeaturesCompared(differences)) => {
                if differences.is_empty() {
                    return self.enter(Stage::Replay);
                }
                let advice = "see the log of `bulkhead receive`, and give it a machine as the guest's";
                self.fail(Problem::new(Class::State, differences.join("; "), "migration", advice), actions);
            }
            (Stage::Check, MigrationEvent::Checked(Ok(()))) => {
                self.enter(Stage::Lock);
                actions.push(Action::Migration(MigrationAction::LockDisks));
            }
            (Stage::Lock, MigrationEvent::DisksLocked(Ok(()))) => self.enter(Stage::Load),
            (Stage::Close, MigrationEvent::Closed) => self.enter(Stage::End),
            (_, MigrationEvent::LinkLost(why)) => self.link_lost(why, actions),
            (
                _,
                MigrationEvent::Unidentified(problem)
                | MigrationEvent::Opened(Err(problem))
                | MigrationEvent::Compared(Err(problem))
                | MigrationEvent::Checked(Err(problem))
                | MigrationEvent::DisksLocked(Err(problem)),
            ) => self.fail(problem, actions),
            _ => {}
        }
    }

    fn is_over_time(&mut self, actions: &mut Vec<Action>) {
        match self.stage {
            Stage::Await => self.link_lost("the other host has not answered in time".to_owned(), actions),
            Stage::Known => self.close(actions),
            Stage::Close => self.enter(Stage::End),
            _ => {}
        }
    }

    /// Why the guest did not come.
    fn stayed_away(self) -> Problem {
        self.problem.unwrap_or_else(|| {
            let reason = match self.destination.state() {
                State::Over { reason } => reason.as_str(),
                _ => "it was given up",
            };
            let advice = "the guest is where it was: see the answer of `bulkhead migrate` there";
            Problem::new(Class::State, format!("no guest has come: {reason}"), "migration", advice)
        })
    }
}

impl StateMachine {
    /// Waits for a guest instead of booting one.
    pub(super) fn begin_receive(&mut self) {
        if !self.is_idle() || self.boot_count != 0 {
            return;
        }
        self.boot_count = 1;
        // A reset of the guest need not wait for a boot that was elsewhere.
        self.next_boot_due = true;
        self.epoch = self.epoch.saturating_add(1);
        let mover = self.next_mover();
        let coming = Incoming {
            destination: Destination::new(),
            mover,
            new: self.next_generation(),
            stage: Stage::Open,
            next: 0,
            runs: true,
            link_is_lost: false,
            problem: None,
            epoch: self.epoch,
            wait: 0,
        };
        self.actions.push(Action::Migration(MigrationAction::Open));
        self.operation = Operation::Incoming(Box::new(coming));
    }

    pub(super) fn incoming(&mut self, mut coming: Box<Incoming>) -> Step {
        let new = coming.new;
        let progress = match coming.stage {
            Stage::Start => self.start_mover(coming.mover),
            Stage::Populate => self.populate(new, &mut coming.next),
            Stage::Load => self.load(new, LoadSource::Saved),
            Stage::Arm => self.arm(new, &LoadSource::Saved),
            Stage::Replay => self.replay(new),
            Stage::Go if coming.runs => self.go(new),
            Stage::Go => self.go_without_cpus(new),
            Stage::BeginPaused => self.begin_paused(new),
            Stage::End => self.end_mover(coming.mover),
            _ => Progress::Waiting,
        };
        if progress == Progress::Waiting {
            return Step::Break(Operation::Incoming(coming));
        }
        let actions = &mut self.actions;
        match coming.stage {
            Stage::Start => {
                actions.push(Action::Migration(MigrationAction::TakeLanes));
                coming.enter(Stage::Listen);
            }
            Stage::Populate => {
                actions.push(Action::CloseConnections(new));
                actions.push(Action::Migration(MigrationAction::CompareFeatures(Extent::Known)));
                coming.enter(Stage::Features);
            }
            Stage::Load => coming.enter(Stage::Arm),
            Stage::Arm => {
                actions.push(Action::Migration(MigrationAction::CompareFeatures(Extent::All)));
                coming.enter(Stage::DeviceFeatures);
            }
            Stage::Replay => {
                coming.enter_for(Stage::Await, COMMIT_SPAN, actions);
                coming.handle(destination::Event::Taken, actions);
            }
            Stage::Go if !coming.runs => coming.enter(Stage::BeginPaused),
            Stage::Go | Stage::BeginPaused => return self.arrived(coming),
            Stage::End if coming.is_committed() => {
                let settles = coming.is_known().then_some(MigrationAction::Settle);
                actions.extend(settles.into_iter().chain([MigrationAction::Forget]).map(Action::Migration));
                return Step::Continue(Operation::Idle);
            }
            Stage::End => {
                let problem = coming.stayed_away();
                return Step::Continue(self.ending_failed(problem));
            }
            _ => {}
        }
        Step::Continue(Operation::Incoming(coming))
    }

    /// The guest runs here, or is paused here.
    fn arrived(&mut self, mut coming: Box<Incoming>) -> Step {
        let started = self.phase.after(lifecycle::Step::Start);
        let arrived = match coming.runs {
            true => started,
            false => started.and_then(|phase| phase.after(lifecycle::Step::Pause)),
        };
        match arrived {
            Ok(phase) => self.phase = phase,
            Err(problem) => {
                return Step::Continue(self.start_ending(Why::Failed { problem, last_lines: vec![] }));
            }
        }
        self.tell(Notice::GuestArrived(self.phase.clone()));
        coming.handle(destination::Event::Arrived, &mut self.actions);
        if coming.link_is_lost {
            coming.close(&mut self.actions);
        } else {
            coming.enter_for(Stage::Known, KNOWN_SPAN, &mut self.actions);
        }
        Step::Continue(Operation::Incoming(coming))
    }

    /// How the processes of the guest that was offered are configured is decided, or not.
    pub(super) fn incoming_prepared(&mut self, result: Result<(), Problem>) {
        let (Operation::Incoming(coming), actions) = (&mut self.operation, &mut self.actions) else { return };
        match result {
            Ok(()) if coming.stage == Stage::Prepare => {
                self.generation = coming.new;
                coming.enter(Stage::Populate);
            }
            Ok(()) => {}
            Err(problem) => coming.fail(problem, actions),
        }
    }

    /// Something of a guest that is coming.
    pub(super) fn incoming_event(&mut self, event: MigrationEvent) {
        let (Operation::Incoming(coming), actions) = (&mut self.operation, &mut self.actions) else { return };
        coming.happened(event, actions);
    }

    /// A wait for the other host is over.
    pub(super) fn incoming_over_time(&mut self, epoch: u64, wait: u32) {
        let (Operation::Incoming(coming), actions) = (&mut self.operation, &mut self.actions) else { return };
        if (coming.epoch, coming.wait) == (epoch, wait) {
            coming.is_over_time(actions);
        }
    }

    /// A process of a guest that is coming has refused its part.
    pub(super) fn refused_to_come(&mut self, id: LifeId, problem: Problem) {
        let (Operation::Incoming(coming), actions) = (&mut self.operation, &mut self.actions) else { return };
        if coming.is_committed() {
            // The guest is here, and is to be paused: who cannot hold still costs what he would in any VM.
            return self.fail(id, format!("it does not begin paused: {}", problem.what));
        }
        let what = format!("{}: {}", id.instance, problem.what);
        coming.fail(Problem { what, ..problem }, actions);
    }
}
