// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Save and restore inside one VM: the guest moves into a new set of processes, its RAM stays where it is.
//!
//! ```text
//! start a new set ─► pause ─► save (a memory file per process) ─► restore ─► resume the new set
//!                      └──── any failure from here on: the old set is still paused and whole ────┘
//! ```
//!
//! This is a migration without a wire: the same requests, the same state units, the same order (CPUs stop
//! first; devices are restored and resumed before CPUs). Old and new never run at the same time, and the old
//! set is ended only after the new one runs.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipc::instance::InstanceId;
use ipc::protocol::control::{Reply, Request, SAVED_LEN_MAX};
use ipc::shm::memory_file;
use rustix::fs::{SealFlags, fcntl_add_seals};

use crate::api::types::{SaveRestored, Stage, UnitLen};
use crate::coordinator::objects::Objects;
use crate::coordinator::process::{Fault, Process};
use crate::coordinator::process_set::ProcessSet;
use crate::coordinator::roles::Configs;
use crate::problem::{Class, Problem};
use crate::system::Instance;

/// What one process saved: a memory file that nobody can change any more.
#[derive(Debug)]
pub struct SavedState {
    /// The process.
    pub process: InstanceId,
    /// The units.
    pub memory: OwnedFd,
    /// Their length.
    pub len: u64,
}

/// The new set, running.
#[derive(Debug)]
pub struct Moved {
    /// Its processes.
    pub set: ProcessSet,
    /// What they share.
    pub objects: Objects,
    /// How it went.
    pub report: SaveRestored,
}

/// A move that did not succeed.
#[derive(Debug)]
pub struct Failed {
    /// Why.
    pub fault: Fault,
    /// Whether the old set stands still now.
    pub paused: bool,
}

/// Moves the guest of the running `old` set into new processes. Afterwards `old` is paused; the caller ends it.
pub async fn move_to_new_processes(
    old: &mut ProcessSet,
    generation: u32,
    objects: &Objects,
    configs: &Configs,
) -> Result<Moved, Failed> {
    let missing = |wanted: &&Arc<Instance>| !old.iter().any(|process| process.instance.id == wanted.id);
    if let Some(lost) = objects.system().processes().iter().find(missing) {
        let problem = Problem::new(
            Class::State,
            format!("process {} is lost, and its device with it: the VM cannot be saved", lost.id),
            lost.id.to_string(),
            "start the VM again to have the device back",
        );
        return Err(Failed { fault: Fault::Refused(problem), paused: false });
    }
    let mut clock = Clock::start();
    // While the guest still runs: what takes longest costs it nothing. A new process that dies does not take the
    // guest with it, the old set is whole: its loss is a refusal.
    let running = |fault| Failed { fault: survivable(fault), paused: false };
    let mut objects = objects.for_generation().map_err(|problem| running(problem.into()))?;
    let mut set = ProcessSet::new(generation);
    let started = set.start(&objects, configs).await;
    let lost = started.and_then(|lost| lost.into_iter().next().map_or(Ok(()), |lost| Err(Fault::Lost(lost))));
    if let Err(fault) = lost {
        set.discard().await;
        return Err(running(fault));
    }
    objects.close_connections();
    clock.lap("start new processes");
    let paused = Instant::now();
    if let Err(fault) = old.pause().await {
        set.discard().await;
        return Err(Failed { fault, paused: false });
    }
    clock.lap("pause");
    match hand_over(old, &mut set, &mut clock).await {
        Ok(saved) => {
            let units = saved
                .iter()
                .map(|state| UnitLen { process: state.process.to_string(), len: state.len })
                .collect();
            let downtime_us = micros(paused.elapsed());
            Ok(Moved {
                set,
                objects,
                report: SaveRestored { generation, stages: clock.stages, units, downtime_us },
            })
        }
        Err(fault) => {
            set.discard().await;
            Err(Failed { fault, paused: true })
        }
    }
}

