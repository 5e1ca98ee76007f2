// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Executes the actions of the state machine. Nothing here waits for a process or a client: that goes to a task, and
//! what comes of it is an event; what is done at once has its event in `results`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipc::instance::InstanceId;
use ipc::protocol::control::{LoadFrom, Reply, Request};

use super::action::{Action, Ending, LoadSource, RequestKind, Success};
use super::dirty_logs::DirtyLogs;
use super::dirty_rate::Measurement;
use super::driver::{Moved, Reconnected, Vm, Waiting, refused};
use super::event::{self, Event, LifeId, Outcome, ProcessEvent, Ticket, Timer};
use super::loading::BootClock;
use super::saved_state::{NotKept, SavedState};
use super::snapshot;
use super::state_machine::{bug, names};
use crate::api::command::Command;
use crate::api::types::{ProbeRequest, RestartRequest, Restarted, SaveRestored, Stage, Status, UnitLen};
use crate::coordinator::objects::{self, Objects};
use crate::coordinator::own_time::Countdown;
use crate::coordinator::probe;
use crate::coordinator::process::TaskMessage;
use crate::problem::Problem;
use crate::system::{COORDINATOR_ID, MOVER};

/// What is measured for people: stages of a boot, and of a save/restore.
#[derive(Debug)]
pub(super) struct Stopwatch {
    pub(super) boot: BootClock,
    last: Instant,
    stages: Vec<Stage>,
}

impl Vm {
    pub(super) fn execute(&mut self, action: Action) {
        if !matches!(action, Action::Start(_)) {
            self.finish_launches();
        }
        match action {
            Action::Load => {
                if let Err(problem) = self.load() {
                    self.results.push_back(Event::Loaded(Err(problem)));
                }
            }
            Action::Prepare => {
                let prepared = self.prepare(Objects::for_generation);
                self.results.push_back(Event::Prepared(prepared));
            }
            Action::PrepareRestart(members) => {
                let prepared = self.prepare(|objects| objects.for_restart(&members));
                self.results.push_back(Event::Prepared(prepared));
            }
            Action::Commit => {
                if let (Some(shared), Some(next)) = (&mut self.current, self.next.take()) {
                    shared.objects = next;
                }
                self.programs.commit();
                self.saved.clear();
            }
            Action::KeepProgram => self.programs.commit(),
            Action::Abandon => {
                self.next = None;
                self.saved.clear();
            }
            Action::Reconnect => self.reconnect(),
            Action::Start(life) => {
                if let Err(problem) = self.start(life) {
                    self.results.push_back(Event::Process(life, ProcessEvent::NotStarted(problem)));
                }
            }
            Action::Renew(generation, members) => {
                self.revived = Some((generation, Instant::now()));
                let renewed = self.objects_of(generation).ok_or_else(|| bug("a process has no objects"));
                let renewed = renewed.and_then(|objects| objects.renew(&members));
                if let Err(problem) = renewed {
                    self.results.push_back(Event::Prepared(Err(problem)));
                }
            }
            Action::CloseLink(function) => {
                let sets = self.current.iter_mut().map(|shared| &mut shared.objects).chain(&mut self.next);
                sets.for_each(|objects| objects.close_link(function));
            }
            Action::CloseConnections(generation) => {
                let named = self.given.handover.named();
                let come_back = named.filter_map(|(id, device)| device.comes_back().then_some(id));
                let come_back: BTreeSet<InstanceId> = come_back.collect();
                if let Some(objects) = self.objects_of(generation) {
                    objects.close_connections(|id| come_back.contains(&id));
                }
            }
            Action::Request(life, request) => {
                if let Err(problem) = self.ask(life, request) {
                    self.results.push_back(Event::Process(life, ProcessEvent::Refused(problem)));
                }
            }
            Action::End(life, ending) => self.end(life, ending),
            Action::DmaEnded { smmu, device } => {
                if !self.let_go_of(device) {
                    tracing::error!(%device, "the host refuses to let go of {device}: its DMA may go on, and the guest's SMMU waits for it");
                } else if let Some(process) = self.processes.get(&smmu) {
                    process.send(TaskMessage::Notification(Request::DmaEnded { device }));
                }
            }
            Action::OpenDirtyLogs(epoch) => {
                let opened = self.open_dirty_logs(epoch);
                self.results.push_back(Event::DirtyLogsOpened(opened));
            }
            Action::Harvest => self.harvest(),
            Action::Migration(action) => self.migrate(action),
            Action::Arm(timer, span) => self.arm(timer, span),
            Action::Answer(ticket, result) => self.answer(ticket, result),
            Action::Lap(stage) => {
                self.clock.lap(stage);
                self.lap_of_migration(stage);
            }
            Action::Notify(notice) => self.notice(notice),
            Action::Release => self.release(),
        }
    }

