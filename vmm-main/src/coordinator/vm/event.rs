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

use crate::api::types::ResolveRequest;
use crate::lifecycle::Why;
use crate::migration::convergence::Limits;
use crate::migration::message::Message;
use crate::migration::source::Whereabouts;
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
    /// Wait for a guest from another host. The first event, once, instead of `Boot`.
    Receive,
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
    /// Something of a migration.
    Migration(MigrationEvent),
    /// A client's command.
    Command(Ticket, Command),
    /// The VM is to end.
    Stop(Why),
    /// A timer has expired.
    Timeout(Timer),
}

/// An event of a migration: of the host, of its mover, or of the other host.
#[derive(Debug, Clone)]
pub enum MigrationEvent {
    /// What is to move is described, or why not.
    Offered(Result<Vec<u8>, Problem>),
    /// The launcher has connected to the other host, or why not.
    Dialled(Result<(), Problem>),
    /// The shared objects of a guest that is to come are made, or why not.
    Opened(Result<(), Problem>),
    /// All connections are there, and the other host has greeted in each.
    Connected,
    /// The other coordinator says this.
    Heard(Message),
    /// A round is sent: so many bytes, in so long.
    RoundSent {
        /// Bytes that it brought over, packed or not.
        carried_len: u64,
        /// How long it took.
        took: Duration,
    },
    /// The dirty logs are harvested: bytes of pages that are owed now.
    Harvested(u64),
    /// All states are on their way: what the destination is told of them. Or why not.
    StatesQueued(Result<Message, Problem>),
    /// How the offer differs from this host's machine, and whether its guest runs; or why that cannot be told.
    Compared(Result<(Vec<String>, bool), Problem>),
    /// How the processes of the guest that is coming differ from those where it is.
    FeaturesCompared(Vec<String>),
    /// All states have come as the source says, or why not.
    Checked(Result<(), Problem>),
    /// The disks are no longer this VM's alone, or why they still are.
    DisksReleased(Result<(), Problem>),
    /// They are, or whose they are.
    DisksLocked(Result<(), Problem>),
    /// The files that the user gave for TLS are of no use.
    Unidentified(Problem),
    /// The connection to the other host is lost.
    LinkLost(String),
    /// The connections are closed, as was ordered.
    Closed,
    /// A client wants it stopped.
    Cancel(Ticket),
    /// A person has decided where the guest goes on whose `Commit` was not answered.
    Resolve(Ticket, ResolveRequest),
    /// What the other host says of where the guest is, and in a sentence.
    Asked(Whereabouts, String),
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
    /// Move it to the host at this address.
    Migrate(String, Limits),
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
    /// The CPUs' process has to have unmapped this physical device, which was lost in the boot of this number.
    Unmapping(InstanceId, u32),
    /// The other host of the migration of this epoch has not done what the wait of this number is for.
    Migration(u64, u32),
    /// Every process must have ended.
    Stop,
}

impl Timer {
    /// Whether processes have to have done something by then: it runs in the coordinator's own time.
    pub const fn is_deadline(self) -> bool {
        match self {
            Self::DeviceOutcome(_) | Self::Unmapping(..) | Self::Migration(..) | Self::Stop => true,
            Self::ServerEnd(_) | Self::NextBoot(_) | Self::DirtyRate(_) | Self::DeathForgotten(..) => false,
        }
    }
}
