// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The actions of a VM's state machine. [`super::driver`] executes them and waits for none; the outcome of an action is
//! an event.

use std::time::Duration;

use ipc::instance::InstanceId;
use ipc::protocol::control::{DirtyLogOp, LoadFrom, Request};
use ipc::protocol::lifecycle::State;
use ipc::protocol::probe::{Probe, ProbeOutcome};
use ipc::shm::dirty_log::Moment;

use super::event::{LifeId, Ticket, Timer};
use super::state_machine::Standstill;
use crate::lifecycle::Phase;
use crate::migration::features::Extent;
use crate::migration::message::Message;
use crate::problem::Problem;

/// What the driver is to do.
#[derive(Debug, Clone)]
pub enum Action {
    /// Make the shared objects of a boot and load the guest. Answered by `Loaded`.
    Load,
    /// Make the shared objects of the next set of processes. Answered by `Prepared`.
    Prepare,
    /// Make what the next lives of these processes do not have in common with those that there are. Answered by
    /// `Prepared`.
    PrepareRestart(Vec<InstanceId>),
    /// The next set, or the next life, is the current one from here on.
    Commit,
    /// The program that was given for a restart is its process's from here on.
    KeepProgram,
    /// Drop the objects of the next set, or the next life.
    Abandon,
    /// Connect to the servers of devices anew. Answered by `Reconnected`.
    Reconnect,
    /// Start a process. Answered by `Started` or `NotStarted`; its life ends with `Gone` in any case but the latter.
    Start(LifeId),
    /// The next lives of these processes, of this generation, go on with the objects that the lives before had, and
    /// with new channels. Answered by `Prepared` if that cannot be.
    Renew(u32, Vec<InstanceId>),
    /// No life of this device's process follows any more: the CPUs wait for it no longer, and their process unmaps it.
    CloseLink(InstanceId),
    /// Close the channels between processes of this generation: each has its end by now.
    CloseConnections(u32),
    /// Send a process a request. Answered by `Answered` or `Refused`, or by `Gone`.
    Request(LifeId, RequestKind),
    /// End a process. Answered by `Gone`.
    End(LifeId, Ending),
    /// Tell a vSMMU that the DMA of a device's process, which was reaped, has ended: also what the host would do
    /// instead of it, for its files are closed first, and nobody else has them.
    DmaEnded {
        /// The vSMMU.
        smmu: LifeId,
        /// The device's process.
        device: InstanceId,
    },
    /// Map the dirty logs of all processes, emptied in the name of this epoch. Answered by `DirtyLogsOpened`.
    OpenDirtyLogs(u64),
    /// Take what the dirty logs have.
    Harvest,
    /// A part of a migration.
    Migration(MigrationAction),
    /// Start a timer.
    Arm(Timer, Duration),
    /// Answer a client.
    Answer(Ticket, Result<Success, Problem>),
    /// Note the end of a stage of save/restore or restart, for its report.
    Lap(&'static str),
    /// Write a line to the log, or notify the launcher.
    Notify(Notice),
    /// Every process is gone: close everything that was handed over.
    Release,
}

/// A part of a migration that is not a process's.
#[derive(Debug, Clone)]
pub enum MigrationAction {
    /// Describe what is to move, that runs or not. Answered by `Offered`.
    Describe(bool),
    /// Have the launcher connect to the other host. Answered by `Dialled`.
    Dial,
    /// Make the shared objects of a guest that is to come. Answered by `Opened`.
    Open,
    /// Give the mover its connections, those that there are and those that come. Answered by `Connected` or `LinkLost`.
    TakeLanes,
    /// All of RAM is owed.
    OweAll,
    /// Take what the dirty logs have into the owed map. Answered by `Harvested`.
    Harvest(Moment),
    /// Send what is owed, as this round. Answered by `RoundSent` or `LinkLost`.
    SendRound(u32),
    /// Send what the processes have saved. Answered by `StatesQueued`.
    SendStates,
    /// Say this to the other coordinator.
    Say(Message),
    /// Let another host have the disks. Answered by `DisksReleased`.
    ReleaseDisks,
    /// Have them alone. Answered by `DisksLocked`.
    LockDisks,
    /// Compare this offer with this host's machine. Answered by `Compared`.
    Compare(Vec<u8>),
    /// Decide how the processes of the guest that was offered are configured. Answered by `Prepared`.
    Prepare,
    /// Compare the features of the guest's processes with those that were offered: those that are known here, or all.
    /// Answered by `FeaturesCompared`.
    CompareFeatures(Extent),
    /// Give the mover memory for the states of all processes.
    TakeStates,
    /// Check the states that have come against this. Answered by `Checked`.
    Check(Message),
    /// Ask the other host where the guest is. Answered by `Asked`.
    Ask,
    /// Nobody will ask here where the guest is.
    Settle,
    /// Take so many percent of their time from the guest's CPUs.
    Throttle(u8),
    /// Close the connections. Answered by `Closed`.
    Close,
    /// It is over: forget what was only its own.
    Forget,
}

/// A request to a process, without what [`super::driver`] adds: configurations, state and descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestKind {
    /// Take the configuration that the system table yields.
    Configure,
    /// Load state from this source.
    Load(LoadSource),
    /// Do everything else that can fail: open devices, connect, start threads.
    Arm,
    /// Put the loaded state into force.
    Replay,
    /// Begin.
    Go,
    /// Quiesce.
    Pause,
    /// Leave the pause.
    Resume,
    /// Answer whether it can be saved.
    CheckSave,
    /// Write its state units.
    Save,
    /// Take a new end of its channel to this process, which was started anew.
    Rewire(LifeId),
    /// Switch or report its dirty log.
    DirtyLog(DirtyLogOp),
    /// Attempt a system call that its sandbox must refuse.
    Probe(Probe),
    /// Hold the guest's CPUs and its time, or let both go on.
    HoldCpus(bool),
}