    /// Makes the shared objects of the next set of processes, or of the next life of one, out of today's.
    fn prepare(&mut self, make: impl FnOnce(&Objects) -> Result<Objects, Problem>) -> Result<(), Problem> {
        self.clock.begin();
        let current = self.current.as_ref().ok_or_else(|| bug("the VM has no processes"))?;
        self.next = Some(make(&current.objects)?);
        Ok(())
    }

    fn open_dirty_logs(&mut self, epoch: u64) -> Result<(), Problem> {
        let current = self.current.as_ref().ok_or_else(|| bug("the VM has no processes"))?;
        match &mut self.migration {
            Some(migration) => migration.logs = Some(DirtyLogs::open(&current.objects, &self.layout, epoch)?),
            None => self.measurement = Some(Measurement::open(&current.objects, &self.layout, epoch)?),
        }
        Ok(())
    }

    fn harvest(&mut self) {
        if let Some(measurement) = &mut self.measurement {
            let machine = &self.machine;
            let lives = |life: LifeId| self.processes.contains_key(&life);
            measurement.harvest(|instance| machine.life_of(instance).is_some_and(lives));
        }
    }

    /// Whoever looks at what the processes log.
    fn dirty_logs(&mut self) -> Option<&mut DirtyLogs> {
        let migration = self.migration.as_mut().and_then(|migration| migration.logs.as_mut());
        migration.or(self.measurement.as_mut().map(|measurement| &mut measurement.logs))
    }

    pub(super) fn objects_of(&mut self, generation: u32) -> Option<&mut Objects> {
        let is_revived = self.revived.is_some_and(|(revived, _)| revived == generation);
        if generation > self.machine.generation() && !is_revived {
            return self.next.as_mut();
        }
        self.current.as_mut().map(|shared| &mut shared.objects)
    }

    fn ask(&mut self, life: LifeId, request: RequestKind) -> Result<(), Problem> {
        let (request, fds) = match request {
            RequestKind::Configure if life.instance == MOVER => {
                let migration = self.migration.as_ref().ok_or_else(|| bug("there is no migration"))?;
                (Request::Configure(migration.config(self.layout.clone())?), vec![])
            }
            RequestKind::Configure => {
                let current = self.current.as_ref().ok_or_else(|| bug("there is no configuration"))?;
                (Request::Configure(current.configs.of(life.instance)?), vec![])
            }
            RequestKind::Load(LoadSource::Reset) => (Request::Load(LoadFrom::Reset), vec![]),
            RequestKind::Load(LoadSource::Checkpoint) => (Request::Load(LoadFrom::Checkpoint), vec![]),
            RequestKind::Load(LoadSource::Failed) => (Request::Load(LoadFrom::Failed), vec![]),
            RequestKind::Load(LoadSource::Saved) => {
                let state = self.saved.get(&life.instance);
                let state =
                    state.ok_or_else(|| bug(format!("there is no saved state for {}", life.instance)))?;
                let from = LoadFrom::Units { len: state.len };
                (Request::Load(from), vec![state.memory_for(life.instance)?])
            }
            RequestKind::Arm => (Request::Arm, vec![]),
            RequestKind::Replay => (Request::Replay, vec![]),
            RequestKind::Go => (Request::Go, vec![]),
            RequestKind::Pause => (Request::Pause, vec![]),
            RequestKind::Resume => (Request::Resume, vec![]),
            RequestKind::CheckSave => (Request::CheckSave, vec![]),
            RequestKind::Save => {
                let (state, theirs) = SavedState::new(life.instance)?;
                self.saved.insert(life.instance, state);
                (Request::Save, vec![theirs])
            }
            RequestKind::Rewire(next) => {
                let objects = self.objects_of(next.generation);
                let objects = objects.ok_or_else(|| bug("there is no new channel"))?;
                let end = objects.take_end(life.instance, next.instance);
                let end = end.ok_or_else(|| bug(format!("{} has no new channel", life.instance)))?;
                (Request::Rewire { peer: next.instance, epoch: next.generation }, vec![end])
            }
            RequestKind::DirtyLog(op) => {
                if let Some(logs) = self.dirty_logs() {
                    logs.requested(life.instance);
                }
                (Request::DirtyLog(op), vec![])
            }
            RequestKind::Probe(probe) => (Request::Probe(probe), vec![]),
            RequestKind::HoldCpus(held) => (Request::HoldCpus { held }, vec![]),
        };
        if let Some(process) = self.processes.get(&life) {
            process.send(TaskMessage::Request(request, fds));
        }
        Ok(())
    }

    /// The host does DMA for a physical device as long as anybody holds its file.
    fn let_go_of(&mut self, device: InstanceId) -> bool {
        let shared = self.current.iter_mut().map(|shared| &mut shared.objects);
        let mut sets = shared.chain(&mut self.next);
        sets.all(|objects| objects.let_go_of(device))
            && objects::let_go_of(&mut self.given.objects, device, |object| *object)
    }

