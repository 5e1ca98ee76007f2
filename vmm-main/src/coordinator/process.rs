// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The processes of the VM: a task each, which alone owns the channel to its process.
//!
//! Orders go in by a bounded queue, answers and events come out by one queue for all of them, tagged with the life
//! that they are of. The task watches the process's end beside everything else, reaps it, and its last word is how it
//! ended. Nothing here decides: that is [`super::vm`]'s.

mod ending;
mod launch;
mod task;

use std::os::fd::OwnedFd;

use ipc::protocol::control::{Event, Reply, Request};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::inspector::Inspector;
use super::vm::action::Ending;
use super::vm::event::{Departure, LifeId};
use crate::api::types;
use crate::problem::Problem;
use crate::system::DEVICES_MAX;

pub use launch::{Launched, launch};

/// Orders that may wait for a process's task: a request, to end, and a word about each device, twice.
const ORDER_QUEUE_LEN: usize = 4 + 2 * DEVICES_MAX;

/// What a process's task is ordered to do.
#[derive(Debug)]
pub enum Order {
    /// Ask the process for something. One request is open at a time.
    Ask(Request, Vec<OwnedFd>),
    /// Tell it something that no operation waits for. What it answers is in the log, if it is a complaint.
    Tell(Request),
    /// End it.
    End(Ending),
}

/// What a process's task tells.
#[derive(Debug)]
pub enum TaskEvent {
    /// The process is sealed, has greeted, and takes requests; what it says it has enforced on itself.
    Started(Vec<String>),
    /// It has answered.
    Answered(Reply),
    /// It answers that it cannot.
    Refused(Problem),
    /// It tells something that nobody asked for.
    Reported(Event),
    /// Its life is over; the last word.
    Gone(Departure),
}

/// The VM's handle on a process's task.
#[derive(Debug)]
pub struct Handle {
    /// Its process id in the coordinator's namespace.
    pub pid: i32,
    /// What it was limited to.
    pub limits: types::Limits,
    /// What it says it has enforced on itself, once it has started.
    pub enforced: Option<Vec<String>>,
    /// What asks it about itself.
    pub inspector: Inspector,
    orders: mpsc::Sender<Order>,
}

impl Handle {
    /// Follows a process that was launched, by a task among `tasks`.
    pub fn follow(
        launched: Launched,
        life: LifeId,
        tasks: &mut JoinSet<LifeId>,
        events: mpsc::Sender<(LifeId, TaskEvent)>,
    ) -> Self {
        let (orders, ordered) = mpsc::channel(ORDER_QUEUE_LEN);
        let (inspector, questions) = Inspector::new(life.instance);
        let (pid, limits) = (launched.pid(), launched.limits);
        tasks.spawn(async move {
            task::serve(launched, life, ordered, questions, events).await;
            life
        });
        Self { pid, limits, enforced: None, inspector, orders }
    }

    /// Gives an order. A task that has no ear for it any more is about to tell, or has told, how its process ended.
    pub fn order(&self, order: Order) {
        let _ = self.orders.try_send(order);
    }
}
