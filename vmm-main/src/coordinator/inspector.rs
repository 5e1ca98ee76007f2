// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Asks a process what it tells about itself, beside whatever the VM's task is asking it at the same time.
//!
//! The answer is waited for a moment only ([`budget::INSPECT`]): a process that is stopped, or busy with an order, is told
//! to be so, and lives. One question at most is open for each process, so that nobody fills its channel by asking.

use std::sync::Arc;
use std::time::Duration;

use ipc::channel::AsyncChannel;
use ipc::deadline::Deadline;
use ipc::instance::InstanceId;
use ipc::protocol::budget;
use ipc::protocol::control::{Reply, Request};
use ipc::protocol::inspect::Inspect;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, timeout_at};

use super::{inspected, together};
use crate::api::types::Inspected;

/// What asks one process.
#[derive(Debug, Clone)]
pub struct Inspector {
    id: InstanceId,
    channel: Arc<AsyncChannel>,
    /// One permit: the right to have a question open.
    turn: Arc<Semaphore>,
}

impl Inspector {
    /// For the process `id`, over its control channel.
    pub fn new(id: InstanceId, channel: Arc<AsyncChannel>) -> Self {
        Self { id, channel, turn: Arc::new(Semaphore::new(1)) }
    }

    /// What the process tells, or that it does not.
    async fn inspect(&self, patience: Duration) -> Inspected {
        match self.ask(Instant::now() + patience).await {
            Ok(told) => inspected::of(self.id, &told),
            Err(why) => inspected::unanswered(self.id, why),
        }
    }

    async fn ask(&self, until: Instant) -> Result<Inspect, String> {
        let late = || "it does not answer: it is stopped, or busy with an order".to_owned();
        let turn = timeout_at(until, Arc::clone(&self.turn).acquire_owned()).await.map_err(|_| late())?;
        let turn = turn.map_err(|error| error.to_string())?;
        let (tell, told) = oneshot::channel();
        let channel = Arc::clone(&self.channel);
        // A question stays open until it is answered or the process is gone, also when nobody waits any more.
        tokio::spawn(async move {
            let reply = channel.request(&Request::Inspect, &[], Deadline::after(Deadline::SPAN_MAX)).await;
            drop(turn);
            let _ = tell.send(reply);
        });
        match timeout_at(until, told).await {
            Ok(Ok(Ok((Reply::Inspect(told), _)))) => Ok(told),
            Ok(Ok(Ok((other, _)))) => Err(format!("it answers {other:?}")),
            Ok(Ok(Err(error))) => Err(error.to_string()),
            Ok(Err(_)) | Err(_) => Err(late()),
        }
    }
}

/// What all of these processes tell, asked at once.
pub async fn inspect_all(inspectors: Vec<Inspector>) -> Vec<Inspected> {
    together::all(inspectors.iter().map(|inspector| inspector.inspect(budget::INSPECT))).await
}

#[cfg(test)]
mod tests;
