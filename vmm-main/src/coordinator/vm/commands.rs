// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What clients ask of the VM, one command at a time. An order to stop is none of these: it waits for nothing.

use ipc::protocol::control::{Reply, Request};

use super::{Running, Vm, no_processes, refused};
use crate::api::command::Command;
use crate::api::types::{ProbeAnswer, ProbeRequest, SaveRestored};
use crate::coordinator::{logs, probe};
use crate::lifecycle::{Phase, Step};
use crate::problem::{Class, Problem};
use crate::{snapshot, system};

impl Vm {
    /// Carries out one command.
    pub(super) async fn command(&mut self, command: Command) {
        // A client that has gone away does not want its answer; the command has been carried out all the same.
        match command {
            Command::Pause(answer) => {
                let result = self.pause().await;
                let _ = answer.send(result.map(|()| self.status()));
            }
            Command::Resume(answer) => {
                let result = self.resume().await;
                let _ = answer.send(result.map(|()| self.status()));
            }
            Command::SaveRestore(answer) => {
                let result = self.save_restore().await;
                let _ = answer.send(result);
            }
            Command::Probe(request, answer) => {
                let result = self.probe(&request).await;
                let _ = answer.send(result);
            }
        }
        self.publish();
    }

    async fn pause(&mut self) -> Result<(), Problem> {
        let after = self.phase.after(Step::Pause)?;
        while let Some(running) = &mut self.running
            && let Err(fault) = running.set.pause().await
        {
            // Without the device that was lost, once more: who has paused stays paused.
            self.survive(fault).await?;
        }
        self.phase = after;
        Ok(())
    }

    async fn resume(&mut self) -> Result<(), Problem> {
        let after = self.phase.after(Step::Resume)?;
        while let Some(running) = &mut self.running
            && let Err(fault) = running.set.resume().await
        {
            self.survive(fault).await?;
        }
        self.phase = after;
        if std::mem::take(&mut self.reset_due) {
            self.reset().await;
        }
        Ok(())
    }

    /// Moves the paused guest into new processes. On failure the old ones are there, paused, if they live.
    async fn save_restore(&mut self) -> Result<SaveRestored, Problem> {
        if self.phase != Phase::Running {
            // The same words as for any other step that needs a running guest.
            return Err(Problem::new(
                Class::State,
                format!("a VM that is {} cannot be saved and restored", self.phase.word()),
                "life cycle",
                "let it run first",
            ));
        }
        let Some(Running { objects, configs, set }) = &mut self.running else {
            return Err(no_processes());
        };
        let generation = self.generation.saturating_add(1);
        match snapshot::move_to_new_processes(set, generation, objects, configs).await {
            Ok(moved) => {
                let done = SaveRestored { generation, ..moved.report };
                let old = std::mem::replace(set, moved.set);
                *objects = moved.objects;
                self.generation = generation;
                old.discard().await;
                Ok(done)
            }
            Err(snapshot::Failed { fault, paused }) => {
                // Either way the old processes are there.
                if paused {
                    self.phase = Phase::Paused;
                }
                self.survive(fault).await.map_err(|problem| Problem {
                    advice: format!("{}; the guest is {}", problem.advice, self.phase.word()),
                    ..problem
                })?;
                Err(Problem::new(
                    Class::State,
                    "the VM was not saved: a device was lost meanwhile",
                    "save",
                    format!("see the log; the guest is {}", self.phase.word()),
                ))
            }
        }
    }

    /// Makes a process attempt what its sandbox refuses; the coordinator itself too.
    async fn probe(&mut self, request: &ProbeRequest) -> Result<ProbeAnswer, Problem> {
        if request.process == system::COORDINATOR_ID.to_string() {
            return probe::attempt_here(&request.attempt).map(|outcome| probe::outcome(&outcome));
        }
        let attempt = probe::by_name(&request.attempt)?;
        let process = self.running.as_mut().zip(request.process.parse().ok());
        let Some(process) = process.and_then(|(running, id)| running.set.get_mut(id)) else {
            return Err(Problem::usage(
                format!("there is no process called {:?}", logs::printable(request.process.as_bytes())),
                "process",
                "`bulkhead ps` lists them",
            ));
        };
        match process.ask(Request::Probe(attempt)).await {
            Ok(Reply::Probe(outcome)) => Ok(probe::outcome(&outcome)),
            Ok(other) => Err(refused("probe", &format!("the process answers {other:?}"))),
            Err(fault) => {
                self.survive(fault).await?;
                Err(refused("probe", &"the process is gone, and with it a device of the guest"))
            }
        }
    }
}
