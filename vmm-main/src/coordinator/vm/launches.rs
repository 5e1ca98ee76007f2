// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The start of processes, for an action of the state machine. Those that are started one behind the other come up side
//! by side: a guest may wait for the slowest of them, and is not to wait for all.

use std::os::fd::AsFd;
use std::sync::Arc;

use super::driver::Vm;
use super::event::{Event, LifeId, ProcessEvent};
use super::state_machine::bug;
use crate::coordinator::process::{self, Handle};
use crate::problem::Problem;
use crate::system::MOVER;

impl Vm {
    /// Starts a process, and does not wait for it.
    pub(super) fn start(&mut self, life: LifeId) -> Result<(), Problem> {
        let system = Arc::clone(&self.system);
        let instance = system.get(life.instance).ok_or_else(|| bug("the VM has no such process"))?;
        let program = self.program_of(life)?;
        let objects = if life.instance == MOVER {
            self.mover_objects(life)?
        } else {
            self.objects_of(life.generation).ok_or_else(|| bug("a process has no objects"))?
        };
        let program = program.as_ref().map(AsFd::as_fd);
        let launching = process::launch(instance, life.generation, objects, program)?;
        self.launching.push((life, launching));
        Ok(())
    }

    /// Waits for those that were started one behind the other, which come up side by side.
    pub(super) fn finish_launches(&mut self) {
        for (life, launching) in std::mem::take(&mut self.launching) {
            match launching.finish() {
                Ok(launched) => {
                    let hang_deadline = self.given.handover.hang_deadline_of(life.instance);
                    let events = self.event_sender.clone();
                    let handle = Handle::follow(launched, life, hang_deadline, &mut self.tasks, events);
                    self.processes.insert(life, handle);
                }
                Err(problem) => {
                    self.results.push_back(Event::Process(life, ProcessEvent::NotStarted(problem)));
                }
            }
        }
    }
}
