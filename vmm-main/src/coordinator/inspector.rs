// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Asks a process what it tells about itself, by its task, beside whatever else the process is asked at the same time.
//!
//! The answer is waited for a moment only ([`budget::INSPECT`]): a process that is stopped, or busy with an order, is
//! told to be so, and lives. One question at most is open for each process, so that nobody fills its channel by
//! asking.

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

/// A question to a process's task: where the answer goes.
pub type Question = oneshot::Sender<Result<Reply, ChannelError>>;

/// What asks one process.
#[derive(Debug, Clone)]
pub struct Inspector {
    instance: InstanceId,
    questions: mpsc::Sender<Question>,
}

impl Inspector {
    /// For a process, and where its task finds the questions.
    pub fn new(instance: InstanceId) -> (Self, mpsc::Receiver<Question>) {
        let (questions, asked) = mpsc::channel(1);
        (Self { instance, questions }, asked)
    }

    /// What the process tells, or that it does not.
    async fn inspect(self, patience: Duration) -> Inspected {
        let id = self.instance;
        let late = || "it does not answer: it is stopped, or busy with an order".to_owned();
        match timeout_at(Instant::now() + patience, self.ask()).await {
            Ok(Ok(Reply::Inspect(told))) => inspected::of(id, &told),
            Ok(Ok(other)) => inspected::unanswered(id, format!("it answers {other:?}")),
            Ok(Err(why)) => inspected::unanswered(id, why),
            Err(_) => inspected::unanswered(id, late()),
        }
    }

    async fn ask(&self) -> Result<Reply, String> {
        let gone = || "it is gone, or is being ended".to_owned();
        let (question, answer) = oneshot::channel();
        self.questions.send(question).await.map_err(|_| gone())?;
        let reply = answer.await.map_err(|_| gone())?;
        reply.map_err(|error| error.to_string())
    }
}

/// What all of these processes tell, asked at once, in their order.
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