/// From the paused old set into the configured new one, until that runs.
async fn hand_over(
    old: &mut ProcessSet,
    new: &mut ProcessSet,
    clock: &mut Clock,
) -> Result<Vec<SavedState>, Fault> {
    // The guest's last word before the pause (a power-off, a reset) is not in any saved state.
    if old.has_event().await {
        return Err(Fault::Refused(Problem::new(
            Class::State,
            "the guest has just asked to be switched off or reset",
            "save",
            "ask again when that is done",
        )));
    }
    let saved = save(old).await?;
    clock.lap("save");
    restore(new, &saved).await.map_err(survivable)?;
    clock.lap("restore");
    if let Some((device, reason)) = new.begin(|_| true).await.map_err(survivable)?.pop() {
        return Err(Fault::Refused(Problem::new(
            Class::State,
            format!("the device {device} does not come along: {reason}"),
            "restore",
            "the guest is where it was",
        )));
    }
    clock.lap("resume");
    Ok(saved)
}

fn survivable(fault: Fault) -> Fault {
    Fault::Refused(fault.into_problem())
}

/// Lets every paused process write its state units.
pub async fn save(set: &mut ProcessSet) -> Result<Vec<SavedState>, Fault> {
    let mut saved = Vec::new();
    for process in set.iter_mut() {
        saved.push(save_one(process).await?);
    }
    Ok(saved)
}

async fn save_one(process: &mut Process) -> Result<SavedState, Fault> {
    let name = process.instance.id;
    let refuse = |error: &dyn std::fmt::Display| {
        Fault::Refused(Problem::host(
            format!("the state of {name} cannot be kept: {error}"),
            "save",
            "check the limits on memory and open files",
        ))
    };
    let memory = memory_file::create(&format!("saved-{name}")).map_err(|error| refuse(&error))?;
    let theirs = memory.try_clone().map_err(|error| refuse(&error))?;
    let len = match process.ask_with(Request::Save, &[theirs]).await? {
        Reply::Saved { len } => len,
        other => return Err(process.lost(&format!("asked to save its state: it answers {other:?}")).await),
    };
    // From here on the process cannot change what it has said.
    let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    fcntl_add_seals(&memory, seals).map_err(|error| refuse(&error))?;
    let held = File::from(memory.as_fd().try_clone_to_owned().map_err(|error| refuse(&error))?)
        .metadata()
        .map_err(|error| refuse(&error))?
        .len();
    if len > held || len > SAVED_LEN_MAX {
        return Err(process.lost(&format!("it claims {len:#x} bytes of state and wrote {held:#x}")).await);
    }
    Ok(SavedState { process: name, memory, len })
}

/// Gives every configured process its state: devices before CPUs.
pub async fn restore(set: &mut ProcessSet, saved: &[SavedState]) -> Result<(), Fault> {
    for process in set.iter_mut().rev() {
        let name = process.instance.id;
        let Some(state) = saved.iter().find(|state| state.process == name) else {
            return Err(Fault::Refused(Problem::host(
                format!("there is no saved state for {name}"),
                "restore",
                "report this as a bug",
            )));
        };
        let memory = state.memory.try_clone().map_err(|error| {
            Fault::Refused(Problem::host(
                format!("the state of {name} cannot be passed on: {error}"),
                "restore",
                "check the limit on open files",
            ))
        })?;
        match process.ask_with(Request::Restore { len: state.len }, &[memory]).await? {
            Reply::Done => {}
            other => {
                return Err(process.lost(&format!("asked to restore a state: it answers {other:?}")).await);
            }
        }
    }
    Ok(())
}

/// Times the stages.
struct Clock {
    last: Instant,
    stages: Vec<Stage>,
}

impl Clock {
    fn start() -> Self {
        Self { last: Instant::now(), stages: Vec::new() }
    }

    fn lap(&mut self, name: &str) {
        let now = Instant::now();
        let took_us = micros(now.saturating_duration_since(self.last));
        self.stages.push(Stage { name: name.to_owned(), took_us });
        self.last = now;
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}
