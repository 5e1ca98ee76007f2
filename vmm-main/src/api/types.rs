// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The JSON of the control API: what `--json` prints and scripts may rely on. Fields are only ever added.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::lifecycle::Phase;
use crate::system::{CpuKind, Shape};

/// `GET /v1/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Name of the VM.
    pub name: String,
    /// The phase of its life cycle.
    #[serde(flatten)]
    pub phase: Phase,
    /// Version of the program that runs it.
    pub build: String,
    /// The machine model the guest sees.
    pub machine: String,
    /// The process set that runs now; counts up with each, and with each restart of a process.
    pub generation: u32,
    /// Resets the guest has asked for.
    pub reset_count: u32,
    /// Bytes of guest RAM.
    pub memory_len: u64,
    /// Virtual CPUs.
    pub vcpu_count: u16,
    /// What executes guest code.
    pub cpu: Option<CpuKind>,
    /// Milliseconds since the coordinator started.
    pub uptime_ms: u64,
    /// Log lines of the VM's processes that were dropped because they came faster than they could be written.
    pub log_lines_dropped: u64,
    /// Processes of the assigned devices whose servers are given guest RAM while their stream is in bypass.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub direct_dma: Vec<String>,
    /// Assigned devices that have failed, before or after the start, by their process, with the reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub lost_devices: BTreeMap<String, String>,
    /// After how many seconds a process that makes no progress is killed, as if it had died; 0: never.
    #[serde(default)]
    pub hang_deadline_s: u32,
    /// Why the guest is held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<Held>,
    /// Processes that died and were started anew under the guest, or are to be, by their names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub deaths: BTreeMap<String, Deaths>,
    /// Processes that run another program than they began with, by their names, and where it was.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub programs: BTreeMap<String, String>,
    /// What its processes follow from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shape: Option<Shape>,
    /// The migration that is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration: Option<MigrationProgress>,
    /// What the other host has said of a guest of which it was not known where it runs, when somebody said where it is
    /// to go on; or why it was not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other_host: Option<String>,
}

/// A guest that is held: a process is missing that is started anew by order only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Which process died.
    pub process: String,
    /// How often it had died within a minute then.
    pub deaths_per_minute: u32,
    /// How it died last, and why it is not started anew by itself.
    pub reason: String,
    /// What can be done about it.
    pub advice: String,
    /// All that are missing: an order for one of them starts them together.
    pub missing: Vec<String>,
}

/// The deaths of a process that the guest went on after, or waits behind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deaths {
    /// How many.
    pub count: u32,
    /// How it died last.
    pub last: String,
}

/// One row of `GET /v1/processes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its name in the system table, such as `smmu0`.
    pub name: String,
    /// What it is for, such as `smmu`.
    pub role: String,
    /// Name of its executable, such as `bulkhead-smmu`.
    pub program: String,
    /// Where the program was that it was restarted into, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program_file: Option<String>,
    /// Process id in the coordinator's pid namespace.
    pub pid: i32,
    /// The same process's id as the caller's `/proc` has it; filled in by the command line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_pid: Option<i32>,
    /// Which life of this process it is.
    pub generation: u32,
    /// What it is doing: `configured`, `running`, `paused`, `dead`.
    pub state: String,
    /// Name of its sandbox profile.
    pub profile: String,
    /// What happens when it dies.
    pub restart: String,
    /// Its own report of what it has enforced.
    pub enforced: Vec<String>,
    /// Its limits that depend on the VM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// What is observed from the outside; filled in by the command line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed: Option<Observed>,
}

/// What a process may have at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of writable memory of its own (RLIMIT_DATA).
    pub data_len: u64,
    /// Bytes of all that it has mapped (RLIMIT_AS).
    pub address_len: u64,
    /// Bytes of the largest file that it may write (RLIMIT_FSIZE).
    pub file_len: u64,
    /// Descriptors (RLIMIT_NOFILE).
    #[serde(default)]
    pub descriptor_count: u64,
    /// Threads (RLIMIT_NPROC).
    #[serde(default)]
    pub thread_count: u64,
}

