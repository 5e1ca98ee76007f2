// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The one task that owns a VM: it takes commands, hears events, and decides. Everything else asks it.
//!
//! It does one thing at a time, so no two operations on the guest ever overlap. Each operation asks the life
//! cycle first; a process that is lost in the middle of one ends the VM with a report. What readers may know
//! is published as a whole after every change ([`Vm::publish`], in `vm/picture.rs`).

mod picture;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use ipc::protocol::control::{Event, Reply, Request};
use ipc::protocol::ram::RamLayout;
use ipc::shm::guest_memory;
use sandbox::Locked;
use tokio::sync::watch;

use super::handover::Handover;
use super::inspected;
use super::launcher::Launcher;
use super::logs;
use super::objects::Objects;
use super::probe;
use super::process::{Fault, Lost};
use super::process_set::ProcessSet;
use super::roles::{self, Configs};
use crate::api::command::{Command, Picture};
use crate::api::types::{Inspected, Limits, ProbeAnswer, ProbeRequest, SaveRestored};
use crate::config::OnReset;
use crate::lifecycle::{Phase, Step, Why};
use crate::machine::{MachineConfig, boot};
use crate::problem::{Class, Problem};
use crate::snapshot;
use crate::topology::{self, Object, Restart, Size};

/// A guest that resets at once again and again must not turn the host into a process starter.
const BOOT_SPAN_MIN: Duration = Duration::from_secs(1);

/// What the launcher handed over.
#[derive(Debug)]
pub struct Given {
    /// The configuration.
    pub handover: Handover,
    /// The guest's kernel.
    pub kernel: File,
    /// The guest's initramfs.
    pub initramfs: Option<File>,
    /// What goes on to the processes.
    pub objects: BTreeMap<Object, OwnedFd>,
}

/// A VM.
#[derive(Debug)]
pub struct Vm {
    given: Given,
    enforced: Vec<String>,
    /// The coordinator's own.
    limits: Limits,
    layout: RamLayout,
    started: Instant,
    booted: Instant,
    phase: Phase,
    generation: u32,
    reset_count: u32,
    /// The guest asked for a reset just before it was paused.
    reset_due: bool,
    running: Option<Running>,
    picture: watch::Sender<Picture>,
    launcher: Launcher,
}

/// What exists while processes do.
#[derive(Debug)]
struct Running {
    objects: Objects,
    configs: Configs,
    set: ProcessSet,
}

impl Vm {
    /// A VM without processes. The proof of being sealed is demanded before anything of the guest is looked at.
    pub fn new(given: Given, locked: &Locked, launcher: Launcher) -> Result<Self, Problem> {
        let layout = roles::ram_layout(given.handover.memory_len)?;
        let enforced = locked.enforced().lines();
        let shape = given.handover.shape();
        let held = |object| given.objects.get(&object).map(AsFd::as_fd);
        let size = Size::measure(&shape, given.handover.memory_len, held)
            .map_err(|error| refused("measure an image", &error))?;
        let limits = Limits::of(&topology::COORDINATOR.profile_of(&shape, size));
        let now = Instant::now();
        let mut vm = Self {
            given,
            enforced,
            limits,
            layout,
            started: now,
            booted: now,
            phase: Phase::Created,
            generation: 0,
            reset_count: 0,
            reset_due: false,
            running: None,
            picture: watch::channel(Picture {
                status: picture::nothing(),
                started: now,
                processes: Vec::new(),
            })
            .0,
            launcher,
        };
        vm.publish();
        Ok(vm)
    }

    /// Where readers look.
    pub fn picture(&self) -> watch::Receiver<Picture> {
        self.picture.subscribe()
    }

    /// The reason for the end, once there is one.
    pub const fn ended(&self) -> Option<&Why> {
        match &self.phase {
            Phase::Stopped { why } => Some(why),
            _ => None,
        }
    }

    /// Loads the guest, starts every process, and lets the guest run.
    pub async fn boot(&mut self) {
        if let Err(fault) = self.try_boot().await {
            self.end_by(fault).await;
        }
        self.publish();
    }

