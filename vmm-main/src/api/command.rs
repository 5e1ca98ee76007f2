// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How the API reaches the task that owns the VM: a bounded queue of commands, each with a reply channel; one of
//! requests to stop, which wait for no command; and a published snapshot of the status, with handles for inspecting
//! the processes.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipc::shm::dirty_log::SharedOwed;
use tokio::sync::{mpsc, oneshot, watch};

use super::types::{
    DirtyRate, Inspected, MigrateRequest, Migrated, ProbeAnswer, ProbeRequest, Process, ResolveRequest,
    RestartRequest, Restarted, SaveRestored, Status,
};
use crate::coordinator::inspector::{self, Inspector};
use crate::lifecycle::Why;
use crate::problem::{Class, Problem};

/// Queued commands; the VM executes one at a time.
pub const COMMAND_QUEUE_LEN: usize = 16;

/// Where the answer to a command goes.
pub type Answer<T> = oneshot::Sender<Result<T, Problem>>;

/// A client's command to the VM.
#[derive(Debug)]
pub enum Command {
    /// Pause the guest: its vCPUs and devices.
    Pause(Answer<Status>),
    /// Let a paused guest run again.
    Resume(Answer<Status>),
    /// Save every process, start new ones, restore, resume.
    SaveRestore(Answer<SaveRestored>),
    /// Start one process anew under the running guest.
    Restart(RestartRequest, Answer<Restarted>),
    /// Move the guest to another host; with the files of this host's identity, if TLS is to be spoken.
    Migrate(MigrateRequest, Vec<OwnedFd>, Answer<Migrated>),
    /// Measure the guest's dirty rate for this long.
    DirtyRate(Duration, Answer<DirtyRate>),
    /// Make a process attempt something that its sandbox forbids.
    Probe(ProbeRequest, Answer<ProbeAnswer>),
}

/// A request for an orderly end. It waits for no command, and is answered when the VM is gone: its processes have
/// ended, and its name and disks are free.
#[derive(Debug)]
pub struct StopRequest {
    /// The cause.
    pub why: Why,
    /// The reply channel, if a client waits.
    pub answer: Option<Answer<Status>>,
}

/// What a client wants of a migration that is under way. It waits for no command.
#[derive(Debug)]
pub enum MigrationOrder {
    /// Stop it; the guest goes on here.
    Cancel(Answer<Status>),
    /// It is known where the guest is to go on: here, or there.
    Resolve(ResolveRequest, Answer<Status>),
}

/// The status as readers see it: replaced as a whole after every change.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The VM; its uptime is filled in by [`Self::status_now`].
    pub status: Status,
    /// When its coordinator started.
    pub started: Instant,
    /// Its processes, the coordinator first.
    pub processes: Vec<Process>,
    /// The handle for inspecting each of them.
    pub inspectors: Vec<Inspector>,
    /// The pages that a guest that is leaving has to be sent yet; its mover sends on while nothing is published.
    pub owed: Option<Arc<SharedOwed>>,
}

impl Snapshot {
    /// The status as of now.
    pub fn status_now(&self) -> Status {
        let uptime_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mut status = Status { uptime_ms, ..self.status.clone() };
        if let (Some(progress), Some(owed)) = (&mut status.migration, &self.owed) {
            progress.owed_page_count = owed.count();
        }
        status
    }
}

/// The API's end: cheap to clone, one per connection.
#[derive(Debug, Clone)]
pub struct Handle {
    /// The queue to the VM's task.
    pub commands: mpsc::Sender<Command>,
    /// The queue of requests to stop.
    pub stops: mpsc::Sender<StopRequest>,
    /// The queue of what is wanted of a migration.
    pub migrations: mpsc::Sender<MigrationOrder>,
    /// The snapshot it last published.
    pub snapshot: watch::Receiver<Snapshot>,
}

impl Handle {
    /// Sends the command that `make` builds around its reply channel, and waits for the answer. Cancel-safe: a
    /// dropped call only loses the answer.
    pub async fn ask<T>(&self, make: impl FnOnce(Answer<T>) -> Command) -> Result<T, Problem> {
        let (answer, wait) = oneshot::channel();
        queue(&self.commands, make(answer))?;
        wait.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Sends what is wanted of a migration, as [`Self::ask`].
    pub async fn order(
        &self,
        make: impl FnOnce(Answer<Status>) -> MigrationOrder,
    ) -> Result<Status, Problem> {
        let (answer, wait) = oneshot::channel();
        queue(&self.migrations, make(answer))?;
        wait.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Ends the VM, and waits until it is gone. As [`Self::ask`].
    pub async fn stop(&self) -> Result<Status, Problem> {
        let (answer, wait) = oneshot::channel();
        queue(&self.stops, StopRequest { why: Why::Asked, answer: Some(answer) })?;
        wait.await.unwrap_or_else(|_| Err(gone()))
    }

    /// `Inspect` of every process, whatever the VM is doing. One that does not answer in time is listed as such.
    pub async fn inspect(&self) -> Vec<Inspected> {
        let inspectors = self.snapshot.borrow().inspectors.clone();
        inspector::inspect_all(inspectors).await
    }
}

fn queue<T>(queue: &mpsc::Sender<T>, message: T) -> Result<(), Problem> {
    queue.try_send(message).map_err(|refused| match refused {
        mpsc::error::TrySendError::Full(_) => Problem::new(
            Class::State,
            format!("{COMMAND_QUEUE_LEN} commands are waiting already"),
            "control API",
            "try again later",
        ),
        mpsc::error::TrySendError::Closed(_) => gone(),
    })
}

fn gone() -> Problem {
    Problem::new(Class::State, "the VM has ended", "control API", "start it again with `bulkhead run`")
}
