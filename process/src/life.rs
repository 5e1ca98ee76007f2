// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The life of a program: what it holds in each stage, and which request takes it to the next.
//!
//! ```text
//!   Unconfigured(Given) ──configure──► Ready ──load──► Loaded ──arm──► Armed
//!                                                                      replay, go; pause, resume, save
//! ```
//!
//! Given, Ready, Loaded and Armed are the program's own types: what a stage does not have cannot be asked for. A step
//! takes what a stage holds along, so one that fails half-way leaves [`Stage::Spent`]: only `Quit` comes then. Whether
//! a request has a place at all is `ipc`'s [`State`](ipc::protocol::lifecycle::State), which the service loop asks
//! before.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use ipc::hello::Role;
use ipc::instance::InstanceId;
use ipc::protocol::control::{
    DirtyLogOp, DirtyLogState, Failure, Quiescence, RoleConfig, SAVED_UNITS_LEN_MAX, StreamReplay,
};
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
    /// Configured: it knows what it is.
    type Ready;
    /// It has what it remembers, and nothing else that can fail is done.
    type Loaded;
    /// Everything that can fail is done. It begins with `go`.
    type Armed;

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
    /// Takes what it remembers; everything untrusted in it is validated here.
    ///
    /// # Errors
    /// What is wrong with it.
    fn load(ready: Self::Ready, source: Source, context: &Context) -> Result<Self::Loaded, Failure>;
    /// Does everything else that can fail. Nothing moves before `go`: no DMA, no CPU, no interrupt towards the guest.
    ///
    /// # Errors
    /// If a thread cannot be started, or a peer does not answer.
    fn arm(loaded: Self::Loaded, context: &Context) -> Result<Self::Armed, Failure>;
    /// Puts into force, outside of this process, what it remembers: a vSMMU attaches its streams, and says what came of
    /// each. `None`: it has none.
    ///
    /// # Errors
    /// If it cannot say what came of it.
    fn replay(armed: &Self::Armed) -> Result<Option<Vec<StreamReplay>>, Failure>;
    /// Opens gates. What goes wrong now goes wrong in a running VM: a device is lost, or the process cannot go on and
    /// says so ([`Events::fatal`](crate::Events::fatal)).
    fn go(armed: &Self::Armed, context: &Context);
    /// Stops making work; returns once nothing of the guest changes any more because of this process.
    ///
    /// # Errors
    /// If something did not stop in time.
    fn pause(armed: &Self::Armed) -> Result<(), Failure>;
    /// Goes on after `pause`; nothing changes if it was not paused.
    ///
    /// # Errors
    /// If something did not begin in time.
    fn resume(armed: &Self::Armed) -> Result<(), Failure>;
    /// What was begun and is not finished. Waits for no peer.
    fn in_flight(armed: &Self::Armed) -> Quiescence;
    /// Whether it could be saved now. Changes nothing.
    ///
    /// # Errors
    /// Why it could not.
    fn check_save(armed: &Self::Armed) -> Result<(), Failure>;
    /// Writes its state, as a stream of state units.
    ///
    /// # Errors
    /// If the state cannot be written.
    fn save(armed: &Self::Armed, into: &mut dyn Write) -> Result<(), Failure>;
    /// Switches or rearms the dirty log.
    ///
    /// # Errors
    /// If a producer did not confirm in time.
    fn dirty_log(configured: Configured<'_, Self>, op: DirtyLogOp) -> Result<DirtyLogState, Failure>;
    /// The DMA of this device has ended for good: its process is gone, and nothing of the host's does it instead.
    ///
    /// # Errors
    /// If no such device is behind it.
    fn dma_ended(configured: Configured<'_, Self>, device: InstanceId) -> Result<(), Failure>;
    /// Takes a new end of its channel with `peer`, whose next life is at the other end. A program has no channel that
    /// can be exchanged unless it says so.
    ///
    /// # Errors
    /// If there is no such channel.
    fn rewire(_armed: &Self::Armed, peer: InstanceId, _epoch: u32, _channel: OwnedFd) -> Result<(), Failure> {
        Err(Failure::new(format!("take a new channel to {peer}"), "it has none that can be exchanged"))
    }
    /// Counters and states. Waits for no peer.
    fn inspect(configured: Configured<'_, Self>, inspect: &mut Inspect);
}

/// Where what a program remembers comes from.
pub enum Source {
    /// It begins out of reset.
    Reset,
    /// A stream of state units, which is untrusted. A program may keep the rest of it until it is armed.
    Units(Box<dyn Read + Send>),
}

/// Reads a whole stream of state units into private memory, up to the largest that there is.
///
/// # Errors
/// If it cannot be read, or is longer.
pub fn read_units(stream: impl Read) -> Result<Vec<u8>, Failure> {
    let fail = |why: &dyn ToString| Failure::new("read the saved state", why.to_string());
    let mut units = Vec::new();
    stream.take(SAVED_UNITS_LEN_MAX + 1).read_to_end(&mut units).map_err(|error| fail(&error))?;
    if units.len() as u64 > SAVED_UNITS_LEN_MAX {
        return Err(fail(&format_args!("it is longer than {SAVED_UNITS_LEN_MAX:#x} bytes")));
    }
    Ok(units)
}

/// What a program answers to the end of a device's DMA that has no devices behind it.
///
/// # Errors
/// Always.
pub fn no_device_behind(device: InstanceId) -> Result<(), Failure> {
    Err(Failure::new(format!("take note of the end of the DMA of {device}"), "it is not behind this process"))
}

/// A program that is configured.
pub enum Configured<'a, P: Program> {
    /// It remembers nothing.
    Ready(&'a P::Ready),
    /// It is not armed.
    Loaded(&'a P::Loaded),
    /// It is armed, or has begun.
    Armed(&'a P::Armed),
}

enum Stage<P: Program> {
    Unconfigured(Box<P::Given>),
    Ready(Box<P::Ready>),
    Loaded(Box<P::Loaded>),
    Armed(Box<P::Armed>),
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

    /// Takes what it remembers.
    ///
    /// # Errors
    /// If the stream is no state of such a program. It can only quit then.
    pub fn load(&mut self, source: Source) -> Result<(), Failure> {
        match std::mem::replace(&mut self.stage, Stage::Spent) {
            Stage::Ready(ready) => {
                self.stage = Stage::Loaded(Box::new(P::load(*ready, source, &self.context)?));
                Ok(())
            }
            other => self.refuse(other, "load"),
        }
    }

    /// Does everything else that can fail.
    ///
    /// # Errors
    /// If it is not loaded, or the host or a peer refuses something. It can only quit then.
    pub fn arm(&mut self) -> Result<(), Failure> {
        match std::mem::replace(&mut self.stage, Stage::Spent) {
            Stage::Loaded(loaded) => {
                self.stage = Stage::Armed(Box::new(P::arm(*loaded, &self.context)?));
                Ok(())
            }
            other => self.refuse(other, "arm"),
        }
    }

    /// Puts into force what it remembers.
    ///
    /// # Errors
    /// If it is not armed, or cannot say what came of it.
    pub fn replay(&mut self) -> Result<Option<Vec<StreamReplay>>, Failure> {
        P::replay(self.armed("replay")?)
    }

    /// Begins.
    ///
    /// # Errors
    /// If it is not armed.
    pub fn go(&mut self) -> Result<(), Failure> {
        P::go(self.armed("let go")?, &self.context);
        Ok(())
    }

    /// The whole way in, out of reset: for who drives a program without a coordinator.
    ///
    /// # Errors
    /// Of the step that failed.
    pub fn boot(&mut self) -> Result<(), Failure> {
        self.load(Source::Reset)?;
        self.arm()?;
        self.replay()?;
        self.go()
    }

    /// Stops making work, and says what is in flight then.
    ///
    /// # Errors
    /// If it is not armed, or something does not stop.
    pub fn pause(&mut self) -> Result<Quiescence, Failure> {
        let armed = self.armed("pause")?;
        P::pause(armed)?;
        Ok(P::in_flight(armed))
    }

    /// Goes on.
    ///
    /// # Errors
    /// If it is not armed, or something does not go on.
    pub fn resume(&mut self) -> Result<(), Failure> {
        P::resume(self.armed("resume")?)
    }

    /// Whether it could be saved now.
    ///
    /// # Errors
    /// Why it could not.
    pub fn check_save(&mut self) -> Result<(), Failure> {
        P::check_save(self.armed("save")?)
    }

    /// Writes its state.
    ///
    /// # Errors
    /// If it is not armed, or has no state that can be written.
    pub fn save(&mut self, into: &mut dyn Write) -> Result<(), Failure> {
        P::save(self.armed("save")?, into)
    }

    /// Switches or rearms the dirty log.
    ///
    /// # Errors
    /// If it is not configured, or a producer does not confirm.
    pub fn dirty_log(&mut self, op: DirtyLogOp) -> Result<DirtyLogState, Failure> {
        let configured = self.configured();
        P::dirty_log(configured.ok_or_else(|| self.unfit("switch the dirty log of"))?, op)
    }

    /// The DMA of this device has ended.
    ///
    /// # Errors
    /// If it is not configured, or no such device is behind it.
    pub fn dma_ended(&mut self, device: InstanceId) -> Result<(), Failure> {
        let configured = self.configured();
        P::dma_ended(configured.ok_or_else(|| self.unfit("tell of a device"))?, device)
    }

    /// Takes a new end of its channel with `peer`.
    ///
    /// # Errors
    /// If it is not armed, or has no such channel.
    pub fn rewire(&mut self, peer: InstanceId, epoch: u32, channel: OwnedFd) -> Result<(), Failure> {
        P::rewire(self.armed("rewire")?, peer, epoch, channel)
    }

    /// Counters and states.
    pub fn inspect(&self) -> Inspect {
        let mut inspect = Inspect::new();
        match self.configured() {
            Some(configured) => P::inspect(configured, &mut inspect),
            None => inspect.text("state", self.stage.as_str()),
        }
        if let Stage::Armed(armed) = &self.stage {
            P::in_flight(armed).inspect(&mut inspect);
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
            Stage::Loaded(loaded) => Some(Configured::Loaded(loaded.as_ref())),
            Stage::Armed(armed) => Some(Configured::Armed(armed.as_ref())),
            Stage::Unconfigured(_) | Stage::Spent => None,
        }
    }

    fn armed(&self, verb: &str) -> Result<&P::Armed, Failure> {
        match &self.stage {
            Stage::Armed(armed) => Ok(armed.as_ref()),
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
            Self::Ready(_) => "configured and not loaded",
            Self::Loaded(_) => "loaded and not armed",
            Self::Armed(_) => "armed already",
            Self::Spent => "spent: a step failed half-way",
        }
    }
}
