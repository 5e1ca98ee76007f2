// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The control interface: the coordinator's requests to every process that it started, and events of these processes.
//!
//! One channel per process. The coordinator sends the requests; the process answers them in order, one at a time. A
//! request that the process's state does not allow (see [`crate::protocol::lifecycle`]), or that fails, is answered
//! with [`Reply::Failed`], which is no violation. A body has at most [`BODY_LEN_MAX`](crate::frame::BODY_LEN_MAX)
//! bytes; deadlines are in [`crate::protocol::budget`].
//!
//! If the process dies, an open request fails with `PeerGone`; each request says below what its death means. If the
//! coordinator dies the kernel kills the process: the coordinator is pid 1 of its namespace.

use serde::{Deserialize, Serialize};

use crate::addr::StreamId;
use crate::instance::InstanceId;
use crate::protocol::features::Feature;
use crate::protocol::inspect::Inspect;
use crate::protocol::mover::{MoverConfig, MoverNotice, MoverRequest};
use crate::protocol::nvme::NvmeConfig;
use crate::protocol::probe::{Probe, ProbeOutcome};
use crate::protocol::smmu::SmmuConfig;
use crate::protocol::stage1::Attachment;
use crate::protocol::vcpu::VcpuConfig;
use crate::protocol::vfio::VfioConfig;
use crate::protocol::{Message, Protocol};

/// The control interface.
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