    fn end(&self, life: LifeId, ending: Ending) {
        if let Some(process) = self.processes.get(&life) {
            process.send(TaskMessage::End(ending));
        }
    }

    /// What a fulfilled request came to. None: the process has broken the contract, and is ended for it.
    pub(super) fn answered(&mut self, life: LifeId, reply: Reply) -> Option<ProcessEvent> {
        let outcome = match reply {
            Reply::Saved { len } => match self.saved.get_mut(&life.instance).map(|state| state.keep(len)) {
                Some(Ok(())) => Outcome::Saved(len),
                Some(Err(NotKept::Host(problem))) => return Some(ProcessEvent::Refused(problem)),
                Some(Err(NotKept::Claim(why))) => {
                    self.end(life, Ending::Failed(why));
                    return None;
                }
                None => return None,
            },
            Reply::Probe(outcome) => Outcome::Probed(outcome),
            Reply::Paused(in_flight) => Outcome::Paused(in_flight),
            Reply::Replayed(streams) => Outcome::Replayed(streams),
            Reply::DirtyLog(state) => {
                if let Some(logs) = self.dirty_logs() {
                    logs.said(life.instance, state);
                }
                Outcome::Done
            }
            // Its task passes on what answers the request.
            Reply::Done | Reply::Inspect(_) | Reply::Alive { .. } | Reply::Failed(_) => Outcome::Done,
        };
        Some(ProcessEvent::Answered(outcome))
    }

    fn arm(&mut self, timer: Timer, span: Duration) {
        if let (Timer::DirtyRate(_), Some(measurement)) = (timer, &mut self.measurement) {
            measurement.begin();
        }
        self.timers.spawn(async move {
            if timer.is_deadline() {
                Countdown::new(span).over().await;
            } else {
                tokio::time::sleep(span).await;
            }
            timer
        });
    }

    /// Has the launcher asked, by a task that holds it meanwhile.
    fn reconnect(&mut self) {
        let Some(mut launcher) = self.launcher.take() else { return };
        let mut objects = std::mem::take(&mut self.given.objects);
        let system = Arc::clone(&self.system);
        self.current = None;
        self.reconnecting.spawn(async move {
            let result = launcher.reopen_all(&system, &mut objects).await;
            Reconnected { launcher, objects, result }
        });
    }

    pub(super) fn reconnected(&mut self, reconnected: Reconnected) -> Event {
        let Reconnected { launcher, objects, result } = reconnected;
        let unreachable = snapshot::unreachable(&self.system, &launcher);
        self.launcher = Some(launcher);
        self.given.objects = objects;
        let result = result.map_err(|error| refused("connect to the server of a device", &error));
        Event::Reconnected(result.map(|()| unreachable))
    }

    /// A client's command, as the machine knows it. None: it is answered already.
    pub(super) fn command(&mut self, command: Command) -> Option<Event> {
        let (waiting, command) = match command {
            Command::Pause(answer) => (Waiting::Phase(answer), event::Command::Pause),
            Command::Resume(answer) => (Waiting::Phase(answer), event::Command::Resume),
            Command::SaveRestore(answer) => (Waiting::SaveRestore(answer), event::Command::SaveRestore),
            Command::Restart(RestartRequest { process, program: Some(path) }, answer) => {
                self.want_program(process, path, answer);
                return None;
            }
            Command::Restart(RestartRequest { process, program: None }, answer) => {
                (Waiting::Restart(answer), event::Command::Restart(process))
            }
            Command::Migrate(request, passed, answer) => {
                return self.begin_migration(request, passed, answer);
            }
            Command::DirtyRate(span, answer) => (Waiting::DirtyRate(answer), event::Command::DirtyRate(span)),
            Command::Probe(ProbeRequest { process, attempt }, answer) => {
                let made = probe::by_name(&attempt);
                if process == COORDINATOR_ID.to_string() {
                    let outcome = probe::attempt_here(&attempt).map(|outcome| probe::outcome(&outcome));
                    let _ = answer.send(outcome);
                    return None;
                }
                match made {
                    Ok(probe) => (Waiting::Probe(answer), event::Command::Probe(process, probe)),
                    Err(problem) => {
                        let _ = answer.send(Err(problem));
                        return None;
                    }
                }
            }
        };
        Some(Event::Command(self.issue(waiting), command))
    }

