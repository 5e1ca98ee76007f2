// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Programs that users give for processes that are started anew: an upgrade in place.
//!
//! The launcher opens and copies the file with the user's rights, for the coordinator can open none. The restart begins
//! when the copy is there. The next life runs it, and if it does not greet with the same protocol, or cannot go on from
//! what it is given, the old life goes on in its own program. From the commit on it is what that process runs: at later
//! restarts, after its death, and in the next boot.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;

use ipc::instance::InstanceId;
use tokio::sync::mpsc;

use super::driver::{Vm, Waiting, refused};
use super::event::{self, Event, LifeId, Ticket};
use crate::api::command::Answer;
use crate::api::types::Restarted;
use crate::coordinator::logs;
use crate::launcher_channel::FromCoordinator;
use crate::problem::{Class, Problem};

/// An answer of the launcher: the number of the request, and a program, or why there is none.
pub type Opened = (u8, io::Result<OwnedFd>);

/// What runs in place of the table's programs.
#[derive(Debug, Default)]
pub(super) struct Programs {
    given: BTreeMap<InstanceId, Program>,
    /// What the launcher was asked for, and has not answered.
    wanted: Option<Wanted>,
    /// What the next life of a process that is being restarted runs.
    candidate: Option<Candidate>,
    /// The number of the latest request.
    number: u8,
}

/// A program that a user gave.
#[derive(Debug)]
struct Program {
    /// Where it was.
    path: String,
    file: OwnedFd,
}

#[derive(Debug)]
struct Wanted {
    number: u8,
    process: String,
    path: String,
    answer: Answer<Restarted>,
}

#[derive(Debug)]
struct Candidate {
    ticket: Ticket,
    instance: InstanceId,
    program: Program,
}

impl Programs {
    /// Where the program was that a user gave for this process, if one did.
    pub fn path_of(&self, instance: InstanceId) -> Option<&str> {
        self.given.get(&instance).map(|program| program.path.as_str())
    }

    /// All of them, for people.
    pub fn shown(&self) -> BTreeMap<String, String> {
        self.given.iter().map(|(instance, program)| (instance.to_string(), program.path.clone())).collect()
    }

    /// What this process runs, if that is not the table's program. `is_restarted`: it is the next life of a restart.
    fn of(&self, instance: InstanceId, is_restarted: bool) -> Option<&OwnedFd> {
        let candidate = self.candidate.as_ref().filter(|it| is_restarted && it.instance == instance);
        let program = candidate.map(|it| &it.program).or_else(|| self.given.get(&instance));
        program.map(|program| &program.file)
    }

    /// Asks the launcher for the program at `path`, for a restart of `process`; or answers why not.
    fn want(
        &mut self,
        launcher: &mpsc::Sender<FromCoordinator>,
        process: String,
        path: String,
        answer: Answer<Restarted>,
    ) {
        let refuse = |answer: Answer<Restarted>, what, advice| {
            // A client may have disconnected.
            drop(answer.send(Err(Problem::new(Class::State, what, "restart", advice))));
        };
        // The launcher answers in time (`COPY_DEADLINE`), whether the client still waits or has left, which is not
        // known before it has the answer. If that is lost, the next one waits for the deadline of the client's request.
        if self.wanted.as_ref().is_some_and(|wanted| !wanted.answer.is_closed()) {
            return refuse(answer, "another program is being opened", "ask again when that is done");
        }
        self.number = self.number.wrapping_add(1);
        let number = self.number;
        if launcher.try_send(FromCoordinator::OpenProgram { number, path: path.clone() }).is_err() {
            return refuse(answer, "the launcher is busy", "ask again");
        }
        self.wanted = Some(Wanted { number, process, path, answer });
    }

    /// What the launcher has answered, with the process and the client that it is for. None: nobody wants it, or the
    /// client is told why there is none.
    fn opened(&mut self, (number, program): Opened) -> Option<(String, Program, Answer<Restarted>)> {
        let wanted = self.wanted.take_if(|wanted| wanted.number == number)?;
        let Wanted { number: _, process, path, answer } = wanted;
        let path = logs::printable(path.as_bytes());
        match program {
            Ok(file) => Some((process, Program { path, file }, answer)),
            Err(error) => {
                let what =
                    format!("the program cannot be used: {}", logs::printable(error.to_string().as_bytes()));
                let advice = "give a program of Bulkhead that this user may read and execute";
                let _ = answer.send(Err(Problem::usage(what, path, advice)));
                None
            }
        }
    }

    /// The restart of this ticket is to be one into `program`.
    fn begin(&mut self, ticket: Ticket, process: &str, program: Program) {
        self.candidate = process.parse().ok().map(|instance| Candidate { ticket, instance, program });
    }

    /// The next life is the guest's: so is its program.
    pub fn commit(&mut self) {
        if let Some(Candidate { ticket: _, instance, program }) = self.candidate.take() {
            self.given.insert(instance, program);
        }
    }

    /// The restart of this ticket is over: if it did not come to its commit, its program is not used.
    pub fn answered(&mut self, ticket: Ticket) {
        self.candidate.take_if(|candidate| candidate.ticket == ticket);
    }
}

impl Vm {
    /// Has the launcher copy the program that a process is to be restarted into, if that can be restarted.
    pub(super) fn want_program(&mut self, process: String, path: String, answer: Answer<Restarted>) {
        match self.machine.check_restart(&process) {
            Ok(()) => self.programs.want(&self.to_launcher, process, path, answer),
            // A client may have disconnected.
            Err(problem) => drop(answer.send(Err(problem))),
        }
    }

    /// The launcher has answered: the restart begins.
    pub(super) fn program_opened(&mut self, opened: Opened) -> Option<Event> {
        let (process, program, answer) = self.programs.opened(opened)?;
        let ticket = self.issue(Waiting::Restart(answer));
        self.programs.begin(ticket, &process, program);
        Some(Event::Command(ticket, event::Command::Restart(process)))
    }

    /// The file of the program that this life is to run, if that is not the table's.
    pub(super) fn program_of(&self, life: LifeId) -> Result<Option<OwnedFd>, Problem> {
        let program = self.programs.of(life.instance, self.machine.is_restarting_into(life));
        let program = program.map(OwnedFd::try_clone).transpose();
        program.map_err(|error| refused("duplicate a descriptor", &error))
    }
}

#[cfg(test)]
mod tests;
