// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a VM's state machine orders. Carried out by [`super::driver`]; none of it is waited for, what comes of it is
//! an event.

use std::time::Duration;

use ipc::instance::InstanceId;
use ipc::protocol::control::{DirtyLogOp, LoadFrom, Request};
use ipc::protocol::lifecycle::State;
use ipc::protocol::probe::{Probe, ProbeOutcome};

use super::event::{LifeId, Ticket, Timer};
use crate::lifecycle::Phase;
use crate::problem::Problem;

/// Something to be done.
#[derive(Debug, Clone)]
pub enum Action {
    /// Make the shared objects of a boot and load the guest. Answered by `Loaded`.
    Load,
    /// Make the shared objects of the next set of processes. Answered by `Prepared`.
    Prepare,
    /// Make what the next lives of these processes do not have in common with those that there are. Answered by
    /// `Prepared`.
    PrepareRestart(Vec<InstanceId>),
    /// The next set, or the next life, is the one that runs now.
    Commit,
    /// There will be none.
    Abandon,
    /// Connect to the servers of devices anew. Answered by `Reconnected`.
    Reconnect,
    /// Start a process. Answered by `Started` or `NotStarted`; its life ends with `Gone` in any case but the latter.
    Start(LifeId),
    /// Start the next life of a process that died, with the objects that it had and new channels to its peers. Answered
    /// as `Start` is.
    Revive(LifeId),
    /// Close the channels between processes of this generation: each has its end by now.
    CloseConnections(u32),
    /// Ask a process for something. Answered by `Answered` or `Refused`, or by `Gone`.
    Ask(LifeId, Order),
    /// End a process. Answered by `Gone`.
    End(LifeId, Ending),
    /// Tell a vSMMU that the DMA of a device's process, which was reaped, has ended: also what the host would do
    /// instead of it.
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
    /// Start a timer.
    Arm(Timer, Duration),
    /// Answer a client.
    Answer(Ticket, Result<Success, Problem>),
    /// A stage of save/restore is over.
    Lap(&'static str),
    /// Tell people.
    Tell(Notice),
    /// Every process is gone: close everything that was handed over.
    Release,
}

/// What a process is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// To become what the table says.
    Configure,
    /// To take what it remembers: nothing, out of reset, the state that the same instance wrote, or its checkpoint.
    Load(Memory),
    /// To do everything else that can fail.
    Arm,
    /// To put into force what it remembers.
    Replay,
    /// To begin.
    Go,
    /// To stop making work.
    Pause,
    /// To go on.
    Resume,
    /// To say whether it could be saved.
    CheckSave,
    /// To write its state.
    Save,
    /// To take a new end of the channel that it has with the process whose next life this is.
    Rewire(LifeId),
    /// To do this with its dirty log.
    DirtyLog(DirtyLogOp),
    /// To attempt what its sandbox refuses.
    Probe(Probe),
}

/// Where what a process remembers comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// It begins out of reset.
    Reset,
    /// The same instance has written it.
    Saved,
    /// The life before has left it, which died.
    Checkpoint,
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
    /// The logs were harvested.
    DirtyRateMeasured,
    /// What the probe found.
    Probed(ProbeOutcome),
}

/// What people are told: lines of the log, and a word to the launcher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// The guest runs, after a boot.
    GuestRuns,
    /// The guest switched itself off.
    GuestPoweredOff,
    /// The guest asked for a reset.
    GuestReset,
    /// The guest is without this device from now on, because of this.
    DeviceLost(InstanceId, String),
    /// This process died, in this way, and is started anew.
    ProcessDied(InstanceId, String),
    /// This life goes on where the one that died was.
    ProcessRevived(LifeId),
    /// These were killed and are not gone.
    Hanging(Vec<InstanceId>),
}

impl Order {
    /// Where a process that is in `state` stands when it has obeyed; `None` if the contract has no place for the
    /// order there.
    pub fn state_after(self, state: State) -> Option<State> {
        match self {
            // What the message says makes no difference to it.
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
        }
    }
}
