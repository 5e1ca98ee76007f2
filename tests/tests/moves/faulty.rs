// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A shipped program with a fault injected into save/restores: at one step of one attempt it refuses or dies.
//!
//! Attempt `k` moves the guest from generation 1 to `k + 1`, and all before it have failed: so a process of the old set
//! knows the attempt by how often it was asked whether it can be saved, and one of the new set by its generation. A
//! restart is an attempt like a move. A process that stays knows it by how often it was rewired, and refuses that the
//! first time, and to replay the second time.

use std::io::Write;
use std::marker::PhantomData;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};

use ipc::instance::InstanceId;
use ipc::protocol::control::{Failure, StreamReplay};
use process::{Context, Program, Source};

use crate::altered::Altered;

/// Where it fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Check,
    Pause,
    Save,
    Configure,
    Load,
    Arm,
    Replay,
    Rewire,
    /// Of a process that was rewired.
    ReplayOfPeer,
}

/// How.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    Refuses,
    Dies,
}

/// What fails in each attempt, the first one first. The death of an old process is one in a running VM, and tested as
/// that.
pub const FAULTS: [(Step, How); 11] = [
    (Step::Check, How::Refuses),
    (Step::Pause, How::Refuses),
    (Step::Save, How::Refuses),
    (Step::Configure, How::Refuses),
    (Step::Configure, How::Dies),
    (Step::Load, How::Refuses),
    (Step::Load, How::Dies),
    (Step::Arm, How::Refuses),
    (Step::Arm, How::Dies),
    (Step::Replay, How::Refuses),
    (Step::Replay, How::Dies),
];

/// What a process that stays refuses in each attempt to restart one that it has a channel with.
pub const FAULTS_OF_PEERS: [Step; 2] = [Step::Rewire, Step::ReplayOfPeer];

/// The exit code of a process that dies at an injected fault.
pub const STATUS: i32 = 77;

static GENERATION: AtomicU32 = AtomicU32::new(0);
static CHECKS: AtomicU32 = AtomicU32::new(0);
static REWIRINGS: AtomicU32 = AtomicU32::new(0);

impl Step {
    /// The step, as messages name it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Check => "check",
            Self::Pause => "pause",
            Self::Save => "save",
            Self::Configure => "configure",
            Self::Load => "load",
            Self::Arm => "arm",
            Self::Replay | Self::ReplayOfPeer => "replay",
            Self::Rewire => "rewire",
        }
    }

    /// Of a process that stays: refuses, or does not.
    fn pass_of_peer(self) -> Result<(), Failure> {
        let attempt = usize::try_from(REWIRINGS.load(Ordering::Relaxed)).ok();
        match attempt.and_then(|attempt| FAULTS_OF_PEERS.get(attempt.checked_sub(1)?)) {
            Some(step) if *step == self => Err(Failure::new(self.as_str(), "injected fault")),
            _ => Ok(()),
        }
    }

    /// Refuses, dies, or does neither.
    fn pass(self) -> Result<(), Failure> {
        let (generation, checks) = (GENERATION.load(Ordering::Relaxed), CHECKS.load(Ordering::Relaxed));
        let is_old = matches!(self, Self::Check | Self::Pause | Self::Save);
        let attempt = match (is_old, generation) {
            (true, 1) => checks,
            (true, _) => return Ok(()),
            (false, _) => generation.saturating_sub(1),
        };
        let fault = usize::try_from(attempt).ok().and_then(|attempt| FAULTS.get(attempt.checked_sub(1)?));
        match fault {
            Some((step, How::Refuses)) if *step == self => Err(Failure::new(self.as_str(), "injected fault")),
            Some((step, How::Dies)) if *step == self => std::process::exit(STATUS),
            _ => Ok(()),
        }
    }
}

/// The program.
pub struct Faulty<P>(PhantomData<P>);

impl<P: Program + 'static> Altered for Faulty<P> {
    type Of = P;

    fn configure(config: P::Config, given: P::Given, context: &Context) -> Result<P::Ready, Failure> {
        GENERATION.store(context.generation, Ordering::Relaxed);
        Step::Configure.pass()?;
        P::configure(config, given, context)
    }
    fn load(ready: P::Ready, source: Source, context: &Context) -> Result<P::Loaded, Failure> {
        Step::Load.pass()?;
        P::load(ready, source, context)
    }
    fn arm(loaded: P::Loaded, context: &Context) -> Result<P::Armed, Failure> {
        // The worst moment: everything is up.
        let armed = P::arm(loaded, context)?;
        Step::Arm.pass()?;
        Ok(armed)
    }
    fn replay(armed: &P::Armed) -> Result<Option<Vec<StreamReplay>>, Failure> {
        let replayed = P::replay(armed)?;
        Step::Replay.pass()?;
        Step::ReplayOfPeer.pass_of_peer()?;
        Ok(replayed)
    }
    fn pause(armed: &P::Armed) -> Result<(), Failure> {
        Step::Pause.pass()?;
        P::pause(armed)
    }
    fn check_save(armed: &P::Armed) -> Result<(), Failure> {
        CHECKS.fetch_add(1, Ordering::Relaxed);
        Step::Check.pass()?;
        P::check_save(armed)
    }
    fn save(armed: &P::Armed, into: &mut dyn Write) -> Result<(), Failure> {
        Step::Save.pass()?;
        P::save(armed, into)
    }
    fn rewire(armed: &P::Armed, peer: InstanceId, epoch: u32, channel: OwnedFd) -> Result<(), Failure> {
        REWIRINGS.fetch_add(1, Ordering::Relaxed);
        Step::Rewire.pass_of_peer()?;
        P::rewire(armed, peer, epoch, channel)
    }
}
