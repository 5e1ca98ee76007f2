// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The life of a program: what it holds in each stage, and which request takes it to the next.
//!
//! ```text
//!   Unconfigured(Given) ──configure──► Ready ──start──► Started
//!                                      ▲   │            pause, resume, save
//!                                      └───┘ restore
//! ```
//!
//! Given, Ready and Started are the program's own types: what a stage does not have cannot be asked for. A step takes what a stage
//! holds along, so one that fails half-way leaves [`Stage::Spent`]: only `Quit` comes then. Whether a request has a place
//! at all is `ipc`'s [`State`](ipc::protocol::lifecycle::State), which the service loop asks before.

use ipc::hello::Role;
use ipc::protocol::control::{DirtyLogOp, Failure, RoleConfig};
use ipc::protocol::inspect::Inspect;
use ipc::protocol::probe::{Probe, ProbeOutcome};

use crate::context::Context;

/// What a program does when it is asked. Each call comes from one thread, and only in the stage whose type it takes.
pub trait Program: Sized {
    /// Its role on the control channel.
    const ROLE: Role;
    /// What it is called in failures: "the SMMU".
    const WHAT: &'static str;
    /// What it was given at exec, besides control channel, crash page and log.
    type Given;
    /// What it is told once.
    type Config;
    /// Configured, perhaps restored, and not begun.
    type Ready;
    /// Begun.
    type Started;

