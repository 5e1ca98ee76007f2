// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A world for the state machine: processes that obey or not, timers, clients. It holds every action against the rules.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ipc::hello::Role;
use ipc::instance::InstanceId;
use ipc::protocol::control::{DirtyLogOp, Quiescence};
use ipc::protocol::lifecycle::State;
use ipc::protocol::probe::ProbeOutcome;

use super::migrating::Migration;
pub use super::shape::{
    DEATHS_MAX, NVME0, SMMU_DEATHS_MAX, SMMU0, VCPU, VFIO0, VFIO1, plan, problem, restart_group,
};
use super::unmapping::Unmapping;
use crate::coordinator::vm::action::{Action, Ending, Notice, RequestKind, Success};
use crate::coordinator::vm::event::{
    Command, Departure, Event, LifeId, Outcome, ProcessEvent, Ticket, Timer,
};
use crate::coordinator::vm::plan::Plan;
use crate::coordinator::vm::state_machine::StateMachine;
use crate::lifecycle::Phase;
use crate::problem::Problem;
use crate::system::MOVER;

/// How a process looks from outside.
#[derive(Debug, Clone)]
pub struct Process {
    pub state: State,
    pub greeted: bool,
    pub open: Option<RequestKind>,
    pub ending: Option<Ending>,
    /// What it was last told about its dirty log, and has done.
    pub logging: Option<DirtyLogOp>,
    /// It was let begin or go on, and has not paused since: perhaps it works.
    pub may_run: bool,
    /// It has said that it could be saved, since the last save/restore was asked for.
    pub checked: bool,
    /// The machine was told that it is lost, or ordered its end.
    pub told_of_device: bool,
    /// It holds its CPUs, by order.
    pub is_held: bool,
}

/// What the machine's orders have made.
#[derive(Clone)]
pub struct World {
    pub machine: StateMachine,
    pub processes: BTreeMap<LifeId, Process>,
    /// Every life that there ever was.
    lives: BTreeSet<LifeId>,
    /// Those that were killed and are not gone.
    pub hung: BTreeSet<LifeId>,
    /// Which vSMMU has a new channel to which device's process, and has not attached its stream there.
    pub unattached: BTreeSet<(LifeId, LifeId)>,
    /// Those that were told to go.
    pub begun: BTreeSet<LifeId>,
    pub timers: BTreeMap<Timer, Duration>,
    pub loads: usize,
    pub prepares: usize,
    pub reconnects: usize,
    /// Dirty logs that were to be mapped and are not yet.
    pub logs: usize,
    pub harvests: usize,
    /// The migration, as the driver and the other host have it.
    pub migration: Migration,
    pub released: bool,
    pub tickets: Ticket,
    pub asked: BTreeSet<Ticket>,
    pub answers: BTreeMap<Ticket, Result<Success, Problem>>,
    pub notices: Vec<Notice>,
    pub requests: Vec<(LifeId, RequestKind)>,
    /// What the CPUs' process has to unmap, and has.
    pub unmapping: Unmapping,
    /// Which vSMMU was told of the end of which device's DMA.
    pub dma_ended: Vec<(LifeId, InstanceId)>,
    /// How many events there were.
    events: usize,
}

impl World {
    pub fn new(required: bool) -> Self {
        Self::with(plan(required, None), Event::Boot)
    }

    /// One in which the device that is served by us comes back.
    pub fn with_restarts() -> Self {
        Self::with_restarts_up_to(DEATHS_MAX)
    }

    /// One in which each comes back so often.
    pub fn with_restarts_up_to(max: u32) -> Self {
        Self::with(plan(false, Some(max)), Event::Boot)
    }

    /// One in which no process comes back without an order.
    pub fn that_asks() -> Self {
        let mut plan = plan(false, Some(0));
        plan.members.iter_mut().for_each(|member| member.restarts = member.restarts.map(|_| 0));
        Self::with(plan, Event::Boot)
    }

    /// A VM that begins with this event.
    pub fn beginning_with(begins: Event) -> Self {
        Self::with(plan(false, None), begins)
    }

    pub fn with(plan: Plan, begins: Event) -> Self {
        let mut world = Self {
            machine: StateMachine::new(plan, BTreeMap::new()),
            processes: BTreeMap::new(),
            lives: BTreeSet::new(),
            hung: BTreeSet::new(),
            unattached: BTreeSet::new(),
            begun: BTreeSet::new(),
            timers: BTreeMap::new(),
            loads: 0,
            prepares: 0,
            reconnects: 0,
            logs: 0,
            harvests: 0,
            migration: Migration::default(),
            released: false,
            tickets: 0,
            asked: BTreeSet::new(),
            answers: BTreeMap::new(),
            notices: Vec::new(),
            requests: Vec::new(),
            unmapping: Unmapping::default(),
            dma_ended: Vec::new(),
            events: 0,
        };
        world.happen(begins);
        world
    }