/// A request of the coordinator. Append only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Configures the process. Once, as the first request. Reply `Done`. No descriptors: the process got them at exec.
    /// Not idempotent: a second one is `Failed`. Death: another process is started.
    Configure(RoleConfig),
    /// Loads the process's state, from reset or from state units, which are untrusted and validated here. Reply `Done`.
    /// One descriptor with [`LoadFrom::Units`]: a memory object sealed against writes. Not idempotent: after a failed
    /// load the process can only quit. Death: another process is started, or the old life goes on.
    Load(LoadFrom),
    /// Does everything else that can fail: opens the device, says hello to peers, starts threads, parked. Reply `Done`.
    /// The process of an assigned device replies at once, and is armed at [`Event::DeviceOpened`] or
    /// [`Event::DeviceFailed`]. An armed process causes no DMA, runs no CPU and raises no interrupt yet. No
    /// descriptors. Not idempotent: after a failure the process can only quit. Death: as for `Load`.
    Arm,
    /// Applies the loaded state outside of the process: a vSMMU attaches every stream as the guest's tables in RAM say.
    /// A paused one does so for the next lives of devices that it was rewired to, and for those alone. Reply `Replayed`
    /// of a vSMMU, `Done` of any other process. No descriptors. Idempotent. Death: as for `Load`, or for `Pause`.
    Replay,
    /// Starts running: opens gates. Reply `Done`; it cannot fail: a later failure is an event, as in a running VM. No
    /// descriptors. Idempotent. Death: as in a running VM.
    Go,
    /// Quiesces the process: CPUs stop between instructions; devices complete or hold what they have begun, and still
    /// answer accesses in their rings. Reply `Paused` once the process changes no state that the guest can see. No
    /// descriptors. Idempotent. Death: a device is lost; a vCPU process ends the VM.
    Pause,
    /// Resumes after `Pause`. Reply `Done`. No descriptors. Idempotent. Death: as for `Pause`.
    Resume,
    /// Ends the process: reply `Done`, then exit with status 0. No descriptors. Idempotent. Death: fulfils it.
    Quit,
    /// Writes the state of a paused process as state units, from the start of the given memory object. Reply `Saved`.
    /// One descriptor: a memory object without seals, which the process may grow up to [`SAVED_LEN_MAX`] bytes.
    /// Idempotent: it changes nothing in the process. Death: the save failed.
    Save,
    /// Asks whether the process could be saved now. Reply `Done`, or `Failed` with the reason. Running or paused.
    /// Changes nothing. No descriptors. Idempotent. Death: as for `Pause`.
    CheckSave,
    /// Enables, disables or re-arms the dirty log. Reply `DirtyLog` once every later write is marked as asked. A log
    /// that was enabled before `Arm` stays enabled through `Arm` and `Go`. No descriptors. Idempotent. Death: the log
    /// itself survives, in shared memory.
    DirtyLog(DirtyLogOp),
    /// Asks for counters and states. Reply `Inspect`, for which the process waits for no peer. A late reply does not
    /// count as the loss of the process. No descriptors. Idempotent. Death: no reply.
    Inspect,
    /// Debug builds only: attempts something that the sandbox must refuse. Reply `Probe`. No descriptors. Not
    /// idempotent. Death: often the expected outcome; the crash page says why.
    Probe(Probe),
    /// To a vSMMU: the DMA of this device has ended for good. Its process was reaped, and the coordinator has closed
    /// the host's descriptors that would keep a physical device's DMA going without its process. So no attachment or
    /// translation of the device is in use any more, although it has not answered; nothing else proves that. Reply
    /// `Done`, or `Failed` if no such device is behind the vSMMU. No descriptors. Idempotent. Death: as for `Pause`.
    DmaEnded {
        /// The device's process.
        device: InstanceId,
    },
    /// Passes the process its end of a new channel to the next life of `peer`. It says hello there. The old channel is
    /// kept until its other end is closed; if the next life fails, the old one is used again. A device uses the new
    /// channel of its vSMMU from hello on: while it is open, messages on the old one are not acted upon. A vSMMU, and a
    /// vCPU process, uses the new channel of a device once the old one is closed, and has seen to that when it resumes.
    /// Reply `Done` once the process listens on the new channel, or `Failed` if it has no channel to `peer` that can be
    /// replaced. Running or paused. One descriptor: the channel's end. Not idempotent. Death: as for `Pause`.
    Rewire {
        /// The process whose next life has the other end.
        peer: InstanceId,
        /// The generation in the header of every message on that channel: that of the next life.
        epoch: u32,
    },
    /// Asks for a sign of life, and wakes the ring thread for one. Reply `Alive`, at once: the process waits for
    /// nobody and takes no lock that is held across work. No descriptors. Idempotent. Death: as in a running VM.
    Heartbeat,
    /// To a mover, once it is configured. Reply `Done` or `Failed`, at once. As many descriptors as the request has.
    Carry(MoverRequest),
    /// To a running vCPU process: its CPUs run no guest code from now on and guest time stands, or both go on. One that
    /// waits for a device goes on waiting, however long that takes, and is held behind its access. Reply `Done`, at
    /// once; it cannot fail. No descriptors. Idempotent. Death: ends the VM.
    HoldCpus {
        /// They are held; or go on.
        held: bool,
    },
    /// To a vCPU process: takes so many percent of their time from the guest's CPUs from now on, 0 to
    /// [`THROTTLE_MAX`]; guest time goes on meanwhile. Reply `Done`, or `Failed` if it has no CPUs, or for a greater
    /// share. No descriptors. Idempotent. Death: as for `Pause`.
    Throttle {
        /// The share of time.
        percent: u8,
    },
}

/// The greatest share of time that CPUs can be slowed down by, in percent.
pub const THROTTLE_MAX: u8 = 99;

/// The largest state of one process, in bytes: that of a device with memory of its own (an accelerator's may have some
/// GiB), which is transferred from its server into the memory object in pieces.
pub const SAVED_LEN_MAX: u64 = 16 << 30;

/// The largest state that a process reads into private memory, in bytes. The largest today is a vCPU process's with 64
/// CPUs and an ITS, below 1 MiB.
pub const SAVED_UNITS_LEN_MAX: u64 = 64 << 20;

