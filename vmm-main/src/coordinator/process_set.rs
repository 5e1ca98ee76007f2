// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! All processes of one generation, as one thing that starts, pauses, resumes and ends in the right order.
//!
//! The order of [`topology::PROCESSES`]: CPUs pause first, so that devices see no new work, and go on last, so
//! that every device answers before the guest asks.

use std::future::Future;
use std::pin::Pin;

use ipc::error::Error as ChannelError;
use ipc::protocol::control::{Event, Request};

use super::objects::Objects;
use super::process::{Fault, Process};
use super::roles::Configs;
use crate::api::types;
use crate::topology;

/// The processes, in the table's order.
#[derive(Debug)]
pub struct ProcessSet {
    /// Which life of the VM's processes this is.
    pub generation: u32,
    processes: Vec<Process>,
}

impl ProcessSet {
    /// Starts and configures every process of the table. If one fails, none is left.
    pub async fn start(generation: u32, objects: &Objects, configs: &Configs) -> Result<Self, Fault> {
        let mut set = Self { generation, processes: Vec::new() };
        for row in topology::processes(objects.shape()) {
            let started = async {
                let mut process = Process::start(row, generation, objects).await?;
                match process.order(Request::Configure(configs.of(row)?)).await {
                    Ok(()) => Ok(process),
                    Err(fault) => {
                        process.finish().await;
                        Err(fault)
                    }
                }
            };
            match started.await {
                Ok(process) => set.processes.push(process),
                Err(fault) => {
                    set.finish().await;
                    return Err(fault);
                }
            }
        }
        Ok(set)
    }

    /// Lets the guest begin: devices first.
    pub async fn begin(&mut self) -> Result<(), Fault> {
        for process in self.processes.iter_mut().rev() {
            process.order(Request::Start).await?;
        }
        Ok(())
    }

    /// Lets the guest go on after a pause: devices first.
    pub async fn resume(&mut self) -> Result<(), Fault> {
        for process in self.processes.iter_mut().rev() {
            process.order(Request::Resume).await?;
        }
        Ok(())
    }

    /// Stops the guest: CPUs first. If a process refuses, those before it go on again.
    pub async fn pause(&mut self) -> Result<(), Fault> {
        for count in 0..self.processes.len() {
            let Some(process) = self.processes.get_mut(count) else { break };
            let Err(fault) = process.order(Request::Pause).await else { continue };
            if matches!(fault, Fault::Refused(_)) {
                for paused in self.processes.iter_mut().take(count).rev() {
                    paused.order(Request::Resume).await?;
                }
            }
            return Err(fault);
        }
        Ok(())
    }

    /// Whether any process has said something that is not decided upon yet.
    pub async fn has_event(&self) -> bool {
        for process in &self.processes {
            if process.has_event().await {
                return true;
            }
        }
        false
    }

    /// Ends every process, CPUs first. None is left afterwards.
    pub async fn finish(self) {
        for process in self.processes {
            process.finish().await;
        }
    }

    /// Ends every process at once: for a set whose guest lives in another one.
    pub async fn discard(self) {
        for process in self.processes {
            process.discard().await;
        }
    }

    /// The next event of any process, or the end of its channel. Cancel-safe.
    pub async fn next(&self) -> (usize, Result<Event, ChannelError>) {
        type Waiting<'a> = Pin<Box<dyn Future<Output = Result<Event, ChannelError>> + Send + 'a>>;
        let mut waiting: Vec<Waiting<'_>> =
            self.processes.iter().map(|process| Box::pin(process.next()) as Waiting<'_>).collect();
        std::future::poll_fn(|context| {
            for (index, next) in waiting.iter_mut().enumerate() {
                if let std::task::Poll::Ready(outcome) = next.as_mut().poll(context) {
                    return std::task::Poll::Ready((index, outcome));
                }
            }
            std::task::Poll::Pending
        })
        .await
    }

    /// The processes in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Process> {
        self.processes.iter()
    }

    /// The processes in order, to be asked things.
    pub fn iter_mut(&mut self) -> std::slice::IterMut<'_, Process> {
        self.processes.iter_mut()
    }

    /// The process at `index` of the table.
    pub fn at_mut(&mut self, index: usize) -> Option<&mut Process> {
        self.processes.get_mut(index)
    }

    /// Gives up the process at `index`, which is dead; the others go on without it.
    pub async fn remove(&mut self, index: usize) {
        if index < self.processes.len() {
            self.processes.remove(index).discard().await;
        }
    }

    /// The process called `name`.
    pub fn named_mut(&mut self, name: &str) -> Option<&mut Process> {
        self.processes.iter_mut().find(|process| process.row.name == name)
    }

    /// Their rows for the API.
    pub fn picture(&self) -> Vec<types::Process> {
        self.processes.iter().map(Process::picture).collect()
    }
}
