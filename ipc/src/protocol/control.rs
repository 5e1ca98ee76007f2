// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The control interface: what the coordinator asks of every process it started, and what it is told.
//!
//! One channel per process, the coordinator always asks, the process always answers, in order, one request at a time. A
//! request that does not fit the process' state (see [`crate::protocol::lifecycle`]) or that the process cannot fulfil
//! is answered with [`Reply::Failed`]: that is no violation, the channel lives on. Every body is at most
//! [`BODY_LEN_MAX`](crate::frame::BODY_LEN_MAX) bytes; deadlines are in [`crate::protocol::budget`].
//!
//! If the process dies with a request open, the asker gets `PeerGone`. Each request says what that means.
//! If the coordinator dies the kernel ends the process too: the coordinator is its namespace's pid 1.

use serde::{Deserialize, Serialize};

use crate::addr::StreamId;
use crate::instance::InstanceId;
use crate::protocol::inspect::Inspect;
use crate::protocol::nvme::NvmeConfig;
use crate::protocol::probe::{Probe, ProbeOutcome};
use crate::protocol::smmu::SmmuConfig;
use crate::protocol::stage1::Attachment;
use crate::protocol::vcpu::VcpuConfig;
use crate::protocol::vfio::VfioConfig;
use crate::protocol::{Message, Protocol};

/// The interface's name as a type.
#[derive(Debug)]
pub enum Control {}

impl Protocol for Control {
    const NAME: &'static str = "control";
    const ID: u16 = 1;
    const VERSION: u16 = 2;
    type Request = Request;
    type Reply = Reply;
    type Event = Event;
}

/// What the coordinator asks. Append only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Tells the process what it is. Once, before anything else. Reply `Done`. No fds: the process got them at exec.
    /// Not idempotent: a second one is `Failed`. Death: start another process and configure that.
    Configure(RoleConfig),
    /// Tells it where what it remembers comes from; everything untrusted in it is validated here. Reply `Done`. One fd
    /// with [`LoadFrom::Units`]: a memory object sealed against change. Not idempotent: a failed load leaves a process
    /// that can only quit. Death: another process is started, or the old life goes on.
    Load(LoadFrom),
    /// Everything else that can fail: opens its device, greets its peers, starts its threads, parked. Reply `Done`; the
    /// process of an assigned device answers at once, is armed when it tells by an event what became of its device
    /// ([`Event::DeviceOpened`], [`Event::DeviceFailed`]). After it nothing moves: no DMA, no CPU, no interrupt towards
    /// the guest. No fds. Not idempotent: a failed one leaves a process that can only quit. Death: as for `Load`.
    Arm,
    /// Puts into force, outside of the process, what it remembers: a vSMMU attaches every stream from the guest's own
    /// tables in RAM. Reply `Replayed` of a vSMMU, `Done` of any other process. No fds. Idempotent. Death: as for
    /// `Load`.
    Replay,
    /// Lets it begin: opens gates. Reply `Done`; it cannot fail, and a process that cannot go on then says so as in a
    /// running VM. No fds. Idempotent. Death: as in a running VM.
    Go,
    /// Stops making work: CPUs stop between instructions, devices finish or hold what they have begun, and
    /// answer what still arrives in their rings. Reply `Paused` once nothing of the guest changes any more
    /// because of this process. No fds. Idempotent. Death: a device is lost; a vCPU process ends the VM.
    Pause,
    /// Goes on after `Pause`. Reply `Done`. No fds. Idempotent. Death: as for `Pause`.
    Resume,
    /// Ends. Reply `Done`, then the process exits with status 0. No fds. Idempotent. Death: fulfils it.
    Quit,
    /// Writes its state, as a stream of state units, from the start of the given memory object. Only paused.
    /// Reply `Saved`. One fd: a memory object without seals, which the process grows up to
    /// [`SAVED_LEN_MAX`]. Idempotent: it changes nothing in the process. Death: the save failed.
    Save,
    /// Could it be saved, now? Reply `Done`, or `Failed` with the reason. Changes nothing. Running or paused. No fds.
    /// Idempotent. Death: as for `Pause`.
    CheckSave,
    /// Switches the dirty log, or makes its producer forget what it need not mark again. Reply `DirtyLog` once every
    /// later write is marked. What was switched on before `Arm` stays on through `Arm` and `Go`. No fds. Idempotent.
    /// Death: the log itself survives, in shared memory.
    DirtyLog(DirtyLogOp),
    /// Asks for counters and states. Reply `Inspect`; the process waits for no peer to give it. A late answer is
    /// no loss of the process. No fds. Idempotent. Death: no answer.
    Inspect,
    /// Debug builds only: attempt something the sandbox must refuse. Reply `Probe`. No fds. Not idempotent.
    /// Death: often the expected outcome; the crash page says why.
    Probe(Probe),
    /// To a vSMMU: the DMA of this device has ended for good. Its process was reaped, and the coordinator has let go of
    /// the host's files by which a physical device goes on without its process. What was in force before an order of
    /// the guest's is not in use there any more, whatever that process has answered; nothing else proves it of a device
    /// that does not answer. Reply `Done`, or `Failed` if no such device is behind it. No fds. Idempotent. Death: as
    /// for `Pause`.
    DmaEnded {
        /// The device's process.
        device: InstanceId,
    },
    /// Gives it a new end of the channel that it has with `peer`: the next life of that process has the other one. It
    /// greets there, and speaks there from now on. The channel that it had is kept until its other end is closed, and
    /// what comes from there is not followed as long as the new one is open; if the next life does not come to be, the
    /// old channel is the one again. Reply `Done` once it listens, or `Failed` if it has no such channel that can be
    /// exchanged. Running or paused. One fd: the channel's end. Not idempotent. Death: as for `Pause`.
    Rewire {
        /// The process whose next life it is.
        peer: InstanceId,
        /// The number that every message of that channel carries: the generation of the next life.
        epoch: u32,
    },
}