impl Request {
    /// Whether it may be repeated after `PeerGone` or a timeout.
    #[must_use]
    pub const fn is_idempotent(&self) -> bool {
        match self {
            Self::Configure(_)
            | Self::Load(_)
            | Self::Arm
            | Self::Probe(_)
            | Self::Rewire { .. }
            | Self::Carry(_) => false,
            Self::Replay
            | Self::Go
            | Self::Pause
            | Self::Resume
            | Self::Quit
            | Self::CheckSave
            | Self::Save
            | Self::DirtyLog(_)
            | Self::DmaEnded { .. }
            | Self::Heartbeat
            | Self::HoldCpus { .. }
            | Self::Throttle { .. }
            | Self::Inspect => true,
        }
    }
}

/// The configuration of a process, by role. Append only.
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
    /// A process that needs nothing but its descriptors.
    Nothing,
    /// The process that carries a migration.
    Mover(MoverConfig),
}

/// Where a process loads its state from. Append only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LoadFrom {
    /// Its reset state.
    Reset,
    /// State units, from the start of the attached memory object.
    Units {
        /// Their length in bytes.
        len: u64,
    },
    /// The checkpoint that the life before has left in this process's own memory object, of which it was given a
    /// descriptor at exec. The guest runs: nothing of it is overwritten that it may have changed meanwhile.
    Checkpoint,
    /// None: its lives before have died on their checkpoint. It begins as a device that has failed, says so to the
    /// guest, which runs, and can be reset by it.
    Failed,
}

/// An operation on the dirty log. Append only. [`crate::shm::dirty_log`] describes a harvest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DirtyLogOp {
    /// Mark every write from now on, under this epoch, which the coordinator never uses twice.
    Enable {
        /// Recorded in the log's header.
        epoch: u64,
    },
    /// Stop marking.
    Disable,
    /// Flip the bitmaps, and drop every cached "this page is marked already" (a CPU's write TLB), so that the next
    /// write to any page marks it again. The closed bitmap may be harvested, and its pages copied, after the reply.
    Rearm,
}

/// A reply of a process. Append only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// The request was fulfilled.
    Done,
    /// To `Save`: the state units are in the memory object.
    Saved {
        /// Their length in bytes, from the object's start.
        len: u64,
    },
    /// To `Inspect`.
    Inspect(Inspect),
    /// To `Probe`.
    Probe(ProbeOutcome),
    /// The request failed, and the process is as it was before, unless the request says otherwise.
    Failed(Failure),
    /// To `Pause`: the process is quiesced; what is still in flight.
    Paused(Quiescence),
    /// To `Replay`, from a vSMMU: the outcome for each stream behind it, in the order of its configuration.
    Replayed(Vec<StreamReplay>),
    /// To `DirtyLog`.
    DirtyLog(DirtyLogState),
    /// To `Heartbeat`.
    Alive {
        /// How many turns the ring thread has taken. It takes one for each `Heartbeat`, so two replies with the same
        /// number say that it made no progress in between. `None`: no ring is served.
        turns: Option<u64>,
    },
}

/// Work that a process has begun and not finished. All counts are zero in a quiesced process; what remains is in its
/// state units. In a paused vCPU process they include the signals of devices that were paused after it, which are in
/// its state. Append only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quiescence {
    /// Posted writes not carried out.
    pub posts: u64,
    /// MSIs not delivered: on boards, in eventfds, or taken by a thread.
    pub vectors: u64,
    /// Changes of wired interrupts and INTx pins not delivered.
    pub pins: u64,
    /// Translation faults not sent to the vSMMU, nor in its state unit.
    pub faults: u64,
    /// Requests on stage-1 channels without an answer.
    pub stage1_requests: u64,
    /// Transfers from and to guest RAM.
    pub transfers: u64,
}

/// The outcome of `Replay` for a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamReplay {
    /// The guest's StreamID.
    pub stream: StreamId,
    /// The attachment that the guest's tables give it.
    pub attachment: Attachment,
    /// Whether the device is attached so.
    pub outcome: ReplayOutcome,
}

