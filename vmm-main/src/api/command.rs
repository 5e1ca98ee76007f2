// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How the API speaks to the task that owns the VM: a bounded queue of commands, each with its way back,
//! and a published picture for reading.

use std::time::Instant;

use tokio::sync::{mpsc, oneshot, watch};

use super::types::{Inspected, ProbeAnswer, ProbeRequest, Process, SaveRestored, Status};
use crate::problem::{Class, Problem};

/// Commands that may wait for the VM; it takes one at a time.
pub const COMMAND_QUEUE_LEN: usize = 16;

/// Where the answer to a command goes.
pub type Answer<T> = oneshot::Sender<Result<T, Problem>>;

/// Something a client asks of the VM.
#[derive(Debug)]
pub enum Command {
    /// Pause the guest: its vCPUs and devices.
    Pause(Answer<Status>),
    /// Resume it.
    Resume(Answer<Status>),
    /// Shut the VM down in order.
    Stop(Answer<Status>),
    /// Save every process, start new ones, restore, resume.
    SaveRestore(Answer<SaveRestored>),
    /// Ask every process for its counters and states.
    Inspect(Answer<Vec<Inspected>>),
    /// Make a process attempt something.
    Probe(ProbeRequest, Answer<ProbeAnswer>),
}

/// What readers see: replaced as a whole after every change.
#[derive(Debug, Clone)]
pub struct Picture {
    /// The VM; its uptime is filled in when somebody asks.
    pub status: Status,
    /// When its coordinator started.
    pub started: Instant,
    /// Its processes, the coordinator first.
    pub processes: Vec<Process>,
}

impl Picture {
    /// The status as of now.
    pub fn status_now(&self) -> Status {
        let uptime_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        Status { uptime_ms, ..self.status.clone() }
    }
}

/// The API's end: cheap to clone, one per connection.
#[derive(Debug, Clone)]
pub struct Handle {
    /// The queue to the VM's task.
    pub commands: mpsc::Sender<Command>,
    /// The picture it last published.
    pub picture: watch::Receiver<Picture>,
}

impl Handle {
    /// Sends the command that `make` builds around its answer's channel, and waits for the answer.
    /// Cancel-safe: a caller that goes away only loses the answer.
    pub async fn ask<T>(&self, make: impl FnOnce(Answer<T>) -> Command) -> Result<T, Problem> {
        let (answer, wait) = oneshot::channel();
        self.commands.try_send(make(answer)).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => Problem::new(
                Class::State,
                format!("{COMMAND_QUEUE_LEN} commands are waiting already"),
                "control API",
                "try again later",
            ),
            mpsc::error::TrySendError::Closed(_) => gone(),
        })?;
        wait.await.unwrap_or_else(|_| Err(gone()))
    }
}

fn gone() -> Problem {
    Problem::new(Class::State, "the VM has ended", "control API", "start it again with `bulkhead run`")
}
