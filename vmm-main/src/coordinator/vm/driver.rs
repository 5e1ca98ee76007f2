// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The task of the VM: passes events to the state machine one at a time, and carries out its actions.
//!
//! It waits for events only, never for an action. Requests to stop come first, then events of processes, so that a
//! command is decided with all that has happened. A command is taken when no other is under way; others wait in their
//! bounded queue.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipc::instance::InstanceId;
use ipc::protocol::control::{Event as Report, Reply};
use ipc::protocol::ram::RamLayout;
use sandbox::Locked;
use tokio::sync::oneshot::error::RecvError;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};

use super::action::Ending;
use super::dirty_rate::Measurement;
use super::event::{Event, LifeId, MigrationEvent, ProcessEvent, Ticket, Timer};
use super::execution::Stopwatch;
use super::loading::Loaded;
use super::migration::{Askers, Migration};
use super::plan::Plan;
use super::programs::{Opened, Programs};
use super::saved_state::SavedState;
use super::snapshot;
use super::state_machine::{StateMachine, bug, cannot_be_killed};
use crate::api::command::{Answer, Command, MigrationOrder, Snapshot, StopRequest};
use crate::api::types::{DirtyRate, Limits, Migrated, ProbeAnswer, Restarted, SaveRestored, Status};
use crate::coordinator::Arrival;
use crate::coordinator::handover::Handover;
use crate::coordinator::launcher::Launcher;
use crate::coordinator::objects::Objects;
use crate::coordinator::process::{Handle, Launching, TaskEvent, TaskMessage};
use crate::coordinator::roles::{self, Configs};
use crate::launcher_channel::FromCoordinator;
use crate::lifecycle::{Phase, Why};
use crate::migration::question::Key;
use crate::problem::Problem;
use crate::system::{MOVER, ObjectId, Size, System};

/// The length of the queue of events from processes.
const EVENT_QUEUE_LEN: usize = 64;

/// What the launcher handed over.
#[derive(Debug)]
pub struct Given {
    /// The configuration.
    pub handover: Handover,
    /// The guest's kernel.
    pub kernel: File,
    /// The guest's initramfs.
    pub initramfs: Option<File>,
    /// The objects for the processes.
    pub objects: BTreeMap<ObjectId, OwnedFd>,
}

/// A VM.
#[derive(Debug)]
pub struct Vm {
    pub(super) given: Given,
    pub(super) system: Arc<System>,
    pub(super) machine: StateMachine,
    pub(super) layout: RamLayout,
    pub(super) started: Instant,
    /// What the coordinator has enforced on itself.
    pub(super) enforced: Vec<String>,
    /// Its own limits.
    pub(super) limits: Limits,
    /// The shared objects of the running processes, and below of those that the guest is moved into.
    pub(super) current: Option<Shared>,
    pub(super) next: Option<Objects>,
    /// The latest life that followed one that died, by its generation, and since when: it has the current objects.
    pub(super) revived: Option<(u32, Instant)>,
    pub(super) processes: BTreeMap<LifeId, Handle>,
    /// Processes on their way to their programs, between actions.
    pub(super) launching: Vec<(LifeId, Launching)>,
    pub(super) tasks: JoinSet<LifeId>,
    pub(super) event_sender: mpsc::Sender<(LifeId, TaskEvent)>,
    events: mpsc::Receiver<(LifeId, TaskEvent)>,
    pub(super) timers: JoinSet<Timer>,
    /// The launcher, except while a task asks it for connections.
    pub(super) launcher: Option<Launcher>,
    pub(super) reconnecting: JoinSet<Reconnected>,
    /// The thread that loads the guest, while there is one.
    pub(super) loading: JoinSet<Result<Loaded, RecvError>>,
    pub(super) saved: BTreeMap<InstanceId, SavedState>,
    /// The dirty logs, during a measurement.
    pub(super) measurement: Option<Measurement>,
    /// The guest moves, or has not come yet.
    pub(super) migration: Option<Migration>,
    /// Threads that do what takes long for it.
    pub(super) work: JoinSet<MigrationEvent>,
    /// Connections for it, from the launcher.
    arrivals: mpsc::Receiver<Arrival>,
    /// Programs that users gave, and what the launcher answers about them.
    pub(super) programs: Programs,
    opened: mpsc::Receiver<Opened>,
    /// For the report that the guest runs, and for asking for connections and programs.
    pub(super) to_launcher: mpsc::Sender<FromCoordinator>,
    /// The launcher was told that the guest runs.
    pub(super) has_reported: bool,
    /// The number of the latest request for them.
    pub(super) dials: u8,
    /// Of a guest that has come from another host, which may ask where it is.
    pub(super) origin: Option<Key>,
    pub(super) askers: Askers,
    /// What the other host has said of a guest that may have been there.
    pub(super) other_host: Option<String>,
    /// Who is told that the guest has moved, when the VM is gone.
    pub(super) moved: Option<Moved>,
    /// The number of the latest ticket.
    tickets: Ticket,
    pub(super) waiting: BTreeMap<Ticket, Waiting>,
    /// Clients that wait for the end.
    pub(super) stopping: Vec<Answer<Status>>,
    /// Events of actions that were carried out at once.
    pub(super) results: VecDeque<Event>,
    pub(super) clock: Stopwatch,
    pub(super) snapshot: watch::Sender<Snapshot>,
}