    /// Gives the machine an event, and holds what it orders against the rules.
    pub fn happen(&mut self, event: Event) {
        self.events += 1;
        let before = self.machine.phase().clone();
        for action in self.machine.handle(event) {
            self.obey(action);
        }
        self.check_phase(&before);
    }

    fn obey(&mut self, action: Action) {
        let is_answer = matches!(action, Action::Answer(_, Err(_)));
        assert!(!self.released || is_answer, "ordered after the end: {action:?}");
        match action {
            Action::Load => {
                self.loads += 1;
                self.unmapping = Unmapping::default();
            }
            Action::Prepare => {
                assert!(self.processes.values().all(|process| process.checked), "everyone is asked first");
                self.prepares += 1;
            }
            Action::PrepareRestart(members) => {
                for member in members {
                    assert!(self.processes[&self.life(member)].checked, "{member} is asked first");
                }
                self.prepares += 1;
            }
            Action::Reconnect => {
                assert!(self.processes.is_empty(), "the old connections are closed first");
                self.reconnects += 1;
            }
            Action::OpenDirtyLogs(_) => self.logs += 1,
            Action::Harvest => self.check_harvest(),
            Action::Migration(action) => self.migrate(action),
            Action::Start(life) => self.start(life),
            Action::Renew(_, members) => {
                for member in members {
                    // A next life that was given up before it went has never served the guest.
                    let hung = self.hung.intersection(&self.begun);
                    let mut others = self.processes.keys().chain(hung);
                    let other = others.find(|other| other.instance == member);
                    assert_eq!(other, None, "the life before of {member} is reaped first");
                }
            }
            Action::CloseLink(device) => {
                assert!(self.machine.lost_devices().contains_key(&device), "{device} is not lost");
                let is_mapped = self.machine.dma_is_hosts(device);
                self.unmapping.closed.extend(is_mapped.then_some(device));
            }
            Action::Request(life, request) => self.ask(life, request),
            Action::End(life, ending) => {
                let process = self.processes.get_mut(&life).expect("a process that ends is there");
                assert!(process.ending.replace(ending).is_none(), "{life:?} is ended once");
            }
            Action::Arm(timer, span) => drop(self.timers.insert(timer, span)),
            Action::Answer(ticket, result) => {
                assert!(self.asked.contains(&ticket), "nobody asked");
                assert!(self.answers.insert(ticket, result).is_none(), "{ticket} is answered once");
            }
            Action::Notify(notice) => self.notices.push(notice),
            Action::Release => self.released = true,
            Action::Commit => self.check_commit(),
            Action::DmaEnded { smmu, device } => self.check_dma_ended(smmu, device),
            Action::Abandon | Action::Lap(_) | Action::CloseConnections(_) | Action::KeepProgram => {}
        }
    }

    fn start(&mut self, life: LifeId) {
        assert!(self.lives.insert(life), "{life:?} is started once");
        let others = self.processes.keys().filter(|other| other.instance == life.instance);
        // Two lives of an instance: only while the guest moves from one to the next.
        for other in others {
            assert!(other.generation < life.generation, "{other:?} lives");
            assert_eq!(
                (self.machine.life_of(other.instance), self.machine.phase()),
                (Some(*other), &Phase::Running)
            );
        }
        let process = Process {
            state: State::Unconfigured,
            greeted: false,
            open: None,
            ending: None,
            logging: None,
            may_run: false,
            checked: false,
            told_of_device: false,
            is_held: false,
        };
        self.processes.insert(life, process);
    }

    /// Everyone who logs has flipped its log.
    pub fn check_harvest(&mut self) {
        self.harvests += 1;
        for (life, process) in self.processes.iter().filter(|(_, process)| process.ending.is_none()) {
            let flipped = process.logging == Some(DirtyLogOp::Rearm);
            assert!(
                flipped || [NVME0, MOVER].contains(&life.instance),
                "{life:?} has last done {:?}",
                process.logging
            );
        }
    }

    /// All that can fail has not, and nothing runs.
    fn check_commit(&self) {
        let new = self.processes.keys().map(|life| life.generation).max();
        for (life, process) in self.processes.iter().filter(|(_, process)| process.ending.is_none()) {
            let expected = if Some(life.generation) == new { State::Replayed } else { State::Paused };
            assert_eq!((process.state, &process.open, process.may_run), (expected, &None, false), "{life:?}");
        }
    }