/// Whether a device was attached as the guest's tables say. Append only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplayOutcome {
    /// It was.
    Attached,
    /// It was attached to abort instead, for this reason.
    Aborted(String),
}

/// The state of a process's dirty log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirtyLogState {
    /// The epoch of the last `Enable`, 0 before the first.
    pub epoch: u64,
    /// Whether the log holds every page written.
    pub exact: Exactness,
}

/// Whether the log holds every page that a process wrote since its last reply. Append only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exactness {
    /// It does.
    Exact,
    /// It may not: a log failed or has a gap, so this round counts as all of RAM. Later rounds may be exact.
    Everything,
    /// It cannot, while something writes that is not logged (a server with guest RAM mapped, a device without a log):
    /// counts as nothing per round, and as all of RAM in the last harvest.
    Unseen,
}

/// Why a request failed: text for people and logs; no code depends on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What was attempted.
    pub what: String,
    /// Why it failed.
    pub why: String,
}

/// An event of a process. Append only. No descriptors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// The guest has powered off (PSCI SYSTEM_OFF).
    GuestPoweredOff,
    /// The guest has reset itself (PSCI SYSTEM_RESET).
    GuestReset,
    /// The process has sealed itself; what is enforced, a line each. The first event of every process.
    Sealed(Vec<String>),
    /// The process cannot go on and will exit, for this reason.
    Fatal(String),
    /// A peer of the process does not answer within its deadline, or breaks their contract. The coordinator ends that
    /// peer, with the consequence that the system table states.
    PeerFailed {
        /// The peer's name in the configuration.
        name: String,
        /// What it did, or did not do.
        why: String,
    },
    /// After `Arm`, from the process of an assigned device: the device was opened, and the process is armed.
    DeviceOpened,
    /// The assigned device is lost, for this reason. Sent once, after `Arm` instead of [`Event::DeviceOpened`], or
    /// later. The process goes on: its function is absent, or reads as all ones.
    DeviceFailed(String),
    /// What takes long makes progress: a request that is open, or the opening of a device. Sent after each wait for a
    /// peer and each piece of a state, at most once in [`PROGRESS_SPAN`](crate::protocol::budget::PROGRESS_SPAN). Who
    /// waits for the answer gives up when none has come for [`SILENCE`](crate::protocol::budget::SILENCE).
    Progress,
    /// From a mover.
    Carried(MoverNotice),
    /// What a guest can tell of this process. Sent while it is configured, loaded or armed, as soon as it is known, in
    /// one or several parts: at most [`FEATURES_MAX`](crate::protocol::features::FEATURES_MAX) in all.
    Features(Vec<Feature>),
    /// From a vCPU process, once for each function of a physical device whose last link has ended: nothing of that
    /// device is mapped or held there any more, and no link to it is taken again. Until then its file is in use, and
    /// with that its DMA may go on, whoever else has let go of it.
    Unmapped {
        /// The function's process, as the configuration names it.
        name: String,
    },
}

impl Message for Request {
    fn fd_count(&self) -> u8 {
        match self {
            Self::Save | Self::Load(LoadFrom::Units { .. }) | Self::Rewire { .. } => 1,
            Self::Configure(_)
            | Self::Load(LoadFrom::Reset | LoadFrom::Checkpoint | LoadFrom::Failed)
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
            | Self::Heartbeat
            | Self::HoldCpus { .. }
            | Self::Throttle { .. }
            | Self::Probe(_) => 0,
            Self::Carry(request) => request.fd_count(),
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

    /// Calls `show` with each count and its name.
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

    /// Adds the counts to `inspect`.
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
    /// A failure to do `what`, because of `why`.
    #[must_use]
    pub fn new(what: impl Into<String>, why: impl ToString) -> Self {
        Self { what: what.into(), why: why.to_string() }
    }
}
