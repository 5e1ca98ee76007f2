// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The processes of the VM: a task each, which owns the control channel to its process.
//!
//! Each task takes messages from a bounded queue of its own. Replies and events of all tasks go to one queue, tagged
//! with the life they are of. The task also watches the process's pidfd and reaps it; its last event is how the process
//! ended. Decisions are made in [`super::vm`] alone.

mod ending;
mod heartbeat;
mod launch;
mod task;

use std::os::fd::OwnedFd;
use std::time::Duration;

use ipc::protocol::control::{Event, Reply, Request};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::inspector::Inspector;
use super::vm::action::Ending;
use super::vm::event::{Departure, LifeId};
use crate::api::types;
use crate::migration::features::Features;
use crate::problem::Problem;
use crate::system::DEVICES_MAX;

pub use launch::{Launched, Launching, launch};

/// The most messages queued for a process's task: a request, the end, and a notification for each device, twice.
const MESSAGE_QUEUE_LEN: usize = 4 + 2 * DEVICES_MAX;

/// What the coordinator's VM task sends to a process's task.
#[derive(Debug)]
pub enum TaskMessage {
    /// Send the process this request. One is open at a time; its reply is an event.
    Request(Request, Vec<OwnedFd>),
    /// Send it a request whose reply no operation waits for; a failure is logged.
    Notification(Request),
    /// End the process.
    End(Ending),
}

/// An event of a process's task.
#[derive(Debug)]
pub enum TaskEvent {
    /// The process has said hello, is sealed, and takes requests; what it reports to have enforced.
    Started(Vec<String>),
    /// The request was fulfilled.
    Answered(Reply),
    /// The request failed.
    Refused(Problem),
    /// The process sent an event.
    Reported(Event),
    /// The process has ended. The last event.
    Gone(Departure),
}

/// A handle to a process's task.
#[derive(Debug)]
pub struct Handle {
    /// Its process id in the coordinator's namespace.
    pub pid: i32,
    /// Its resource limits.
    pub limits: types::Limits,
    /// What it reports to have enforced, once it has started.
    pub enforced: Option<Vec<String>>,
    /// What the guest can tell of it, as far as it has said.
    pub features: Features,
    /// Inspects it.
    pub inspector: Inspector,
    messages: mpsc::Sender<TaskMessage>,
}

impl Handle {
    /// Spawns the task of a launched process into `tasks`. It is to make progress within `hang_deadline`, if there is
    /// one.
    pub fn follow(
        launched: Launched,
        life: LifeId,
        hang_deadline: Option<Duration>,
        tasks: &mut JoinSet<LifeId>,
        events: mpsc::Sender<(LifeId, TaskEvent)>,
    ) -> Self {
        let (messages, received) = mpsc::channel(MESSAGE_QUEUE_LEN);
        let (inspector, questions) = Inspector::new(life.instance);
        let (pid, limits) = (launched.pid(), launched.limits);
        tasks.spawn(async move {
            task::serve(launched, life, hang_deadline, received, questions, events).await;
            life
        });
        Self { pid, limits, enforced: None, features: Features::default(), inspector, messages }
    }

    /// Sends a message. It is dropped if the task has ended: its `Gone` event has been sent, or is about to be.
    pub fn send(&self, message: TaskMessage) {
        let _ = self.messages.try_send(message);
    }
}
