// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Launching a process: its channel, crash page and log, exactly its descriptors, its sandbox profile.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use ipc::channel;
use ipc::instance::InstanceId;
use sandbox::report::CrashPage;
use sandbox::spawn::{Spawn, Starting};

use super::ending::Running;
use crate::api::types;
use crate::coordinator::logs::Log;
use crate::coordinator::objects::Objects;
use crate::problem::Problem;
use crate::system::{EdgeKind, Instance};

/// A process on its way to its program.
#[derive(Debug)]
pub struct Launching {
    instance: Arc<Instance>,
    generation: u32,
    starting: Starting,
    crash: CrashPage,
    log: Log,
    channel: OwnedFd,
    limits: types::Limits,
}

impl Launching {
    /// Waits until it executes its program. To be called within a runtime.
    pub fn finish(self) -> Result<Launched, Problem> {
        let Self { instance, generation, starting, crash, log, channel, limits } = self;
        let id = instance.id;
        let child = starting.finish().map_err(|error| refused(id, "spawn", &error))?;
        let mut running = Running::new(child, instance, generation, crash, log);
        running.watch().map_err(|error| refused(id, "watch it", &error))?;
        Ok(Launched { running, channel, limits })
    }
}

/// A process that was just spawned.
#[derive(Debug)]
pub struct Launched {
    /// The running process.
    pub(super) running: Running,
    /// Our end of its control channel, before hello.
    pub(super) channel: OwnedFd,
    /// Its resource limits.
    pub limits: types::Limits,
}

impl Launched {
    /// Its process id in the coordinator's namespace.
    pub const fn pid(&self) -> i32 {
        self.running.pid()
    }
}

/// Spawns a process of the system, which runs the file `given`, or else the table's program; does not wait for it. To
/// be called within a runtime.
pub fn launch(
    instance: &Arc<Instance>,
    generation: u32,
    objects: &Objects,
    given: Option<BorrowedFd<'_>>,
) -> Result<Launching, Problem> {
    let (id, program) = (instance.id, instance.template.program);
    let refuse = |step: &'static str, error: &dyn std::fmt::Display| refused(id, step, error);
    let crash = CrashPage::create().map_err(|error| refuse("make the crash page", &error))?;
    let (ours, theirs) = channel::pair().map_err(|error| refuse("make the channel", &error))?;
    let (log, log_theirs) = std::io::pipe().map_err(|error| refuse("make the log pipe", &error))?;
    let log_theirs = OwnedFd::from(log_theirs);

    let mut fds = Vec::new();
    for descriptor in &instance.descriptors {
        let source = match descriptor.object.kind {
            EdgeKind::Control => theirs.as_fd(),
            EdgeKind::CrashPage => crash.as_fd(),
            EdgeKind::Log => log_theirs.as_fd(),
            _ => objects
                .end_of(descriptor)
                .ok_or_else(|| refuse("find its objects", &format!("there is no {}", descriptor.slot)))?,
        };
        fds.push((descriptor.slot.to_string(), source));
    }
    let file = given
        .or_else(|| objects.get(objects.system().program(program)?))
        .ok_or_else(|| refuse("find its program", &program))?;
    let words = [program, &id.to_string(), &generation.to_string()]
        .map(|word| CString::new(word).unwrap_or_default());
    let argv: Vec<_> = words.iter().map(CString::as_c_str).collect();
    let size = objects.size().map_err(|error| refuse("measure its image", &error))?;
    let profile = objects.system().profile_of(instance, size);
    let log = Log::follow(id, generation, log.into()).map_err(|error| refuse("follow its log", &error))?;
    let starting =
        Spawn { program: file, argv: &argv, fds: &fds, profile: &profile, own_id: None, cgroup: None }
            .begin()
            .map_err(|error| refuse("spawn", &error))?;
    let limits = types::Limits::of(&profile);
    // The process holds the only copies of its ends now: end of file means that it is gone.
    drop((theirs, log_theirs));
    Ok(Launching { instance: Arc::clone(instance), generation, starting, crash, log, channel: ours, limits })
}

fn refused(id: InstanceId, step: &'static str, error: &dyn std::fmt::Display) -> Problem {
    Problem::host(
        format!("{id} cannot be started: {step}: {error}"),
        id.to_string(),
        "check the host's limits on memory, files and processes",
    )
}