impl Limits {
    /// As in `profile`.
    pub const fn of(profile: &sandbox::Profile) -> Self {
        let limits = &profile.limits;
        Self {
            data_len: limits.data_len,
            address_len: limits.address_len,
            file_len: limits.fsize_len,
            descriptor_count: limits.nofile_count,
            thread_count: limits.nproc_count,
        }
    }
}

/// A process's confinement as seen in `/proc`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// Everything that was seen, one short clause each.
    pub facts: Vec<String>,
    /// What differs from the profile; empty is good.
    pub drift: Vec<String>,
    /// What this user may not read.
    pub unread: Vec<String>,
}

/// One process of `GET /v1/inspect`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inspected {
    /// Its name, such as `smmu0`.
    pub process: String,
    /// Counters and states by name; a register is a hexadecimal string.
    pub values: BTreeMap<String, serde_json::Value>,
    /// Why there are none, if the process did not answer in time. It is still running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unanswered: Option<String>,
}

/// Answer of `POST /v1/save-restore`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SaveRestored {
    /// The generation that runs now.
    pub generation: u32,
    /// Each stage in order.
    pub stages: Vec<Stage>,
    /// Length of each process's saved state.
    pub units: Vec<UnitLen>,
    /// Downtime in microseconds: from pausing the guest to resuming it.
    pub downtime_us: u64,
}

/// Body of `POST /v1/restart`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestartRequest {
    /// The process to start anew, such as `smmu0`.
    pub process: String,
    /// The absolute path of the program that its next lives run; left out, they run what it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
}

/// Answer of `POST /v1/restart`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restarted {
    /// Its name, such as `smmu0`.
    pub process: String,
    /// Which life of it runs now.
    pub generation: u32,
    /// Each stage in order.
    pub stages: Vec<Stage>,
    /// Bytes of state that it was given, and those that were started anew with it.
    pub units: Vec<UnitLen>,
    /// Downtime in microseconds: from pausing the guest to resuming it.
    pub downtime_us: u64,
}

/// Body of `POST /v1/migrate`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MigrateRequest {
    /// Where `bulkhead receive` listens: `unix:PATH` or `HOST:PORT`.
    pub to: String,
    /// What both coordinators know, and nobody else: it authenticates what they say to each other.
    #[serde(default)]
    pub secret: String,
    /// How long the guest may stand still, in milliseconds.
    #[serde(default = "downtime_limit_ms")]
    pub downtime_limit_ms: u64,
    /// Rounds of pages that are sent while it runs, at most.
    #[serde(default = "round_count_max")]
    pub round_count_max: u32,
    /// Give up after them, if it would stand still for longer.
    #[serde(default)]
    pub gives_up: bool,
    /// Slow the guest's CPUs down while it dirties its memory faster than it is sent.
    #[serde(default)]
    pub throttles: bool,
    /// Send pages packed as LZ4 blocks.
    #[serde(default)]
    pub compresses: bool,
    /// Connections: 1 to 16.
    #[serde(default = "lane_count")]
    pub lane_count: u8,
    /// TLS is spoken, with a host that has this name. The files of this host's identity come along with the request, as
    /// sealed memory files: the authority's certificate, this host's, its private key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_peer: Option<String>,
    /// In the clear to another host too.
    #[serde(default)]
    pub insecure: bool,
}

/// By default a guest stands still for as long as a client's TCP does not notice.
pub const fn downtime_limit_ms() -> u64 {
    300
}

/// By default: enough for a guest whose writes are slower than the network.
pub const fn round_count_max() -> u32 {
    30
}

/// By default.
pub const fn lane_count() -> u8 {
    2
}

impl std::fmt::Debug for MigrateRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            to,
            secret: _,
            downtime_limit_ms,
            round_count_max,
            gives_up,
            throttles,
            compresses,
            lane_count,
            tls_peer,
            insecure,
        } = self;
        f.debug_struct("MigrateRequest")
            .field("to", to)
            .field("downtime_limit_ms", downtime_limit_ms)
            .field("round_count_max", round_count_max)
            .field("gives_up", gives_up)
            .field("throttles", throttles)
            .field("compresses", compresses)
            .field("lane_count", lane_count)
            .field("tls_peer", tls_peer)
            .field("insecure", insecure)
            .finish_non_exhaustive()
    }
}