/// The largest state one process may save, in bytes: that of a device with memory of its own (an accelerator's may have
/// some GiB), which goes from its server into the memory object in pieces.
pub const SAVED_LEN_MAX: u64 = 16 << 30;

/// The largest state that a process may have in private memory. The largest today is a vCPU process with 64 CPUs and an
/// ITS, below 1 MiB.
pub const SAVED_UNITS_LEN_MAX: u64 = 64 << 20;

impl Request {
    /// Whether it may be asked again after `PeerGone` or a timeout, without harm.
    #[must_use]
    pub const fn is_idempotent(&self) -> bool {
        match self {
            Self::Configure(_) | Self::Load(_) | Self::Arm | Self::Probe(_) | Self::Rewire { .. } => false,
            Self::Replay
            | Self::Go
            | Self::Pause
            | Self::Resume
            | Self::Quit
            | Self::CheckSave
            | Self::Save
            | Self::DirtyLog(_)
            | Self::DmaEnded { .. }
            | Self::Inspect => true,
        }
    }
}

/// What a process is. Append only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RoleConfig {
    /// The vCPU process.
    Vcpu(VcpuConfig),
    /// A vSMMU process.
    Smmu(SmmuConfig),
    /// The process of an assigned device.
    Vfio(VfioConfig),
    /// The process of an NVMe controller.
    Nvme(NvmeConfig),
    /// A process that knows from its descriptors what it is.
    Nothing,
}

/// Where what a process remembers comes from. Append only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LoadFrom {
    /// Nowhere: it begins out of reset.
    Reset,
    /// State units, from the start of the memory object that comes along.
    Units {
        /// How many bytes of them the object holds.
        len: u64,
    },
}

/// What to do with the dirty log. Append only. The order of a harvest stands in [`crate::shm::dirty_log`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DirtyLogOp {
    /// Mark every write from now on, in the name of this epoch, which the coordinator never uses twice.
    Enable {
        /// Stands in the log's header.
        epoch: u64,
    },
    /// Stop marking.
    Disable,
    /// After a harvest took bits: drop every note of "this page is marked already" (a CPU's write TLB), so that
    /// the next write to any page marks it again. Pages may be copied once this is answered, not before.
    Rearm,
}

/// What a process answers. Append only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// It is so.
    Done,
    /// To `Save`: so many bytes of state units stand in the memory object.
    Saved {
        /// Bytes from the object's start.
        len: u64,
    },
    /// To `Inspect`.
    Inspect(Inspect),
    /// To `Probe`.
    Probe(ProbeOutcome),
    /// It is not so, and the process is as it was before, unless the request says otherwise.
    Failed(Failure),
    /// To `Pause`: it holds still, and so much is in flight.
    Paused(Quiescence),
    /// To `Replay`, from a vSMMU: what came of each stream behind it, in the order of its configuration.
    Replayed(Vec<StreamReplay>),
    /// To `DirtyLog`.
    DirtyLog(DirtyLogState),
}

/// What of a process was begun and not finished. All are zero in a process that holds still as it should: what cannot
/// be is in its state units. Append only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quiescence {
    /// Posted writes that were not carried out.
    pub posts: u64,
    /// Interrupts by message that were not delivered: on boards, in eventfds, in a thread's hands.
    pub vectors: u64,
    /// Changes of wires and pins that were not passed on.
    pub pins: u64,
    /// Faults of translation that neither the vSMMU nor its state unit has.
    pub faults: u64,
    /// Requests on stage-1 channels that were not answered.
    pub stage1_requests: u64,
    /// Transfers from and to guest RAM.
    pub transfers: u64,
}