    async fn try_boot(&mut self) -> Result<(), Fault> {
        let begun = Instant::now();
        self.booted = begun;
        let mut objects = Objects::for_boot(
            &self.given.handover.name,
            &self.given.objects,
            &self.given.handover.shape(),
            &self.layout,
        )?;
        let configs = self.load(&objects)?;
        let loaded = begun.elapsed();
        self.generation = self.generation.saturating_add(1);
        let set = ProcessSet::start(self.generation, &objects, &configs).await?;
        objects.close_connections();
        let running = self.running.insert(Running { objects, configs, set });
        running.set.begin().await?;
        self.phase = self.phase.after(Step::Start)?;
        tracing::info!(
            vm = %self.given.handover.name,
            generation = self.generation,
            load_ms = millis(loaded),
            start_ms = millis(begun.elapsed().saturating_sub(loaded)),
            "guest runs"
        );
        Ok(())
    }

    /// Puts kernel, initramfs and device tree into fresh RAM.
    fn load(&mut self, objects: &Objects) -> Result<Configs, Problem> {
        let memory = guest_memory::map(objects.ram(), &self.layout)
            .map_err(|error| refused("map guest RAM", &error))?;
        let mut rng_seed = [0; 64];
        rustix::rand::getrandom(&mut rng_seed, rustix::rand::GetRandomFlags::empty())
            .map_err(|error| refused("give random bytes", &error))?;
        let config = MachineConfig {
            ram_len: self.given.handover.memory_len,
            vcpu_count: self.given.handover.vcpu_count.into(),
            cmdline: self.given.handover.cmdline.clone(),
            rng_seed,
            pmu: self.given.handover.pmu,
            nested_slots: self.given.handover.nested_slots(),
        };
        let boot = boot::load(&memory, &self.given.kernel, self.given.initramfs.as_ref(), &config)
            .map_err(|error| self.given.handover.not_loaded(&error))?;
        Configs::new(&self.given.handover, &self.layout, boot, |name| objects.device_number(name))
    }

    /// Carries out one command.
    pub async fn command(&mut self, command: Command) {
        // A client that has gone away does not want its answer; the command has been carried out all the same.
        match command {
            Command::Pause(answer) => {
                let result = self.pause().await;
                let _ = answer.send(result.map(|()| self.status()));
            }
            Command::Resume(answer) => {
                let result = self.resume().await;
                let _ = answer.send(result.map(|()| self.status()));
            }
            Command::Stop(answer) => {
                let result = self.begin_stop();
                let _ = answer.send(result.map(|()| self.status()));
                self.stop(Why::Asked).await;
            }
            Command::SaveRestore(answer) => {
                let result = self.save_restore().await;
                let _ = answer.send(result);
            }
            Command::Inspect(answer) => {
                let result = self.inspect().await;
                let _ = answer.send(result);
            }
            Command::Probe(request, answer) => {
                let result = self.probe(&request).await;
                let _ = answer.send(result);
            }
        }
        self.publish();
    }

    async fn pause(&mut self) -> Result<(), Problem> {
        let after = self.phase.after(Step::Pause)?;
        if let Some(running) = &mut self.running
            && let Err(fault) = running.set.pause().await
        {
            return Err(self.fail(fault).await);
        }
        self.phase = after;
        Ok(())
    }

    async fn resume(&mut self) -> Result<(), Problem> {
        let after = self.phase.after(Step::Resume)?;
        if let Some(running) = &mut self.running
            && let Err(fault) = running.set.resume().await
        {
            return Err(self.fail(fault).await);
        }
        self.phase = after;
        if std::mem::take(&mut self.reset_due) {
            self.reset().await;
        }
        Ok(())
    }

    fn begin_stop(&mut self) -> Result<(), Problem> {
        self.phase = self.phase.after(Step::Stop)?;
        self.publish();
        Ok(())
    }

