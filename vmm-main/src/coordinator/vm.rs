// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The one task that owns a VM: it takes commands, hears events, and decides. Everything else asks it.
//!
//! It does one thing at a time, so no two operations on the guest ever overlap. Each operation asks the life
//! cycle first; what becomes of a process that is lost in the middle of one is its row's rule. An order to stop waits for
//! none of them: [`Vm::live`] may be given up at any wait, since [`Vm`] holds at each of them all processes that there
//! are, and [`Vm::stop`] ends what it finds. What readers may know is published as a whole after every change
//! ([`Vm::publish`], in `vm/picture.rs`).

mod commands;
mod events;
mod picture;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipc::instance::InstanceId;
use ipc::protocol::ram::RamLayout;
use ipc::shm::guest_memory;
use machine::{MachineConfig, boot};
use sandbox::Locked;
use tokio::sync::{mpsc, watch};

use super::handover::Handover;
use super::launcher::Launcher;
use super::objects::Objects;
use super::process::Fault;
use super::process_set::ProcessSet;
use super::roles::{self, Configs};
use crate::api::command::{Command, Picture};
use crate::api::types::{Limits, Status};
use crate::lifecycle::{Phase, Step, Why};
use crate::lifeline::Up;
use crate::problem::Problem;
use crate::system::{ObjectId, Size, System};

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
    pub objects: BTreeMap<ObjectId, OwnedFd>,
}

/// A VM.
#[derive(Debug)]
pub struct Vm {
    given: Given,
    system: Arc<System>,
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
    /// Devices that the guest has lost since it booted, or did not find, by their process, and why.
    lost_devices: BTreeMap<InstanceId, String>,
    running: Option<Running>,
    /// What began the end.
    ending: Option<Why>,
    /// Processes that hang in the kernel after the end, with all that they hold.
    left: Vec<InstanceId>,
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
        let system = Arc::new(System::new(&given.handover.shape()));
        let held = |object| given.objects.get(&object).map(AsFd::as_fd);
        let size = Size::measure(&system, given.handover.memory_len, held)
            .map_err(|error| refused("measure an image", &error))?;
        let limits = Limits::of(&system.profile_of(system.coordinator(), size));
        let now = Instant::now();
        let mut vm = Self {
            given,
            system,
            enforced,
            limits,
            layout,
            started: now,
            booted: now,
            phase: Phase::Created,
            generation: 0,
            reset_count: 0,
            reset_due: false,
            lost_devices: BTreeMap::new(),
            running: None,
            ending: None,
            left: Vec::new(),
            picture: watch::channel(Picture {
                status: picture::nothing(),
                started: now,
                processes: Vec::new(),
                inspectors: Vec::new(),
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

    /// Boots, then takes commands and hears events until the VM has ended. May be given up at any wait, for [`Self::stop`].
    pub async fn live(&mut self, commands: &mut mpsc::Receiver<Command>) {
        self.boot().await;
        if self.ended().is_none() {
            self.launcher.tell(Up::Running).await;
        }
        while self.ended().is_none() {
            // Both arms are cancel-safe: a queue, and `next_event`, which says that it is.
            tokio::select! {
                Some(command) = commands.recv() => self.command(command).await,
                event = self.next_event() => self.react(event).await,
            }
        }
    }

    /// Ends every process in order, and the VM with `why`, or with what began its end before; within
    /// [`super::process_set::STOP_SPAN`] whatever the processes do. Everything that was handed over is closed then.
    pub async fn stop(&mut self, why: Why) {
        let why = self.ending.get_or_insert(why).clone();
        if let Ok(after) = self.phase.after(Step::Stop) {
            self.phase = after;
            self.publish();
        }
        if let Some(running) = &mut self.running {
            self.left = running.set.finish().await;
        }
        if !self.left.is_empty() {
            tracing::error!(processes = %names(&self.left), "killed, and not gone: they hang in the kernel");
        }
        self.running = None;
        // Images and connections are free for the next VM.
        self.given.objects.clear();
        if let Ok(after) = self.phase.after(Step::End(why)) {
            self.phase = after;
        }
        self.publish();
    }

    /// What whoever asked for the end is answered, once it is there.
    pub fn outcome(&self) -> Result<Status, Problem> {
        if self.left.is_empty() {
            return Ok(self.status());
        }
        Err(Problem::host(
            format!("{} cannot be killed: what they hold is still in use", names(&self.left)),
            "stop",
            "look what the host's disks and devices are waiting for",
        ))
    }

    /// Loads the guest, starts every process, and lets the guest run.
    async fn boot(&mut self) {
        if let Err(fault) = self.try_boot().await {
            self.end_by(fault).await;
        }
        self.publish();
    }

    async fn try_boot(&mut self) -> Result<(), Fault> {
        let begun = Instant::now();
        self.booted = begun;
        self.lost_devices.clear();
        let objects =
            Objects::for_boot(&self.given.handover.name, &self.given.objects, &self.system, &self.layout)?;
        let configs = self.load(&objects)?;
        let loaded = begun.elapsed();
        self.generation = self.generation.saturating_add(1);
        let set = ProcessSet::new(self.generation);
        let Running { objects, configs, set } = self.running.insert(Running { objects, configs, set });
        let lost = set.start(objects, configs).await?;
        objects.close_connections();
        for lost in lost {
            self.survive(Fault::Lost(lost)).await?;
        }
        // Opening the devices may take a while: who looks sees the processes meanwhile.
        self.publish();
        let lost = loop {
            let Some(running) = &mut self.running else { return Err(no_processes().into()) };
            match running.set.begin(|id| self.given.handover.requires(id)).await {
                Ok(lost) => break lost,
                // A process that costs its device only is given up; the others have begun, and begin again for nothing.
                Err(fault) => self.survive(fault).await?,
            }
        };
        for (id, reason) in lost {
            self.lose_device(id, &reason)?;
        }
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
        Configs::new(&self.given.handover, &self.system, &self.layout, boot, |id| objects.device_number(id))
    }
}

impl From<Problem> for Fault {
    fn from(problem: Problem) -> Self {
        Self::Refused(problem)
    }
}

/// The names of processes, in a sentence.
fn names(ids: &[InstanceId]) -> String {
    ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn no_processes() -> Problem {
    Problem::host("the VM has no processes", "coordinator", "report this as a bug")
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn refused(what: &'static str, error: &dyn std::fmt::Display) -> Problem {
    Problem::host(format!("the host refuses to {what}: {error}"), "coordinator", "check the host's limits")
}