    /// Answers a client. One that has gone away does not want its answer.
    fn answer(&mut self, ticket: Ticket, result: Result<Success, Problem>) {
        self.programs.answered(ticket);
        match (self.waiting.remove(&ticket), result) {
            (Some(Waiting::Phase(answer)), Ok(Success::In(phase))) => {
                drop(answer.send(Ok(Status { phase, ..self.status() })));
            }
            (Some(Waiting::SaveRestore(answer)), Ok(Success::Moved(generation, units))) => {
                let units = unit_lens(units);
                let (stages, downtime_us) = self.clock.end();
                drop(answer.send(Ok(SaveRestored { generation, stages, units, downtime_us })));
            }
            (Some(Waiting::Restart(answer)), Ok(Success::Restarted(life, units))) => {
                let (stages, downtime_us) = self.clock.end();
                let LifeId { generation, instance } = life;
                let all = names(&units.iter().map(|(member, _)| *member).collect::<Vec<_>>());
                tracing::info!(processes = %all, generation, downtime_us, "{instance} was restarted");
                let (process, units) = (instance.to_string(), unit_lens(units));
                drop(answer.send(Ok(Restarted { process, generation, stages, units, downtime_us })));
            }
            (Some(Waiting::Restart(answer)), Ok(Success::Revived(LifeId { generation, instance }))) => {
                tracing::info!(process = %instance, generation, "the guest goes on");
                let (stages, units, process) = (Vec::new(), Vec::new(), instance.to_string());
                drop(answer.send(Ok(Restarted { process, generation, stages, units, downtime_us: 0 })));
            }
            (Some(Waiting::Migration(answer)), Ok(Success::Migrated)) => {
                let units = self.saved.iter().map(|(instance, state)| (*instance, state.len)).collect();
                let migrated = self.migration.as_ref().map(|migration| migration.migrated(units));
                // Answered when the VM is gone, as `stop` is.
                self.moved = migrated.map(|migrated| Moved { answer, migrated });
            }
            // Who has said that the guest runs elsewhere is answered when the VM is gone, too.
            (Some(Waiting::Phase(answer)), Ok(Success::Migrated)) => self.stopping.push(answer),
            (Some(Waiting::DirtyRate(answer)), Ok(Success::DirtyRateMeasured)) => {
                let measured = self.measurement.take().and_then(Measurement::measured);
                drop(answer.send(measured.ok_or_else(|| bug("nothing was measured"))));
            }
            (Some(Waiting::Probe(answer)), Ok(Success::Probed(outcome))) => {
                drop(answer.send(Ok(probe::outcome(&outcome))));
            }
            (Some(Waiting::Phase(answer)), result) => drop(answer.send(Err(failure(result)))),
            (Some(Waiting::SaveRestore(answer)), result) => drop(answer.send(Err(failure(result)))),
            (Some(Waiting::Restart(answer)), result) => drop(answer.send(Err(failure(result)))),
            (Some(Waiting::Migration(answer)), result) => {
                if self.machine.migration_state().is_none() {
                    self.migration = None;
                }
                drop(answer.send(Err(failure(result))));
            }
            (Some(Waiting::DirtyRate(answer)), result) => {
                self.measurement = None;
                drop(answer.send(Err(failure(result))));
            }
            (Some(Waiting::Probe(answer)), result) => drop(answer.send(Err(failure(result)))),
            (None, _) => {}
        }
    }

    /// Closes everything: images and connections are free for the next VM.
    fn release(&mut self) {
        self.reconnecting.abort_all();
        self.loading.abort_all();
        self.given.objects.clear();
        (self.current, self.next, self.migration) = (None, None, None);
        self.work.abort_all();
        self.saved.clear();
    }
}

fn unit_lens(units: Vec<(InstanceId, u64)>) -> Vec<UnitLen> {
    units.into_iter().map(|(instance, len)| UnitLen { process: instance.to_string(), len }).collect()
}

fn failure(result: Result<Success, Problem>) -> Problem {
    result.err().unwrap_or_else(|| bug("a command has another command's answer"))
}

impl Stopwatch {
    pub fn new(now: Instant) -> Self {
        Self { boot: BootClock::new(now), last: now, stages: Vec::new() }
    }

    /// Starts timing the stages of a boot.
    pub fn begin_boot(&mut self) {
        self.boot.begin();
    }

    /// Its guest is loaded.
    pub fn loaded(&mut self) {
        self.boot.loaded();
    }

    /// A save/restore begins, or a migration.
    pub fn begin(&mut self) {
        self.last = Instant::now();
        self.stages.clear();
    }

    fn lap(&mut self, name: &str) {
        let now = Instant::now();
        let took_us = micros(now.saturating_duration_since(self.last));
        self.stages.push(Stage { name: name.to_owned(), took_us });
        self.last = now;
    }

    /// Its stages, and how long the guest did not run: all of them but the first.
    fn end(&mut self) -> (Vec<Stage>, u64) {
        let stages = std::mem::take(&mut self.stages);
        let downtime_us = stages.iter().skip(1).map(|stage| stage.took_us).sum();
        (stages, downtime_us)
    }
}

pub(super) fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}