    fn ask(&mut self, life: LifeId, request: RequestKind) {
        if matches!(request, RequestKind::Go | RequestKind::Resume) {
            self.migration.check_may_run(life);
            // The one that took its place, or whose place it took, and all of another set.
            let set = |life: &LifeId| self.machine.lives.get(*life).and_then(|life| life.set);
            // A device that the guest has lost is none of those: what is left of it is being ended.
            let is_lost = |other: &LifeId| {
                let device = crate::system::device_of(other.instance);
                device.is_some_and(|device| self.machine.lost_devices().contains_key(&device))
            };
            let there = self
                .processes
                .keys()
                .filter(|other| set(other) != set(&life) && other.instance != MOVER && !is_lost(other));
            let hung = self.hung.iter().filter(|hung| {
                let is_before = hung.instance == life.instance && hung.generation < life.generation;
                is_before && self.begun.contains(hung) || hung.generation < self.machine.generation()
            });
            let other = there.chain(hung).next();
            assert!(other.is_none(), "{request:?} of {life:?} while there is {other:?}");
        }
        let process = self.processes.get_mut(&life).expect("only a process that there is can be asked");
        assert!(process.greeted && process.ending.is_none(), "{life:?} cannot hear {request:?}");
        assert!(
            request.state_after(process.state).is_some(),
            "{request:?} of a process that is {:?}",
            process.state
        );
        assert!(process.open.replace(request).is_none(), "{life:?} is asked one thing at a time");
        process.may_run |= matches!(request, RequestKind::Go | RequestKind::Resume);
        if request == RequestKind::Go {
            let unattached = self.unattached.iter().find(|(_, next)| *next == life);
            assert_eq!(unattached, None, "{life:?} goes before its stream is attached");
            self.begun.insert(life);
        }
        self.requests.push((life, request));
    }

    /// Every way that the phase takes is one of the life cycle's.
    fn check_phase(&self, before: &Phase) {
        let after = self.machine.phase();
        let allowed = match (before.as_str(), after.as_str()) {
            (one, other) if one == other => true,
            // Goes on, and does at once what its guest asked for before.
            ("paused", "created") => true,
            // A standstill hides where the guest is.
            ("created" | "running" | "paused", "held") | ("held", "created" | "running" | "paused") => true,
            ("held", "stopping" | "stopped") => true,
            // A guest that was paused elsewhere arrives so.
            ("created", "paused") => true,
            ("created", "running") | ("running", "paused" | "created") | ("paused", "running") => true,
            // An end may be seen whole, if nothing was left to end.
            ("created" | "running" | "paused", "stopping" | "stopped") | ("stopping", "stopped") => true,
            _ => false,
        };
        assert!(allowed, "{before} to {after}");
        assert_eq!(after.as_str() == "stopped", self.released, "the end is when everything is closed");
        if !self.machine.is_idle() {
            return;
        }
        assert!(self.processes.values().all(|process| !process.is_held), "CPUs are held for nobody");
        for (life, process) in self.processes.iter().filter(|(_, process)| process.ending.is_none()) {
            assert!(matches!(process.logging, None | Some(DirtyLogOp::Disable)), "{life:?} logs for nobody");
        }
        // What users are told of a VM that is doing nothing is so.
        let expected = match after {
            Phase::Running => State::Running,
            Phase::Paused => State::Paused,
            _ => return,
        };
        for (life, process) in self.processes.iter().filter(|(_, process)| process.ending.is_none()) {
            assert_eq!(process.state, expected, "{life:?} of a VM that is {after}");
            // What it was asked for a device that was lost meanwhile leaves it as it is.
            let stays = |open: &RequestKind| open.state_after(process.state) == Some(process.state);
            assert!(process.open.iter().all(stays), "{life:?} of a VM that is {after}: {process:?}");
            assert_eq!(self.machine.life_of(life.instance), Some(*life));
        }
    }

    /// A process does what it was asked, or greets.
    pub fn fulfil(&mut self, life: LifeId) {
        let Some(process) = self.processes.get_mut(&life).filter(|process| process.ending.is_none()) else {
            return;
        };
        if !process.greeted {
            process.greeted = true;
            return self.process(life, ProcessEvent::Started);
        }
        let Some(request) = process.open.take() else { return };
        process.state = request.state_after(process.state).unwrap();
        process.may_run &= process.state != State::Paused;
        process.checked |= request == RequestKind::CheckSave;
        match request {
            RequestKind::DirtyLog(op) => process.logging = Some(op),
            RequestKind::HoldCpus(held) => process.is_held = held,
            RequestKind::Rewire(next) if life.instance == SMMU0 => _ = self.unattached.insert((life, next)),
            RequestKind::Replay if life.instance == SMMU0 => {
                self.unattached.retain(|(smmu, _)| *smmu != life)
            }
            _ => {}
        }
        let outcome = match request {
            RequestKind::Save => Outcome::Saved(7),
            RequestKind::Pause => Outcome::Paused(Quiescence::NONE),
            RequestKind::Replay if life.instance == SMMU0 => Outcome::Replayed(vec![]),
            RequestKind::Probe(_) => Outcome::Probed(ProbeOutcome::Allowed),
            _ => Outcome::Done,
        };
        self.process(life, ProcessEvent::Answered(outcome));
    }