/// What became of a stream at `Replay`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamReplay {
    /// Which.
    pub stream: StreamId,
    /// What the guest's own configuration says of it.
    pub attachment: Attachment,
    /// Whether its device follows that.
    pub outcome: ReplayOutcome,
}

/// Whether a device follows what the guest's configuration says. Append only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplayOutcome {
    /// It does.
    Attached,
    /// All its DMA is aborted instead, for this reason.
    Aborted(String),
}

/// How a process logs what it writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirtyLogState {
    /// In whose name: that of the last `Enable`, 0 before the first.
    pub epoch: u64,
    /// How much of what it writes the log has.
    pub exact: Exactness,
}

/// How much of what a process wrote since its last answer is in its log. Append only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exactness {
    /// Every page.
    Exact,
    /// This round counts as all of RAM: a log has failed, or has a gap. It may be exact from now on.
    Everything,
    /// Something writes that nobody sees until it is stopped (a server that has guest RAM, a device without a log):
    /// nothing per round, all of RAM once it is.
    Unseen,
}

/// Why a request was not fulfilled: for people and logs, never decided upon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What was attempted.
    pub what: String,
    /// Why it failed.
    pub why: String,
}

/// What a process tells without being asked. Append only. No fds travel with events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// The guest asked to be switched off.
    GuestPoweredOff,
    /// The guest asked to be reset.
    GuestReset,
    /// The process has sealed itself; what is enforced, line by line. The first event of every process.
    Sealed(Vec<String>),
    /// The process cannot go on and will exit; its reason.
    Fatal(String),
    /// Another process, one that it works with, does not do its part: it does not answer in the time that their
    /// interface gives it, or breaks the contract. Who is told ends that process, as the system table says.
    PeerFailed {
        /// The other process, as the configuration calls it.
        name: String,
        /// What it did not do.
        why: String,
    },
    /// After `Arm`, from the process of an assigned device: the device is there, and the process is armed.
    DeviceOpened,
    /// The assigned device is lost, at `Arm` instead of [`Event::DeviceOpened`] or later, once; its reason. The
    /// process lives: its function is absent, or reads as all ones.
    DeviceFailed(String),
}

impl Message for Request {
    fn fd_count(&self) -> u8 {
        match self {
            Self::Save | Self::Load(LoadFrom::Units { .. }) | Self::Rewire { .. } => 1,
            Self::Configure(_)
            | Self::Load(LoadFrom::Reset)
            | Self::Arm
            | Self::Replay
            | Self::Go
            | Self::Pause
            | Self::Resume
            | Self::Quit
            | Self::CheckSave
            | Self::DirtyLog(_)
            | Self::Inspect
            | Self::DmaEnded { .. }
            | Self::Probe(_) => 0,
        }
    }
}

impl Message for Reply {
    fn fd_count(&self) -> u8 {
        0
    }
}

impl Message for Event {
    fn fd_count(&self) -> u8 {
        0
    }
}

impl Quiescence {
    /// Nothing is in flight.
    pub const NONE: Self =
        Self { posts: 0, vectors: 0, pins: 0, faults: 0, stage1_requests: 0, transfers: 0 };

    /// Each count, by its name.
    pub fn each(&self, mut show: impl FnMut(&'static str, u64)) {
        let Self { posts, vectors, pins, faults, stage1_requests, transfers } = *self;
        show("posts", posts);
        show("vectors", vectors);
        show("pins", pins);
        show("faults", faults);
        show("stage1_requests", stage1_requests);
        show("transfers", transfers);
    }

    /// Whether nothing is in flight.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        *self == Self::NONE
    }

    /// Shows the counts.
    pub fn inspect(&self, inspect: &mut Inspect) {
        self.each(|name, count| inspect.counter(format!("in_flight.{name}"), count));
    }
}

impl core::fmt::Display for Quiescence {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let mut parts = Vec::new();
        self.each(|name, count| {
            if count != 0 {
                parts.push(format!("{count} of {name}"));
            }
        });
        if parts.is_empty() { f.write_str("nothing") } else { f.write_str(&parts.join(", ")) }
    }
}

impl Failure {
    /// A failure with both texts.
    #[must_use]
    pub fn new(what: impl Into<String>, why: impl ToString) -> Self {
        Self { what: what.into(), why: why.to_string() }
    }
}
