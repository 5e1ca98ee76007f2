// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The life of a program: its stages, and the requests that lead from one to the next.
//!
//! ```text
//!   Unconfigured(Given) ──configure──► Ready ──load──► Loaded ──arm──► Armed
//!                                                                      replay, go; pause, resume, save
//! ```
//!
//! Given, Ready, Loaded and Armed are types of the program, so that a stage cannot be asked for what it does not have.
//! A step consumes the value of its stage: if it fails, [`Stage::Spent`] is left, which only `Quit` leaves. Whether a
//! request is allowed is checked before by the service loop, against [`State`](ipc::protocol::lifecycle::State).

use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use ipc::hello::Role;
use ipc::instance::InstanceId;
use ipc::protocol::control::{
    DirtyLogOp, DirtyLogState, Failure, Quiescence, RoleConfig, SAVED_UNITS_LEN_MAX, StreamReplay,
};
use ipc::protocol::inspect::Inspect;
use ipc::protocol::mover::MoverRequest;
use ipc::protocol::probe::{Probe, ProbeOutcome};

use crate::context::Context;

/// A program: one function per request. All are called from one thread, in the stage whose type they take.
pub trait Program: Sized {
    /// Its role on the control channel.
    const ROLE: Role;
    /// Its name in failures: "the SMMU".
    const WHAT: &'static str;
    /// The descriptors that it was given at exec, besides control channel, crash page and log.
    type Given;
    /// Its configuration.
    type Config;
    /// Configured.
    type Ready;
    /// Its state is loaded.
    type Loaded;
    /// Everything that can fail has been done; it runs from `go` on.
    type Armed;