    /// Its own configuration, if it is that, and of a kind that this program can be.
    ///
    /// # Errors
    /// Why it cannot. The process stays unconfigured.
    fn accept(config: RoleConfig) -> Result<Self::Config, Failure>;
    /// Becomes what `config` says.
    ///
    /// # Errors
    /// If the configuration does not fit what was given, or the host refuses something.
    fn configure(config: Self::Config, given: Self::Given, context: &Context)
    -> Result<Self::Ready, Failure>;
    /// Takes a stream of state units.
    ///
    /// # Errors
    /// What is wrong with the stream.
    fn restore(ready: Self::Ready, stream: &[u8], context: &Context) -> Result<Self::Ready, Failure>;
    /// Begins, from reset or from what was restored.
    ///
    /// # Errors
    /// If a thread cannot be started.
    fn start(ready: Self::Ready, context: &Context) -> Result<Self::Started, Failure>;
    /// Stops making work; returns once nothing of the guest changes any more because of this process.
    ///
    /// # Errors
    /// If something did not stop in time.
    fn pause(started: &Self::Started) -> Result<(), Failure>;
    /// Goes on after `pause`; nothing changes if it was not paused.
    ///
    /// # Errors
    /// If something did not begin in time.
    fn resume(started: &Self::Started) -> Result<(), Failure>;
    /// Its state, as a stream of state units.
    ///
    /// # Errors
    /// If the state cannot be written.
    fn save(started: &Self::Started) -> Result<Vec<u8>, Failure>;
    /// Switches or rearms the dirty log.
    ///
    /// # Errors
    /// If a producer did not confirm in time.
    fn dirty_log(configured: Configured<'_, Self>, op: DirtyLogOp) -> Result<(), Failure>;
    /// Counters and states. Waits for no peer.
    fn inspect(configured: Configured<'_, Self>, inspect: &mut Inspect);
}

/// A program that is configured.
pub enum Configured<'a, P: Program> {
    /// It has not begun.
    Ready(&'a P::Ready),
    /// It has.
    Started(&'a P::Started),
}

enum Stage<P: Program> {
    Unconfigured(Box<P::Given>),
    Ready(Box<P::Ready>),
    Started(Box<P::Started>),
    /// A step failed half-way: only `Quit` is left.
    Spent,
}

/// A program, as its coordinator sees it.
pub struct Life<P: Program> {
    context: Context,
    stage: Stage<P>,
}

impl<P: Program> Life<P> {
    /// An unconfigured one.
    pub fn new(given: P::Given, context: Context) -> Self {
        Self { context, stage: Stage::Unconfigured(Box::new(given)) }
    }

    /// What the program knows of itself.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Becomes what `config` says.
    ///
    /// # Errors
    /// If it is configured already, or cannot be this.
    pub fn configure(&mut self, config: RoleConfig) -> Result<(), Failure> {
        let config = P::accept(config)?;
        match std::mem::replace(&mut self.stage, Stage::Spent) {
            Stage::Unconfigured(given) => {
                self.stage = Stage::Ready(Box::new(P::configure(config, *given, &self.context)?));
                Ok(())
            }
            other => self.refuse(other, "configure"),
        }
    }

    /// Takes a saved state.
    ///
    /// # Errors
    /// If the stream is no state of such a program. It can only quit then.
    pub fn restore(&mut self, stream: &[u8]) -> Result<(), Failure> {
        match std::mem::replace(&mut self.stage, Stage::Spent) {
            Stage::Ready(ready) => {
                self.stage = Stage::Ready(Box::new(P::restore(*ready, stream, &self.context)?));
                Ok(())
            }
            other => self.refuse(other, "restore"),
        }
    }

    /// Begins; one that has begun goes on.
    ///
    /// # Errors
    /// If it is not configured, or the host refuses something.
    pub fn start(&mut self) -> Result<(), Failure> {
        match std::mem::replace(&mut self.stage, Stage::Spent) {
            Stage::Ready(ready) => {
                self.stage = Stage::Started(Box::new(P::start(*ready, &self.context)?));
                Ok(())
            }
            Stage::Started(started) => {
                let resumed = P::resume(&started);
                self.stage = Stage::Started(started);
                resumed
            }
            other => self.refuse(other, "start"),
        }
    }

    /// Stops making work.
    ///
    /// # Errors
    /// If it has not begun, or something does not stop.
    pub fn pause(&mut self) -> Result<(), Failure> {
        P::pause(self.started("pause")?)
    }

    /// Goes on.
    ///
    /// # Errors
    /// If it has not begun, or something does not go on.
    pub fn resume(&mut self) -> Result<(), Failure> {
        P::resume(self.started("resume")?)
    }

    /// Its state.
    ///
    /// # Errors
    /// If it has not begun, or has no state that can be written.
    pub fn save(&mut self) -> Result<Vec<u8>, Failure> {
        P::save(self.started("save")?)
    }

    /// Switches or rearms the dirty log.
    ///
    /// # Errors
    /// If it is not configured, or a producer does not confirm.
    pub fn dirty_log(&mut self, op: DirtyLogOp) -> Result<(), Failure> {
        let configured = self.configured();
        P::dirty_log(configured.ok_or_else(|| self.unfit("switch the dirty log of"))?, op)
    }

    /// Counters and states.
    pub fn inspect(&self) -> Inspect {
        let mut inspect = Inspect::new();
        match self.configured() {
            Some(configured) => P::inspect(configured, &mut inspect),
            None => inspect.text("state", self.stage.as_str()),
        }
        inspect
    }

    /// Attempts what the sandbox must refuse.
    ///
    /// # Errors
    /// In a release build, which attempts nothing.
    pub fn probe(&mut self, probe: Probe) -> Result<ProbeOutcome, Failure> {
        probe.make(sandbox::by_name::attempt)
    }

    fn configured(&self) -> Option<Configured<'_, P>> {
        match &self.stage {
            Stage::Ready(ready) => Some(Configured::Ready(ready.as_ref())),
            Stage::Started(started) => Some(Configured::Started(started.as_ref())),
            Stage::Unconfigured(_) | Stage::Spent => None,
        }
    }

    fn started(&self, verb: &str) -> Result<&P::Started, Failure> {
        match &self.stage {
            Stage::Started(started) => Ok(started.as_ref()),
            _ => Err(self.unfit(verb)),
        }
    }

    /// Puts back what a request found that has no place now.
    fn refuse(&mut self, stage: Stage<P>, verb: &str) -> Result<(), Failure> {
        self.stage = stage;
        Err(self.unfit(verb))
    }

    fn unfit(&self, verb: &str) -> Failure {
        Failure::new(format!("{verb} {}", P::WHAT), format!("it is {}", self.stage.as_str()))
    }
}

impl<P: Program> Stage<P> {
    const fn as_str(&self) -> &'static str {
        match self {
            Self::Unconfigured(_) => "unconfigured",
            Self::Ready(_) => "configured and not started",
            Self::Started(_) => "started already",
            Self::Spent => "spent: a step failed half-way",
        }
    }
}