    /// Every life that there ever was.
    pub fn lives(&self) -> impl Iterator<Item = &LifeId> {
        self.lives.iter()
    }

    /// A process does what it was asked, with this outcome.
    pub fn answer(&mut self, life: LifeId, outcome: Outcome) {
        let process = self.processes.get_mut(&life).unwrap();
        let request = process.open.take().unwrap();
        process.state = request.state_after(process.state).unwrap();
        process.may_run &= process.state != State::Paused;
        self.process(life, ProcessEvent::Answered(outcome));
    }

    /// A process says what became of its device.
    pub fn tell_of_device(&mut self, life: LifeId, failed: bool) {
        use ipc::protocol::control::Event as Report;
        let Some(process) = self.processes.get_mut(&life) else { return };
        if life.instance.role == Role::Vfio && process.state == State::Armed && !process.told_of_device {
            process.told_of_device = true;
            let report = if failed { Report::DeviceFailed("test".into()) } else { Report::DeviceOpened };
            self.process(life, ProcessEvent::Reported(report));
        }
    }

    /// A process refuses what it was asked.
    pub fn refuse(&mut self, life: LifeId) {
        let process = self.processes.get_mut(&life).filter(|process| process.ending.is_none());
        let request = process.and_then(|process| {
            let request = process.open.take()?;
            if matches!(request, RequestKind::DirtyLog(_)) {
                process.logging = None;
            }
            Some(request)
        });
        if request.is_some() {
            self.process(life, ProcessEvent::Refused(problem("refused")));
        }
    }

    /// A process is gone: as it was ordered, or by itself.
    pub fn depart(&mut self, life: LifeId, reaped: bool) {
        let ordered = self.processes.get(&life).is_some_and(|process| process.ending.is_some());
        self.depart_as(life, reaped, !ordered);
    }

    /// A process is gone, by itself or not; it may have been ending before it was told to.
    pub fn depart_as(&mut self, life: LifeId, reaped: bool, by_itself: bool) {
        if self.processes.remove(&life).is_some() {
            if !reaped {
                self.hung.insert(life);
            }
            let departure = Departure { reaped, by_itself, problem: problem("it died"), last_lines: vec![] };
            self.process(life, ProcessEvent::Gone(departure));
        }
    }

    pub fn process(&mut self, life: LifeId, event: ProcessEvent) {
        self.unmapping.heard(life, &event);
        self.happen(Event::Process(life, event));
    }

    pub fn command(&mut self, command: Command) -> Ticket {
        if matches!(command, Command::SaveRestore | Command::Restart(_)) && self.machine.is_idle() {
            self.processes.values_mut().for_each(|process| process.checked = false);
        }
        let ticket = self.ticket();
        self.happen(Event::Command(ticket, command));
        ticket
    }

    pub fn run_out(&mut self, timer: Timer) {
        if self.timers.remove(&timer).is_some() {
            self.happen(Event::Timeout(timer));
        }
    }

    /// Whatever the machine waits for outside of processes comes about.
    pub fn serve(&mut self) {
        while let Some(action) = self.migration.actions.pop_front() {
            if self.serve_migration(action) {
                return;
            }
        }
        if self.serve_unmapping() {
            return;
        }
        if self.loads > 0 {
            self.loads -= 1;
            self.happen(Event::Loaded(Ok(())));
        } else if self.prepares > 0 {
            self.prepares -= 1;
            self.happen(Event::Prepared(Ok(())));
        } else if self.logs > 0 {
            self.logs -= 1;
            self.happen(Event::DirtyLogsOpened(Ok(())));
        } else if self.reconnects > 0 {
            self.reconnects -= 1;
            self.happen(Event::Reconnected(Ok(BTreeMap::new())));
        }
    }

    /// Everyone does what was ordered, until nothing is left to be done. Timers of boots run out, others do not.
    pub fn settle(&mut self) {
        for _ in 0..1000 {
            let before = self.events;
            self.serve();
            for life in self.processes.keys().copied().collect::<Vec<_>>() {
                if self.processes.get(&life).is_some_and(|process| process.ending.is_some()) {
                    self.depart(life, true);
                }
                self.fulfil(life);
                self.tell_of_device(life, false);
            }
            let boots: Vec<Timer> =
                self.timers.keys().copied().filter(|timer| matches!(timer, Timer::NextBoot(_))).collect();
            boots.into_iter().for_each(|timer| self.run_out(timer));
            if self.events == before {
                return;
            }
        }
        panic!("it never comes to rest: {:?}", self.machine);
    }
}
