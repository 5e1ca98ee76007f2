// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! All processes of one generation, as one thing that starts, pauses, resumes and ends in the right order.
//!
//! The order of the system table: CPUs pause first, so that devices see no new work, and go on last, so
//! that every device answers before the guest asks. Processes of one tier of the table are asked at once.
//! Everything here may be given up at any wait: the set still holds its processes then, to be ended.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ipc::error::Error as ChannelError;
use ipc::hello::Role;
use ipc::instance::InstanceId;
use ipc::protocol::budget;
use ipc::protocol::control::{Event, Request};
use ipc::protocol::lifecycle::State;

use super::inspector::Inspector;
use super::objects::Objects;
use super::process::{FINISH_SPAN, Fault, Lost, Process};
use super::roles::Configs;
use super::together;
use crate::api::types;
use crate::system::{Instance, Restart};

/// The most that [`ProcessSet::finish`] takes, whatever its processes do: the CPUs, then all others together.
pub const STOP_SPAN: Duration = budget::sum(&[FINISH_SPAN, FINISH_SPAN]);

/// The most that pausing, or resuming, takes if every process is as late as it may be: one tier after the other.
pub const ORDER_SPAN: Duration = budget::sum(&[
    budget::deadline(Role::Vcpu, &Request::Pause),
    budget::deadline(Role::Vfio, &Request::Pause),
    budget::deadline(Role::Nvme, &Request::Pause),
    budget::deadline(Role::Smmu, &Request::Pause),
]);

/// A device that its guest does not find: its process, and why.
pub type LostDevice = (InstanceId, String);

/// The processes, in the table's order.
#[derive(Debug)]
pub struct ProcessSet {
    /// Which life of the VM's processes this is.
    pub generation: u32,
    processes: Vec<Process>,
}

impl ProcessSet {
    /// None yet.
    pub const fn new(generation: u32) -> Self {
        Self { generation, processes: Vec::new() }
    }

    /// Starts and configures every process of the table. If one fails, those before it are there; one that costs its device
    /// only is told, and the others start without it.
    pub async fn start(&mut self, objects: &Objects, configs: &Configs) -> Result<Vec<Lost>, Fault> {
        let mut lost = Vec::new();
        for instance in objects.system().processes() {
            match self.start_one(instance, objects, configs).await {
                Err(Fault::Lost(one)) if instance.template.restart == Restart::DeviceFails => lost.push(one),
                outcome => outcome?,
            }
        }
        Ok(lost)
    }

    async fn start_one(
        &mut self,
        instance: &Arc<Instance>,
        objects: &Objects,
        configs: &Configs,
    ) -> Result<(), Fault> {
        let config = configs.of(instance.id)?;
        self.processes.push(Process::start(instance, self.generation, objects).await?);
        match self.processes.last_mut() {
            Some(process) => process.order(Request::Configure(config)).await,
            None => Ok(()),
        }
    }

    /// Lets the guest begin: devices first, and only when each has said what became of it. Those that are lost are told.
    /// If one of them is `required` the CPUs are not begun.
    pub async fn begin(&mut self, required: impl Fn(InstanceId) -> bool) -> Result<Vec<LostDevice>, Fault> {
        let mut lost = Vec::new();
        for tier in self.tiers().rev() {
            order(tier, &Request::Start).await?;
            if !tier.iter().all(|process| process.instance.id.role == Role::Vfio) {
                continue;
            }
            let outcomes = together::all(tier.iter_mut().map(Process::device_outcome)).await;
            let outcomes = outcomes.into_iter().collect::<Result<Vec<_>, _>>()?;
            let named = tier.iter().map(|process| process.instance.id).zip(outcomes);
            lost.extend(named.filter_map(|(id, outcome)| Some((id, outcome?))));
            if lost.iter().any(|(id, _)| required(*id)) {
                break;
            }
        }
        Ok(lost)
    }

    /// Lets the guest go on after a pause: devices first.
    pub async fn resume(&mut self) -> Result<(), Fault> {
        for tier in self.tiers().rev() {
            order(tier, &Request::Resume).await?;
        }
        Ok(())
    }

    /// Stops the guest: CPUs first. If a process refuses, those that have paused go on again.
    pub async fn pause(&mut self) -> Result<(), Fault> {
        let mut outcome = Ok(());
        for tier in self.tiers() {
            outcome = order(tier, &Request::Pause).await;
            if outcome.is_err() {
                break;
            }
        }
        if let Err(Fault::Refused(_)) = &outcome {
            for process in self.processes.iter_mut().rev().filter(|process| process.state == State::Paused) {
                process.order(Request::Resume).await?;
            }
        }
        outcome
    }

    /// The processes in the table's order, those of one tier together.
    fn tiers(&mut self) -> impl DoubleEndedIterator<Item = &mut [Process]> {
        self.processes.chunk_by_mut(|one, next| one.instance.template.tier == next.instance.template.tier)
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

    /// Ends every process, CPUs first, within [`STOP_SPAN`]. Which of them hang in the kernel, with what they hold.
    pub async fn finish(&mut self) -> Vec<InstanceId> {
        let count =
            self.processes.iter().take_while(|process| process.instance.id.role == Role::Vcpu).count();
        let (cpus, others) = self.processes.split_at_mut(count);
        let mut left = Vec::new();
        for tier in [cpus, others] {
            let gone = together::all(tier.iter_mut().map(Process::finish)).await;
            let named = tier.iter().map(|process| process.instance.id).zip(gone);
            left.extend(named.filter_map(|(id, gone)| (!gone).then_some(id)));
        }
        left
    }

    /// Ends every process at once: for a set whose guest lives in another one.
    pub async fn discard(self) {
        together::all(self.processes.into_iter().map(Process::discard)).await;
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

    /// Gives up the process `id`, which is dead; the others go on without it.
    pub async fn remove(&mut self, id: InstanceId) {
        if let Some(index) = self.processes.iter().position(|process| process.instance.id == id) {
            self.processes.remove(index).discard().await;
        }
    }

    /// The process `id`.
    pub fn get_mut(&mut self, id: InstanceId) -> Option<&mut Process> {
        self.processes.iter_mut().find(|process| process.instance.id == id)
    }

    /// What asks them about themselves.
    pub fn inspectors(&self) -> Vec<Inspector> {
        self.processes.iter().map(Process::inspector).collect()
    }

    /// What the API shows of them.
    pub fn picture(&self) -> Vec<types::Process> {
        self.processes.iter().map(Process::picture).collect()
    }
}

/// Orders the same of a whole tier at once. A loss counts for more than a refusal.
async fn order(tier: &mut [Process], request: &Request) -> Result<(), Fault> {
    let outcomes = together::all(tier.iter_mut().map(|process| process.order(request.clone()))).await;
    let mut faults: Vec<Fault> = outcomes.into_iter().filter_map(Result::err).collect();
    let lost = faults.iter().position(|fault| matches!(fault, Fault::Lost(_)));
    match lost.or((!faults.is_empty()).then_some(0)) {
        Some(index) => Err(faults.swap_remove(index)),
        None => Ok(()),
    }
}