/// The shared objects of one generation of processes.
#[derive(Debug)]
pub(super) struct Shared {
    pub objects: Objects,
    pub configs: Configs,
}

/// A client that waits for the outcome of its command.
#[derive(Debug)]
pub(super) enum Waiting {
    Phase(Answer<Status>),
    SaveRestore(Answer<SaveRestored>),
    Restart(Answer<Restarted>),
    Migration(Answer<Migrated>),
    DirtyRate(Answer<DirtyRate>),
    Probe(Answer<ProbeAnswer>),
}

/// A client whose guest has moved, and what that came to.
#[derive(Debug)]
pub struct Moved {
    /// The client.
    pub answer: Answer<Migrated>,
    /// Its answer.
    pub migrated: Migrated,
}

/// The launcher, after it was asked for connections, with the objects for the processes and the outcome.
#[derive(Debug)]
pub(super) struct Reconnected {
    pub launcher: Launcher,
    pub objects: BTreeMap<ObjectId, OwnedFd>,
    pub result: io::Result<()>,
}

impl Vm {
    /// A VM without processes. Takes the proof of being sealed, which is required before any guest data is read.
    pub fn new(
        given: Given,
        locked: &Locked,
        launcher: Launcher,
        to_launcher: mpsc::Sender<FromCoordinator>,
        arrivals: mpsc::Receiver<Arrival>,
        opened: mpsc::Receiver<Opened>,
    ) -> Result<Self, Problem> {
        let layout = roles::ram_layout(given.handover.memory_len)?;
        let system = Arc::new(System::new(&given.handover.shape()));
        let held = |object| given.objects.get(&object).map(AsFd::as_fd);
        let size = Size::measure(&system, given.handover.memory_len, held)
            .map_err(|error| refused("measure an image", &error))?;
        let limits = Limits::of(&system.profile_of(system.coordinator(), size));
        let (event_sender, events) = mpsc::channel(EVENT_QUEUE_LEN);
        let started = Instant::now();
        let machine =
            StateMachine::new(Plan::of(&system, &given.handover), snapshot::unreachable(&system, &launcher));
        let mut vm = Self {
            given,
            system,
            machine,
            layout,
            started,
            enforced: locked.enforced().lines(),
            limits,
            current: None,
            next: None,
            revived: None,
            processes: BTreeMap::new(),
            launching: Vec::new(),
            tasks: JoinSet::new(),
            event_sender,
            events,
            timers: JoinSet::new(),
            launcher: Some(launcher),
            reconnecting: JoinSet::new(),
            loading: JoinSet::new(),
            saved: BTreeMap::new(),
            measurement: None,
            migration: None,
            work: JoinSet::new(),
            arrivals,
            programs: Programs::default(),
            opened,
            to_launcher,
            has_reported: false,
            dials: 0,
            origin: None,
            askers: Askers::default(),
            other_host: None,
            moved: None,
            tickets: 0,
            waiting: BTreeMap::new(),
            stopping: Vec::new(),
            results: VecDeque::new(),
            clock: Stopwatch::new(started),
            snapshot: watch::channel(snapshot::empty(started)).0,
        };
        vm.publish();
        Ok(vm)
    }

    /// The published snapshot.
    pub fn snapshot(&self) -> watch::Receiver<Snapshot> {
        self.snapshot.subscribe()
    }

    /// The reason for the end, once there is one.
    pub fn ended(&self) -> Option<&Why> {
        match self.machine.phase() {
            Phase::Stopped { why } => Some(why),
            _ => None,
        }
    }

