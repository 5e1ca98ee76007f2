// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The control interface: what the coordinator asks of every process it started, and what it is told.
//!
//! One channel per process, the coordinator always asks, the process always answers, in order, one request
//! at a time. A request that does not fit the process' state (see [`crate::protocol::lifecycle`]) or that
//! the process cannot fulfil is answered with [`Reply::Failed`]: that is no violation, the channel lives on.
//! Every body is at most [`BODY_LEN_MAX`](crate::frame::BODY_LEN_MAX) bytes; deadlines are in [`crate::protocol::budget`].
//!
//! If the process dies with a request open, the asker gets `PeerGone`. Each request says what that means.
//! If the coordinator dies the kernel ends the process too: the coordinator is its namespace's pid 1.

use serde::{Deserialize, Serialize};

use crate::protocol::inspect::Inspect;
use crate::protocol::nvme::NvmeConfig;
use crate::protocol::probe::{Probe, ProbeOutcome};
use crate::protocol::smmu::SmmuConfig;
use crate::protocol::vcpu::VcpuConfig;
use crate::protocol::vfio::VfioConfig;
use crate::protocol::{Message, Protocol};

/// The interface's name as a type.
#[derive(Debug)]
pub enum Control {}

impl Protocol for Control {
    const NAME: &'static str = "control";
    const ID: u16 = 1;
    const VERSION: u16 = 1;
    type Request = Request;
    type Reply = Reply;
    type Event = Event;
}

/// What the coordinator asks. Append only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Tells the process what it is. Once, before anything else. Reply `Done`. No fds: the process got them at exec. Not idempotent: a second one is `Failed`.
    /// Death: start another process and configure that.
    Configure(RoleConfig),
    /// Begins, from reset or from what was restored. Reply `Done` once the process serves; the process of an
    /// assigned device answers at once, and tells by an event what became of its device ([`Event::DeviceOpened`],
    /// [`Event::DeviceFailed`]). No fds. Idempotent. Death: a device is started anew and rebuilds itself; a vCPU
    /// process ends the VM.
    Start,
    /// Stops making work: CPUs stop between instructions, devices finish or hold what they have begun, and
    /// answer what still arrives in their rings. Reply `Done` once nothing of the guest changes any more
    /// because of this process. No fds. Idempotent. Death: as for `Start`.
    Pause,
    /// Goes on after `Pause`. Reply `Done`. No fds. Idempotent. Death: as for `Start`.
    Resume,
    /// Ends. Reply `Done`, then the process exits with status 0. No fds. Idempotent. Death: fulfils it.
    Quit,
    /// Writes its state, as a stream of state units, from the start of the given memory object. Only paused.
    /// Reply `Saved`. One fd: a memory object without seals, which the process grows up to
    /// [`SAVED_LEN_MAX`]. Idempotent: it changes nothing in the process. Death: the save failed.
    Save,
    /// Takes the state of `len` bytes from the start of the given memory object. Only configured and not
    /// started. Reply `Done`. One fd: a memory object sealed against change. Not idempotent: a failed
    /// restore leaves a process that can only quit. Death: the restore failed.
    Restore {
        /// How many bytes of state units the object holds.
        len: u64,
    },
    /// Switches the dirty log, or makes its producer forget what it need not mark again. Reply `Done`
    /// once every later write is marked. No fds. Idempotent. Death: the log itself survives, in shared memory.
    DirtyLog(DirtyLogOp),
    /// Asks for counters and states. Reply `Inspect`; the process waits for no peer to give it. A late answer is
    /// no loss of the process. No fds. Idempotent. Death: no answer.
    Inspect,
    /// Debug builds only: attempt something the sandbox must refuse. Reply `Probe`. No fds. Not idempotent.
    /// Death: often the expected outcome; the crash page says why.
    Probe(Probe),
}

/// The largest state one process may save, in bytes. The largest today is a vCPU process with 64 CPUs and
/// an ITS, below 1 MiB; a device that keeps its own internal state (NVMe) may need some.
pub const SAVED_LEN_MAX: u64 = 64 << 20;

impl Request {
    /// Whether it may be asked again after `PeerGone` or a timeout, without harm.
    #[must_use]
    pub const fn is_idempotent(&self) -> bool {
        match self {
            Self::Configure(_) | Self::Restore { .. } | Self::Probe(_) => false,
            Self::Start
            | Self::Pause
            | Self::Resume
            | Self::Quit
            | Self::Save
            | Self::DirtyLog(_)
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

/// What to do with the dirty log. Append only. The order of a harvest stands in [`crate::shm::dirty_log`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DirtyLogOp {
    /// Mark every write from now on.
    Enable,
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
    /// Another process, one that it works with, does not do its part: it does not answer in the time that their interface gives
    /// it, or breaks the contract. Who is told ends that process, as the system table says.
    PeerFailed {
        /// The other process, as the configuration calls it.
        name: String,
        /// What it did not do.
        why: String,
    },
    /// After `Start`, from the process of an assigned device: the device is there, and the guest may begin.
    DeviceOpened,
    /// The assigned device is lost, at `Start` instead of [`Event::DeviceOpened`] or later, once; its reason. The
    /// process lives: its function is absent, or reads as all ones.
    DeviceFailed(String),
}

impl Message for Request {
    fn fd_count(&self) -> u8 {
        match self {
            Self::Save | Self::Restore { .. } => 1,
            Self::Configure(_)
            | Self::Start
            | Self::Pause
            | Self::Resume
            | Self::Quit
            | Self::DirtyLog(_)
            | Self::Inspect
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

impl Failure {
    /// A failure with both texts.
    #[must_use]
    pub fn new(what: impl Into<String>, why: impl ToString) -> Self {
        Self { what: what.into(), why: why.to_string() }
    }
}