    /// Ends every process in order, and the VM with `why`.
    pub async fn stop(&mut self, why: Why) {
        if let Some(running) = self.running.take() {
            running.set.finish().await;
        }
        if let Ok(after) = self.phase.after(Step::End(why)) {
            self.phase = after;
        }
        self.publish();
    }

    /// Moves the paused guest into new processes. On failure the old ones are there, paused, if they live.
    async fn save_restore(&mut self) -> Result<SaveRestored, Problem> {
        if self.phase != Phase::Running {
            // The same words as for any other step that needs a running guest.
            return Err(Problem::new(
                Class::State,
                format!("a VM that is {} cannot be saved and restored", self.phase.word()),
                "life cycle",
                "let it run first",
            ));
        }
        let Some(Running { objects, configs, mut set }) = self.running.take() else {
            return Err(refused("find the processes", &"there are none"));
        };
        let generation = self.generation.saturating_add(1);
        match snapshot::move_to_new_processes(&mut set, generation, &objects, &configs).await {
            Ok(moved) => {
                let done = SaveRestored { generation, ..moved.report };
                self.generation = generation;
                self.running = Some(Running { objects: moved.objects, configs, set: moved.set });
                set.discard().await;
                Ok(done)
            }
            Err(snapshot::Failed { fault: Fault::Lost(lost), .. }) => {
                let problem = lost.problem.clone();
                self.running = Some(Running { objects, configs, set });
                self.end_by(Fault::Lost(lost)).await;
                Err(problem)
            }
            Err(snapshot::Failed { fault: Fault::Refused(problem), paused }) => {
                self.running = Some(Running { objects, configs, set });
                if paused {
                    self.phase = Phase::Paused;
                }
                Err(Problem {
                    advice: format!("{}; the guest is {}", problem.advice, self.phase.word()),
                    ..problem
                })
            }
        }
    }

    /// What every process tells about itself.
    async fn inspect(&mut self) -> Result<Vec<Inspected>, Problem> {
        let mut all = Vec::new();
        for process in self.running.iter_mut().flat_map(|running| running.set.iter_mut()) {
            match process.ask(Request::Inspect).await {
                Ok(Reply::Inspect(told)) => all.push(inspected::of(process.row.name, &told)),
                Ok(other) => return Err(refused("inspect", &format!("the process answers {other:?}"))),
                Err(fault) => return Err(self.fail(fault).await),
            }
        }
        Ok(all)
    }

    /// Makes a process attempt what its sandbox refuses; the coordinator itself too.
    async fn probe(&mut self, request: &ProbeRequest) -> Result<ProbeAnswer, Problem> {
        if request.process == topology::COORDINATOR.name {
            return probe::attempt_here(&request.attempt).map(|outcome| probe::outcome(&outcome));
        }
        let attempt = probe::by_name(&request.attempt)?;
        let Some(process) = self.running.as_mut().and_then(|running| running.set.named_mut(&request.process))
        else {
            return Err(Problem::usage(
                format!("there is no process called {:?}", logs::printable(request.process.as_bytes())),
                "process",
                "`bulkhead ps` lists them",
            ));
        };
        match process.ask(Request::Probe(attempt)).await {
            Ok(Reply::Probe(outcome)) => Ok(probe::outcome(&outcome)),
            Ok(other) => Err(refused("probe", &format!("the process answers {other:?}"))),
            Err(fault) => Err(self.fail(fault).await),
        }
    }

    /// Waits for the next thing that a process says or suffers. Cancel-safe; never returns without processes.
    pub async fn next_event(&self) -> Happening {
        match &self.running {
            Some(running) => {
                let (index, outcome) = running.set.next().await;
                Happening {
                    generation: self.generation,
                    index,
                    outcome: outcome.map_err(|error| error.to_string()),
                }
            }
            None => std::future::pending().await,
        }
    }

