// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The events of a VM: the only input of its state machine.
//!
//! Events of a process are tagged with its life, so that late events of an earlier life are recognised and dropped.
//! Timeouts are events too: the machine requests timers and has no clock.

use std::collections::BTreeMap;
use std::time::Duration;

use ipc::instance::InstanceId;
use ipc::protocol::control::{self, Quiescence, StreamReplay};
use ipc::protocol::probe::{Probe, ProbeOutcome};

use crate::lifecycle::Why;
use crate::problem::Problem;

/// One life of an instance: a process from its start until it is reaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LifeId {
    /// Counts up with every boot, save/restore and restart; processes that were started together have the same.
    pub generation: u32,
    /// Which process it is a life of.
    pub instance: InstanceId,
}

/// Identifies a client's command until it is answered.
pub type Ticket = u64;

/// Input of the state machine: from processes, clients, timers and the driver.
#[derive(Debug, Clone)]
pub enum Event {
    /// Boot the VM. The first event, once.
    Boot,
    /// The shared objects of a boot were made and the guest was loaded, or why not.
    Loaded(Result<(), Problem>),
    /// The shared objects for the next set of processes, or the next life of one, were made, or why not.
    Prepared(Result<(), Problem>),
    /// The launcher has connected to the devices' servers again: the devices whose servers could not be reached, and
    /// why. An error of the host ends the VM.
    Reconnected(Result<BTreeMap<InstanceId, String>, Problem>),
    /// The dirty logs are mapped, or why not.
    DirtyLogsOpened(Result<(), Problem>),
    /// An event of a process.
    Process(LifeId, ProcessEvent),
    /// A client's command.
    Command(Ticket, Command),
    /// The VM is to end.
    Stop(Why),
    /// A timer has expired.
    Timeout(Timer),
}

/// What happened to one life of a process.
#[derive(Debug, Clone)]
pub enum ProcessEvent {
    /// It has said hello, is sealed, and takes requests.
    Started,
    /// The host could not start it.
    NotStarted(Problem),
    /// It fulfilled the request.
    Answered(Outcome),
    /// It failed the request, and is as it was.
    Refused(Problem),
    /// It sent an event.
    Reported(control::Event),
    /// It has ended. The last event of every life.
    Gone(Departure),
}

/// The result of a fulfilled request.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// No result.
    Done,
    /// This many bytes of state were saved.
    Saved(u64),
    /// It is quiesced; what is in flight.
    Paused(Quiescence),
    /// The outcome for each stream behind the vSMMU.
    Replayed(Vec<StreamReplay>),
    /// The outcome of a probe.
    Probed(ProbeOutcome),
}

/// How a life ended.
#[derive(Debug, Clone)]
pub struct Departure {
    /// The process was reaped. If not, it hangs in the kernel, with everything that it holds.
    pub reaped: bool,
    /// It ended by itself, or by a signal that the coordinator did not send.
    pub by_itself: bool,
    /// What is known about an unexpected end.
    pub problem: Problem,
    /// The last lines of its log.
    pub last_lines: Vec<String>,
}

/// A client's command. A request to stop is [`Event::Stop`], since it waits for no other.
#[derive(Debug, Clone)]
pub enum Command {
    /// Pause the guest.
    Pause,
    /// Resume the guest.
    Resume,
    /// Move it into new processes.
    SaveRestore,
    /// Restart the process of this name, with its state.
    Restart(String),
    /// Measure the guest's dirty rate for this long.
    DirtyRate(Duration),
    /// Have the process of this name attempt what its sandbox refuses.
    Probe(String, Probe),
}

/// What a timer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// The process has to report the outcome of opening its device.
    DeviceOutcome(LifeId),
    /// The device has failed: its server may be ending too, and its report says more.
    ServerEnd(LifeId),
    /// The boot of this number is long enough ago for the next one.
    NextBoot(u32),
    /// The measurement of this epoch is over.
    DirtyRate(u64),
    /// The death of this process, with its number, does not count towards the limit any more.
    DeathForgotten(InstanceId, u32),
    /// Every process must have ended.
    Stop,
}

impl Timer {
    /// Whether processes have to have done something by then: it runs in the coordinator's own time.
    pub const fn is_deadline(self) -> bool {
        match self {
            Self::DeviceOutcome(_) | Self::Stop => true,
            Self::ServerEnd(_) | Self::NextBoot(_) | Self::DirtyRate(_) | Self::DeathForgotten(..) => false,
        }
    }
}