/// Answer of `POST /v1/migrate`: the guest runs at the other host, and this VM is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Migrated {
    /// Where it runs.
    pub to: String,
    /// Each stage in order.
    pub stages: Vec<Stage>,
    /// Each round in order; the last one was sent while the guest stood still.
    pub rounds: Vec<MigrationRound>,
    /// Bytes of all rounds.
    pub sent_len: u64,
    /// Length of each process's saved state.
    pub units: Vec<UnitLen>,
    /// How long the guest stood still, in microseconds; 0 if it was paused.
    pub downtime_us: u64,
    /// The greatest share of their time that its CPUs were slowed down by, in percent.
    #[serde(default)]
    pub throttle_percent: u8,
    /// How long all of it took, in microseconds.
    pub took_us: u64,
}

/// A round of pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigrationRound {
    /// Pages that were sent with their bytes.
    pub page_count: u64,
    /// Pages that were told to be zero.
    pub zero_page_count: u64,
    /// Bytes that travelled.
    pub sent_len: u64,
    /// How long it took, in microseconds.
    pub took_us: u64,
}

/// A migration that is under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigrationProgress {
    /// `source` or `destination`.
    pub side: String,
    /// Where it stands, such as `precopy`.
    pub state: String,
    /// Where the guest moves to; empty at the destination.
    pub to: String,
    /// Rounds that were sent.
    pub round_count: u32,
    /// Bytes of these.
    pub sent_len: u64,
    /// Pages that are to be sent, as of now, also in the middle of a round. What the guest has written since the
    /// latest harvest of the dirty logs is not among them.
    pub owed_page_count: u64,
    /// Bytes of guest memory.
    pub memory_len: u64,
    /// Bytes that were sent per second, in the latest round.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
    /// How long the guest would have stood still for the pages alone, had it been paused after the latest round: those
    /// that were to be sent then, at that rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub downtime_estimate_us: Option<u64>,
    /// By what share of their time the guest's CPUs are slowed down, in percent.
    #[serde(default)]
    pub throttle_percent: u8,
    /// Microseconds since it began.
    pub took_us: u64,
}

/// Body of `POST /v1/migrate/resolve`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResolveRequest {
    /// The guest goes on here; otherwise it runs at the other host, and this VM ends.
    pub resume: bool,
    /// Without asking the other host, which may say otherwise: if it runs there, it runs twice.
    #[serde(default)]
    pub force: bool,
}

/// Body of `POST /v1/dirty-rate`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DirtyRateRequest {
    /// For how long to measure, in milliseconds: 1 to [`DIRTY_RATE_MS_MAX`].
    pub span_ms: u64,
}

/// The longest measurement, in milliseconds: no other command is carried out meanwhile.
pub const DIRTY_RATE_MS_MAX: u64 = 10_000;

/// Answer of `POST /v1/dirty-rate`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirtyRate {
    /// How long was measured, in microseconds.
    pub span_us: u64,
    /// Bytes in a page.
    pub page_len: u64,
    /// Pages that were written by any process: each counts once.
    pub page_count: u64,
    /// The same in bytes per second.
    pub bytes_per_second: u64,
    /// By process.
    pub processes: Vec<DirtyPages>,
}

/// What one process has written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirtyPages {
    /// Its name, such as `vfio0`.
    pub process: String,
    /// How many pages of 4 KiB.
    pub page_count: u64,
    /// `exact`; `everything`: all of RAM, since its log is not complete; `unseen`: it also makes writes that are not
    /// logged, until it is stopped.
    pub seen: String,
}

/// One stage of a longer operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// What was done, such as `pause`.
    pub name: String,
    /// How long it took, in microseconds.
    pub took_us: u64,
}

/// How much one process saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitLen {
    /// Its name, such as `smmu0`.
    pub process: String,
    /// Bytes of its state units.
    pub len: u64,
}

/// Body of `POST /v1/probe` (debug builds).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProbeRequest {
    /// The process to ask.
    pub process: String,
    /// What it shall attempt.
    pub attempt: String,
}

/// Answer of `POST /v1/probe`: only if the process survived.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeAnswer {
    /// What came of it.
    pub outcome: String,
}