    /// Decides about what a process said or suffered.
    pub async fn happened(&mut self, happening: Happening) {
        let Happening { generation, index, outcome } = happening;
        if generation != self.generation {
            return;
        }
        match outcome {
            Ok(Event::GuestPoweredOff) => {
                tracing::info!("guest switched itself off");
                self.stop(Why::GuestPoweredOff).await;
            }
            // A paused VM stays as it is; the reset comes when it goes on.
            Ok(Event::GuestReset) if self.phase == Phase::Paused => self.reset_due = true,
            Ok(Event::GuestReset) => self.reset().await,
            Ok(Event::Sealed(_)) => {
                self.lose(index, "it says a second time that it is sealed".to_owned()).await
            }
            Ok(Event::Fatal(reason)) => self.lose(index, reason).await,
            Ok(Event::PeerFailed { name, why }) => self.lose_named(&name, why).await,
            Err(error) => self.lose(index, error).await,
        }
        self.publish();
    }

    /// A reset is a boot: new RAM, new processes, the same kernel. Nothing of the guest's last life survives it.
    async fn reset(&mut self) {
        tracing::info!("guest asked for a reset");
        if self.given.handover.on_reset == OnReset::Exit {
            return self.stop(Why::GuestReset).await;
        }
        let after = match self.phase.after(Step::Reset) {
            Ok(after) => after,
            Err(problem) => return self.end_by(Fault::Refused(problem)).await,
        };
        self.phase = after;
        self.reset_count = self.reset_count.saturating_add(1);
        self.publish();
        if let Some(running) = self.running.take() {
            running.set.finish().await;
        }
        let kinds = self.given.handover.shape().devices;
        if let Err(error) = self.launcher.reopen_all(&kinds, &mut self.given.objects).await {
            let problem = refused("stand in for a device's server", &error);
            return self.end_by(Fault::Refused(problem)).await;
        }
        tokio::time::sleep(BOOT_SPAN_MIN.saturating_sub(self.booted.elapsed())).await;
        self.boot().await;
    }

    /// Decides about a process that is lost: its row says how.
    async fn lose(&mut self, index: usize, said: String) {
        let Some(process) = self.running.as_mut().and_then(|running| running.set.at_mut(index)) else {
            return self.end_by(Fault::Refused(refused("find a process that has ended", &said))).await;
        };
        let rule = process.row.restart;
        let fault = process.lost(&said).await;
        match rule {
            Restart::EndsVm => self.end_by(fault).await,
            Restart::DeviceFails => {
                tracing::error!("{}; the guest goes on without that device", fault.into_problem().what);
                if let Some(running) = &mut self.running {
                    running.set.remove(index).await;
                }
            }
        }
    }

    /// Decides about a process that another one says has failed. One that is gone already has been decided about.
    async fn lose_named(&mut self, name: &str, why: String) {
        let set = self.running.as_ref().map(|running| &running.set);
        if let Some(index) = set.and_then(|set| set.iter().position(|process| process.row.name == name)) {
            self.lose(index, logs::printable(why.as_bytes())).await;
        }
    }

    /// A refusal leaves the VM as it is; a loss ends it.
    async fn fail(&mut self, fault: Fault) -> Problem {
        match fault {
            Fault::Refused(problem) => problem,
            Fault::Lost(lost) => {
                let problem = lost.problem.clone();
                self.end_by(Fault::Lost(lost)).await;
                problem
            }
        }
    }

    /// Ends the VM because of `fault`.
    async fn end_by(&mut self, fault: Fault) {
        let Lost { problem, last_lines } = match fault {
            Fault::Lost(lost) => lost,
            Fault::Refused(problem) => Lost { problem, last_lines: Vec::new() },
        };
        self.stop(Why::Failed { problem, last_lines }).await;
    }
}

/// Something that a process of some generation said or suffered.
#[derive(Debug)]
pub struct Happening {
    generation: u32,
    index: usize,
    outcome: Result<Event, String>,
}

impl From<Problem> for Fault {
    fn from(problem: Problem) -> Self {
        Self::Refused(problem)
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn refused(what: &'static str, error: &dyn std::fmt::Display) -> Problem {
    Problem::host(format!("the host refuses to {what}: {error}"), "coordinator", "check the host's limits")
}