    /// Checks that the configuration is for this program.
    ///
    /// # Errors
    /// If it is not. The process stays unconfigured.
    fn accept(config: RoleConfig) -> Result<Self::Config, Failure>;
    /// Configures it.
    ///
    /// # Errors
    /// If the configuration does not fit the descriptors, or the host refuses something.
    fn configure(config: Self::Config, given: Self::Given, context: &Context)
    -> Result<Self::Ready, Failure>;
    /// Loads its state, which is untrusted and validated here.
    ///
    /// # Errors
    /// What is wrong with the state.
    fn load(ready: Self::Ready, source: Source, context: &Context) -> Result<Self::Loaded, Failure>;
    /// Does everything else that can fail. Until `go` it causes no DMA, runs no CPU and raises no interrupt.
    ///
    /// # Errors
    /// If a thread cannot be started, or a peer does not answer.
    fn arm(loaded: Self::Loaded, context: &Context) -> Result<Self::Armed, Failure>;
    /// Applies the loaded state outside of this process: a vSMMU attaches its streams, and returns the outcome for
    /// each. `None`: it has no streams.
    ///
    /// # Errors
    /// If the outcome is not known.
    fn replay(armed: &Self::Armed) -> Result<Option<Vec<StreamReplay>>, Failure>;
    /// Opens gates. A failure from here on is one in a running VM: a device is lost, or the process cannot go on
    /// ([`Events::fatal`](crate::Events::fatal)).
    fn go(armed: &Self::Armed, context: &Context);
    /// Begins, and is paused from the first moment on: what [`Self::go`] does, but for letting anything move. By
    /// default a program cannot; one that runs guest code must be able to.
    ///
    /// # Errors
    /// If it cannot.
    fn begin_paused(_armed: &Self::Armed) -> Result<(), Failure> {
        Err(Failure::new(
            format!("begin {} paused", Self::WHAT),
            "it runs no guest code: let it go, and pause it",
        ))
    }
    /// Quiesces the process: returns once it changes no state that the guest can see.
    ///
    /// # Errors
    /// If something did not stop in time.
    fn pause(armed: &Self::Armed) -> Result<(), Failure>;
    /// Resumes after `pause`; does nothing if it is not paused.
    ///
    /// # Errors
    /// If something did not resume in time.
    fn resume(armed: &Self::Armed) -> Result<(), Failure>;
    /// The work that was begun and not finished. Waits for no peer.
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
    /// Enables, disables or re-arms the dirty log.
    ///
    /// # Errors
    /// If a producer did not confirm in time.
    fn dirty_log(configured: Configured<'_, Self>, op: DirtyLogOp) -> Result<DirtyLogState, Failure>;
    /// The DMA of this device has ended for good: its process was reaped, and the host does no DMA for it any more.
    ///
    /// # Errors
    /// If no such device is behind it.
    fn dma_ended(configured: Configured<'_, Self>, device: InstanceId) -> Result<(), Failure>;
    /// Takes its end of a new channel to the next life of `peer`. By default a program has no channel that can be
    /// replaced.
    ///
    /// # Errors
    /// If there is no such channel.
    fn rewire(_armed: &Self::Armed, peer: InstanceId, _epoch: u32, _channel: OwnedFd) -> Result<(), Failure> {
        Err(Failure::new(
            format!("take a new channel to {peer}"),
            "it has no channel to that process that can be replaced",
        ))
    }
    /// Carries for the coordinator, as a mover does, and comes back at once. No other program does.
    ///
    /// # Errors
    /// If the request has no place.
    fn carry(
        _configured: Configured<'_, Self>,
        _request: MoverRequest,
        _descriptor: Option<OwnedFd>,
    ) -> Result<(), Failure> {
        Err(Failure::new("carry", "it is no mover"))
    }
    /// Holds the guest's CPUs, and its time, or lets them go on; at once. By default a program has none.
    ///
    /// # Errors
    /// If it runs no guest code.
    fn hold_cpus(_armed: &Self::Armed, _held: bool) -> Result<(), Failure> {
        Err(Failure::new("hold the guest's CPUs", format!("{} has none", Self::WHAT)))
    }
    /// Takes so many percent of their time from the guest's CPUs. By default a program has none.
    ///
    /// # Errors
    /// If it has no CPUs, or the share is too great.
    fn throttle(_armed: &Self::Armed, _percent: u8) -> Result<(), Failure> {
        Err(Failure::new("slow the guest's CPUs down", "it has none"))
    }
    /// How many turns its ring thread has taken ([`RingThread::turns`](crate::ring_thread::RingThread::turns)). By
    /// default a program serves no ring. Waits for nobody, and takes no lock that is held across work.
    fn turns(_armed: &Self::Armed) -> Option<u64> {
        None
    }
    /// Counters and states. Waits for no peer.
    fn inspect(configured: Configured<'_, Self>, inspect: &mut Inspect);
}

/// Where a program loads its state from.
pub enum Source {
    /// Its reset state.
    Reset,
    /// A stream of state units, which is untrusted. A program may keep the rest of it until it is armed.
    Units(Box<dyn Read + Send>),
    /// The checkpoint of the life before, which died, in the memory object that the program was given for it. The guest
    /// runs, and may have asked for something that was not answered.
    Checkpoint,
    /// None: lives before have died on theirs. The guest runs, is told that the device has failed, and resets it.
    Failed,
}

/// Reads a whole stream of state units into private memory, up to [`SAVED_UNITS_LEN_MAX`] bytes.
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

/// The answer to a load from a checkpoint of a program that keeps none.
#[must_use]
pub fn no_checkpoint() -> Failure {
    Failure::new("load the checkpoint of the life before", "it keeps no checkpoint")
}

/// The answer to a load as a device that has failed, of a program whose guest could not be told so.
#[must_use]
pub fn cannot_have_failed() -> Failure {
    Failure::new("begin as a device that has failed", "its guest cannot be told that, and reset it")
}

/// The answer to [`Program::dma_ended`] of a program without devices behind it.
///
/// # Errors
/// Always.
pub fn no_device_behind(device: InstanceId) -> Result<(), Failure> {
    Err(Failure::new(format!("note the end of the DMA of {device}"), "it is not behind this process"))
}

/// A program that is configured.
pub enum Configured<'a, P: Program> {
    /// Not loaded.
    Ready(&'a P::Ready),
    /// Loaded, not armed.
    Loaded(&'a P::Loaded),
    /// Armed, or running.
    Armed(&'a P::Armed),
}

enum Stage<P: Program> {
    Unconfigured(Box<P::Given>),
    Ready(Box<P::Ready>),
    Loaded(Box<P::Loaded>),
    Armed(Box<P::Armed>),
    /// A step failed: only `Quit` is allowed.
    Spent,
}

/// A program with its stage.
pub struct Life<P: Program> {
    context: Context,
    stage: Stage<P>,
}

impl<P: Program> Life<P> {
    /// An unconfigured program.
    pub fn new(given: P::Given, context: Context) -> Self {
        Self { context, stage: Stage::Unconfigured(Box::new(given)) }
    }

    /// The program's context.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Configures it.
    ///
    /// # Errors
    /// If it is configured already, or the configuration is not for this program.
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

    /// Loads its state.
    ///
    /// # Errors
    /// If the stream is not a valid state of such a program, which can only quit then.
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
    /// If it is not loaded, or the host or a peer refuses something; the program can only quit then.
    pub fn arm(&mut self) -> Result<(), Failure> {
        match std::mem::replace(&mut self.stage, Stage::Spent) {
            Stage::Loaded(loaded) => {
                self.stage = Stage::Armed(Box::new(P::arm(*loaded, &self.context)?));
                Ok(())
            }
            other => self.refuse(other, "arm"),
        }
    }

    /// Applies the loaded state outside of the process.
    ///
    /// # Errors
    /// If it is not armed, or the outcome is not known.
    pub fn replay(&mut self) -> Result<Option<Vec<StreamReplay>>, Failure> {
        P::replay(self.armed("replay")?)
    }

    /// Starts running.
    ///
    /// # Errors
    /// If it is not armed.
    pub fn go(&mut self) -> Result<(), Failure> {
        P::go(self.armed("start")?, &self.context);
        Ok(())
    }

    /// Begins paused.
    ///
    /// # Errors
    /// If it is not armed, or cannot.
    pub fn begin_paused(&mut self) -> Result<Quiescence, Failure> {
        let armed = self.armed("begin")?;
        P::begin_paused(armed)?;
        Ok(P::in_flight(armed))
    }

    /// All steps from reset to running: for tests, which have no coordinator.
    ///
    /// # Errors
    /// Of the step that failed.
    pub fn boot(&mut self) -> Result<(), Failure> {
        self.load(Source::Reset)?;
        self.arm()?;
        self.replay()?;
        self.go()
    }

    /// Quiesces the program, and returns what is still in flight.
    ///
    /// # Errors
    /// If it is not armed, or something does not stop.
    pub fn pause(&mut self) -> Result<Quiescence, Failure> {
        let armed = self.armed("pause")?;
        P::pause(armed)?;
        Ok(P::in_flight(armed))
    }

    /// Resumes it.
    ///
    /// # Errors
    /// If it is not armed, or something does not resume in time.
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

    /// Enables, disables or re-arms the dirty log.
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

    /// Takes its end of a new channel to the next life of `peer`.
    ///
    /// # Errors
    /// If it is not armed, or has no such channel.
    pub fn rewire(&mut self, peer: InstanceId, epoch: u32, channel: OwnedFd) -> Result<(), Failure> {
        P::rewire(self.armed("rewire")?, peer, epoch, channel)
    }

    /// Holds the guest's CPUs, or lets them go on.
    ///
    /// # Errors
    /// If it is not armed, or has none.
    pub fn hold_cpus(&mut self, held: bool) -> Result<(), Failure> {
        P::hold_cpus(self.armed("hold the CPUs of")?, held)
    }

    /// Takes so many percent of their time from the guest's CPUs.
    ///
    /// # Errors
    /// If it is not armed, has no CPUs, or the share is too great.
    pub fn throttle(&mut self, percent: u8) -> Result<(), Failure> {
        P::throttle(self.armed("slow the guest's CPUs down")?, percent)
    }

    /// How many turns its ring thread has taken, if it serves a ring.
    pub fn turns(&self) -> Option<u64> {
        match &self.stage {
            Stage::Armed(armed) => P::turns(armed),
            _ => None,
        }
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

    /// Carries for the coordinator.
    ///
    /// # Errors
    /// If it is not configured, or no mover, or the request has no place.
    pub fn carry(&mut self, request: MoverRequest, descriptor: Option<OwnedFd>) -> Result<(), Failure> {
        match self.configured() {
            Some(configured) => P::carry(configured, request, descriptor),
            None => Err(self.unfit("carry by")),
        }
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

    /// Puts the stage back, which does not allow the request.
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
            Self::Spent => "spent: a step failed, it can only quit",
        }
    }
}