    /// Boots the VM, or receives its guest, and passes events to the state machine until the VM has ended. Returns the
    /// clients that have requested the end, to be answered.
    pub async fn live(
        &mut self,
        commands: &mut mpsc::Receiver<Command>,
        stops: &mut mpsc::Receiver<StopRequest>,
        migrations: &mut mpsc::Receiver<MigrationOrder>,
    ) -> Vec<Answer<Status>> {
        let begins = self.begin();
        self.happened(begins);
        while self.ended().is_none() {
            // Every arm is cancel-safe: queues, and sets of tasks that go on.
            let event = tokio::select! {
                biased;
                Some(StopRequest { why, answer }) = stops.recv() => {
                    self.stopping.extend(answer);
                    Some(Event::Stop(why))
                }
                Some((life, event)) = self.events.recv() => self.process_event(life, event),
                Some(ended) = self.tasks.join_next() => self.task_ended(ended),
                Some(Ok(timer)) = self.timers.join_next() => Some(Event::Timeout(timer)),
                Some(Ok(reconnected)) = self.reconnecting.join_next() => Some(self.reconnected(reconnected)),
                Some(Ok(loaded)) = self.loading.join_next() => Some(self.loaded(loaded)),
                Some(Ok(event)) = self.work.join_next() => {
                    self.note_asked(&event);
                    Some(Event::Migration(event))
                }
                Some(opened) = self.opened.recv(), if self.machine.answers_commands() => self.program_opened(opened),
                Some(arrival) = self.arrivals.recv() => self.arrived(arrival),
                Some(order) = migrations.recv() => Some(self.migration_order(order)),
                Some(command) = commands.recv(), if self.machine.answers_commands() => self.command(command),
            };
            if let Some(event) = event {
                self.happened(event);
            }
        }
        std::mem::take(&mut self.stopping)
    }

    /// Passes an event to the state machine, carries out its actions, and does the same with events of these.
    fn happened(&mut self, event: Event) {
        self.results.push_back(event);
        while let Some(event) = self.results.pop_front() {
            for action in self.machine.handle(event) {
                self.execute(action);
            }
            self.finish_launches();
        }
        self.publish();
    }

    /// The event of a process's task in the state machine's terms.
    fn process_event(&mut self, life: LifeId, event: TaskEvent) -> Option<Event> {
        let event = match event {
            TaskEvent::Started(enforced) => {
                if let Some(process) = self.processes.get_mut(&life) {
                    process.enforced = Some(enforced);
                }
                ProcessEvent::Started
            }
            TaskEvent::Answered(Reply::Done) if self.is_asked_to_carry(life) => return self.carried(Ok(())),
            TaskEvent::Refused(problem) if self.is_asked_to_carry(life) => return self.carried(Err(problem)),
            TaskEvent::Reported(Report::Carried(notice)) if life.instance == MOVER => {
                return self.noticed(notice);
            }
            TaskEvent::Reported(Report::Features(features)) => {
                let process = self.processes.get_mut(&life)?;
                if let Err(why) = process.features.add(features) {
                    process.send(TaskMessage::End(Ending::Failed(why)));
                }
                return None;
            }
            TaskEvent::Answered(reply) => self.answered(life, reply)?,
            TaskEvent::Refused(problem) => ProcessEvent::Refused(problem),
            TaskEvent::Reported(event) => ProcessEvent::Reported(event),
            TaskEvent::Gone(departure) => {
                self.processes.remove(&life);
                ProcessEvent::Gone(departure)
            }
        };
        Some(Event::Process(life, event))
    }

    /// A task has ended, after its last event.
    fn task_ended(&mut self, ended: Result<LifeId, JoinError>) -> Option<Event> {
        let Err(error) = ended else { return None };
        // A task that panicked killed its process when it was dropped, but sent no event.
        let problem = bug(format!("the task of a process failed: {error}"));
        Some(Event::Stop(Why::Failed { problem, last_lines: Vec::new() }))
    }

    /// The ticket of a new client.
    pub(super) fn issue(&mut self, waiting: Waiting) -> Ticket {
        self.tickets = self.tickets.wrapping_add(1);
        self.waiting.insert(self.tickets, waiting);
        self.tickets
    }

    /// Who waits to be told that the guest has moved.
    pub const fn moved(&mut self) -> Option<Moved> {
        self.moved.take()
    }

    /// The answer to clients that have requested the end.
    pub fn outcome(&self) -> Result<Status, Problem> {
        match self.machine.hanging() {
            [] => Ok(self.status()),
            hanging => Err(cannot_be_killed(hanging, "stop")),
        }
    }
}

/// A span in milliseconds.
pub(super) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn refused(what: &'static str, error: &dyn std::fmt::Display) -> Problem {
    Problem::host(format!("the host refuses to {what}: {error}"), "coordinator", "check the host's limits")
}
