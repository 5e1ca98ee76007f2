// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What may happen to a VM: everything that its state machine is told, and nothing else reaches it.
//!
//! What a process does is tagged with the life that did it, so that a late word of a life that is over changes nothing.
//! Deadlines are events too: the machine orders a timer and has no clock.

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
    /// Whose life it is.
    pub instance: InstanceId,
}

/// Identifies a client's command until it is answered.
pub type Ticket = u64;

/// Something that happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// The VM is to begin. Once, first.
    Boot,
    /// The shared objects of a boot are there and the guest is loaded, or why not.
    Loaded(Result<(), Problem>),
    /// The shared objects for the next set of processes, or the next life of one, are there, or why not.
    Prepared(Result<(), Problem>),
    /// The servers of devices were connected to anew: those that were not reached, and why. An error of the host's
    /// ends the VM.
    Reconnected(Result<BTreeMap<InstanceId, String>, Problem>),
    /// The dirty logs are mapped, or why not.
    DirtyLogsOpened(Result<(), Problem>),
    /// A process did something, or something became of it.
    Process(LifeId, ProcessEvent),
    /// A client asks for something.
    Command(Ticket, Command),
    /// The VM is to end.
    Stop(Why),
    /// A timer that was ordered has run out.
    Timeout(Timer),
}

/// What one process does, or what becomes of it.
#[derive(Debug, Clone)]
pub enum ProcessEvent {
    /// It is sealed, has greeted, and takes requests.
    Started,
    /// The host could not start it: there is no such process.
    NotStarted(Problem),
    /// It has done what it was asked.
    Answered(Outcome),
    /// It answers that it cannot, and is as it was.
    Refused(Problem),
    /// It tells something that nobody asked for.
    Reported(control::Event),
    /// Its life is over. The last event of every life.
    Gone(Departure),
}

/// What came of a request that was fulfilled.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// It is done.
    Done,
    /// So many bytes of state were saved.
    Saved(u64),
    /// It holds still, and so much is in flight.
    Paused(Quiescence),
    /// What became of each stream behind it.
    Replayed(Vec<StreamReplay>),
    /// What a probe found.
    Probed(ProbeOutcome),
}

/// How a life ended.
#[derive(Debug, Clone)]
pub struct Departure {
    /// The process is gone. If not, it hangs in the kernel with all that it holds.
    pub reaped: bool,
    /// It has ended by itself, or by a signal that was not its parent's.
    pub by_itself: bool,
    /// What is known about an end that nobody ordered.
    pub problem: Problem,
    /// The last lines that it logged.
    pub last_lines: Vec<String>,
}

/// What a client asks of a VM. An order to stop is [`Event::Stop`]: it waits for nothing.
#[derive(Debug, Clone)]
pub enum Command {
    /// Pause the guest.
    Pause,
    /// Let it go on.
    Resume,
    /// Move it into new processes.
    SaveRestore,
    /// Start the process of this name anew, with all that it remembers.
    Restart(String),
    /// Measure for so long how fast it dirties its memory.
    DirtyRate(Duration),
    /// Have the process of this name attempt what its sandbox refuses.
    Probe(String, Probe),
}

/// What a timer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// The process was started and has to say what became of its device.
    DeviceOutcome(LifeId),
    /// The device has failed; perhaps because its server is ending, whose own report says more.
    ServerEnd(LifeId),
    /// The boot with this number was long enough ago for another one.
    NextBoot(u32),
    /// The measurement with this epoch has lasted long enough.
    DirtyRate(u64),
    /// Every process must be gone.
    Stop,
}