/// Where a process's state comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadSource {
    /// Nowhere: the reset state.
    Reset,
    /// From state units that an earlier life of the same instance wrote.
    Saved,
    /// From the checkpoint that the previous life left when it died.
    Checkpoint,
    /// Nowhere: lives before have died on their checkpoint. The guest finds a device that has failed, and resets it.
    Failed,
}

/// How a process is ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// It is asked to quit, and killed if it does not.
    Quit,
    /// It is killed: it must not deliver what another process has taken over.
    Discard,
    /// It is not to be trusted any more, for this reason; how it ends is reported.
    Failed(String),
    /// It hangs, as is said here, and is killed: it would not end by itself.
    Hung(String),
}

/// What a fulfilled command came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Success {
    /// The VM is in this phase now.
    In(Phase),
    /// The guest lives in the processes of this generation, with so many bytes of state each.
    Moved(u32, Vec<(InstanceId, u64)>),
    /// This life goes on where the one before it was, and so do those that it was started anew with: all of them, with
    /// so many bytes of state each.
    Restarted(LifeId, Vec<(InstanceId, u64)>),
    /// This life goes on where the one before it died, and the guest with it.
    Revived(LifeId),
    /// The guest runs at the other host.
    Migrated,
    /// The logs were harvested.
    DirtyRateMeasured,
    /// What the probe found.
    Probed(ProbeOutcome),
}

/// Lines of the log, and a message to the launcher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// The guest runs, after a boot.
    GuestRuns,
    /// The guest has come from another host, and is in this phase.
    GuestArrived(Phase),
    /// It is not known where the guest runs.
    Ambiguous,
    /// The guest switched itself off.
    GuestPoweredOff,
    /// The guest asked for a reset.
    GuestReset,
    /// This device is lost for this reason; the guest goes on without it.
    DeviceLost(InstanceId, String),
    /// This process died, for this reason, and is started anew.
    ProcessDied(InstanceId, String),
    /// So many next lives of a process have died on its checkpoint: the one that follows is a device that has failed.
    GivenUpCheckpoint(InstanceId, u32),
    /// The VM stands still.
    Held(Standstill),
    /// This life goes on where the one that died was.
    ProcessRevived(LifeId),
    /// These processes were killed and have not ended: they hang in the kernel.
    Hanging(Vec<InstanceId>),
}

impl RequestKind {
    /// The state of a process in `state` after it has fulfilled the request; `None` if the contract does not allow the
    /// request in that state.
    pub fn state_after(self, state: State) -> Option<State> {
        match self {
            // `State::after` does not look at the configuration, which is not at hand here.
            Self::Configure => (state == State::Unconfigured).then_some(State::Configured),
            Self::Load(_) => state.after(&Request::Load(LoadFrom::Reset)),
            Self::Arm => state.after(&Request::Arm),
            Self::Replay => state.after(&Request::Replay),
            Self::Go => state.after(&Request::Go),
            Self::Pause => state.after(&Request::Pause),
            Self::Resume => state.after(&Request::Resume),
            Self::CheckSave => state.after(&Request::CheckSave),
            Self::Save => state.after(&Request::Save),
            Self::Rewire(life) => {
                state.after(&Request::Rewire { peer: life.instance, epoch: life.generation })
            }
            Self::DirtyLog(op) => state.after(&Request::DirtyLog(op)),
            Self::Probe(probe) => state.after(&Request::Probe(probe)),
            Self::HoldCpus(held) => state.after(&Request::HoldCpus { held }),
        }
    }
}
