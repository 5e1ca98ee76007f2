// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Inspects a process through its task, concurrently with other requests to it.
//!
//! The reply is waited for briefly ([`budget::INSPECT`]): a process that is stopped, or busy with another request, is
//! listed as not answering, and is not ended for it. At most one `Inspect` is open per process, so that API clients
//! cannot fill its channel.

use std::time::Duration;

use ipc::error::Error as ChannelError;
use ipc::instance::InstanceId;
use ipc::protocol::budget;
use ipc::protocol::control::Reply;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::inspected;
use crate::api::types::Inspected;

/// An `Inspect` for a process's task: where its reply goes.
pub type Question = oneshot::Sender<Result<Reply, ChannelError>>;

/// Inspects one process.
#[derive(Debug, Clone)]
pub struct Inspector {
    instance: InstanceId,
    questions: mpsc::Sender<Question>,
}

impl Inspector {
    /// An inspector of the process, and the queue that its task reads.
    pub fn new(instance: InstanceId) -> (Self, mpsc::Receiver<Question>) {
        let (questions, asked) = mpsc::channel(1);
        (Self { instance, questions }, asked)
    }

    /// The values of the process, or why there are none.
    async fn inspect(self, patience: Duration) -> Inspected {
        let id = self.instance;
        let late = || "it does not answer: it is stopped, or busy with another request".to_owned();
        match timeout_at(Instant::now() + patience, self.ask()).await {
            Ok(Ok(Reply::Inspect(told))) => inspected::of(id, &told),
            Ok(Ok(other)) => inspected::unanswered(id, format!("it answers {other:?}")),
            Ok(Err(why)) => inspected::unanswered(id, why),
            Err(_) => inspected::unanswered(id, late()),
        }
    }

    async fn ask(&self) -> Result<Reply, String> {
        let gone = || "the process has ended, or is being ended".to_owned();
        let (question, answer) = oneshot::channel();
        self.questions.send(question).await.map_err(|_| gone())?;
        let reply = answer.await.map_err(|_| gone())?;
        reply.map_err(|error| error.to_string())
    }
}

/// Inspects all of these processes concurrently; results in their order.
pub async fn inspect_all(inspectors: Vec<Inspector>) -> Vec<Inspected> {
    let mut asked = JoinSet::new();
    for (place, inspector) in inspectors.into_iter().enumerate() {
        asked.spawn(async move { (place, inspector.inspect(budget::INSPECT).await) });
    }
    let mut told = asked.join_all().await;
    told.sort_unstable_by_key(|(place, _)| *place);
    told.into_iter().map(|(_, inspected)| inspected).collect()
}

#[cfg(test)]
mod tests;
