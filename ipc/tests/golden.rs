// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The bytes of every message, of the hello, of the state unit's envelope and of every frame of a migration stream,
//! pinned in `tests/golden`.
//!
//! postcard numbers variants and fields by their order, so an innocent edit changes what travels. A change of these
//! files is a change of the protocol: raise its `VERSION` (or the saved struct's), then run once with
//! `BULKHEAD_BLESS=1`, which writes the files and still fails, so that no run that passes has changed them. All of them
//! together have a checksum here, beside the number by which two builds know that they speak the same ([`PINNED`]).

#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise; its helpers are part of it")]

#[path = "samples/function_link.rs"]
mod function_link;
#[path = "samples/stream.rs"]
mod stream;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use ipc::addr::{Bdf, Gpa, GpaRange, StreamId};
use ipc::frame::{self, Header, Kind};
use ipc::hello::{Hello, PROTOCOL, Role};
use ipc::instance::InstanceId;
use ipc::migration::frame::MigrationId;
use ipc::protocol::control::{
    Control, DirtyLogOp, DirtyLogState, Event, Exactness, Failure, LoadFrom, Quiescence, ReplayOutcome,
    Reply, Request, RoleConfig, StreamReplay,
};
use ipc::protocol::features::Feature;
use ipc::protocol::function_link::FunctionLink;
use ipc::protocol::inspect::Inspect;
use ipc::protocol::mover::{
    IdentityFile, MoverConfig, MoverNotice, MoverRequest, Packing, RoundReport, Security, Side,
};
use ipc::protocol::nvme::NvmeConfig;
use ipc::protocol::probe::{Probe, ProbeOutcome};
use ipc::protocol::ram::{RamLayout, RamRegion};
use ipc::protocol::smmu::{Model, SmmuConfig, SmmuDevice};
use ipc::protocol::stage1::{Attachment, Fault, Notice, Stage1, Stage1Request};
use ipc::protocol::vcpu::{FunctionWindow, RemoteFunction, RemoteIrq, RemoteMmio, RemotePage, VcpuConfig};
use ipc::protocol::vfio::{BarAreas, IdempotentRegisters, VfioConfig};
use ipc::protocol::{Message, Protocol};
use ipc::saved::{Reader, SavedState, UnitKind, Writer};
use ipc::slot::IrqLine;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The protocol, and the checksum of what it says: the bytes of all samples. Who changes one changes both; or says, by
/// changing the checksum alone, that a process of an earlier build takes the new bytes for nothing else, as with a new
/// message that it is never sent.
const PINNED: (u32, u32) = (3, 0x4c89_ff41);

fn ram() -> RamLayout {
    let region = RamRegion { gpa: Gpa(0x4000_0000), len: 0x1000_0000, file_offset: 0 };
    RamLayout::new(vec![region]).unwrap()
}

fn vcpu_config() -> VcpuConfig {
    let page = RemotePage { guest_owned: vec![0x98, 0x1_00ac], posted: vec![0x98] };
    let smmu = RemoteMmio {
        peer: InstanceId::new(Role::Smmu, 0),
        region: 1,
        base: Gpa(0x0905_0000),
        len: 0x2_0000,
        page: Some(page),
        irqs: vec![RemoteIrq { line: IrqLine::CommandSync, spi: 3 }],
    };
    let config = GpaRange::new(Gpa(0x3000_8000), 0x1000).unwrap();
    let nvme = RemoteFunction {
        peer: InstanceId::new(Role::Vfio, 0),
        bdf: Bdf(8),
        windows: vec![FunctionWindow { region: 0, range: config }],
        intx_spi: 9,
        host_device: Some(0xff_0001),
        has_next_life: true,
    };
    VcpuConfig {
        machine: "bulkhead-virt-1".into(),
        vcpu_count: 2,
        pmu: true,
        ram: ram(),
        entry: Gpa(0x4020_0000),
        fdt: Gpa(0x4800_0000),
        devices: vec![smmu],
        functions: vec![nvme],
    }
}

fn smmu_config() -> SmmuConfig {
    SmmuConfig {
        id: InstanceId::new(Role::Smmu, 0),
        region: 1,
        base: Gpa(0x0905_0000),
        len: 0x2_0000,
        ram: ram(),
        model: Model::default(),
        devices: vec![SmmuDevice { peer: InstanceId::new(Role::Vfio, 0), stream: StreamId(8) }],
    }
}

fn vfio_config() -> VfioConfig {
    VfioConfig {
        id: InstanceId::new(Role::Vfio, 0),
        bdf: Bdf(8),
        stream: StreamId(8),
        areas: BarAreas {
            memory32: GpaRange::new(Gpa(0x1100_0000), 0x100_0000).unwrap(),
            memory64: GpaRange::new(Gpa(0x84_0000_0000), 0x4_0000_0000).unwrap(),
            io: GpaRange::new(Gpa(0x0f00_8000), 0x8000).unwrap(),
            io_base: Gpa(0x0f00_0000),
        },
        doorbell: Gpa(0x0821_0040),
        ram: ram(),
        direct_dma: true,
        keeps_server: true,
        next_life: Some(IdempotentRegisters { region: 0, doorbells: 0x1000..0x1088 }),
        model: Model::default(),
    }
}

fn nvme_config() -> NvmeConfig {
    NvmeConfig {
        id: InstanceId::new(Role::Nvme, 0),
        serial: Some("BULKHEAD0001".into()),
        block_len: 512,
        readonly: true,
        image: "disk.img".into(),
    }
}

const MIGRATION: MigrationId = MigrationId(*b"migration number");

fn mover_config() -> MoverConfig {
    MoverConfig {
        side: Side::Source { migration: MIGRATION, lane_count: 4, packing: Packing::Lz4 },
        ram: ram(),
        security: Security::Tls { peer: "host-b".into() },
    }
}

/// Every notice of the stage 1 channel; as for requests.
fn notices() -> Vec<(&'static str, Notice)> {
    let stream = StreamId(8);
    let requests = vec![
        Stage1Request::Attach { stream, to: Attachment::Abort },
        Stage1Request::Attach { stream, to: Attachment::Bypass },
        Stage1Request::Attach { stream, to: Attachment::Stage1([0x4100_000b, 0xd4]) },
        Stage1Request::Invalidate([0x46, 0]),
    ];
    let all = vec![
        Notice::Requests { sequence: 300, requests },
        Notice::Done { sequence: 300, refused: 1 },
        Notice::Fault(Fault::Record([0x8_0000_0010, 1 << 35, 0xf000, 0])),
        Notice::Fault(Fault::Aborted { stream }),
        Notice::FaultsLost { count: 3 },
    ];
    let name = |notice: &Notice| match notice {
        Notice::Requests { .. } => "stage1-requests",
        Notice::Done { .. } => "stage1-done",
        Notice::Fault(Fault::Record(_)) => "stage1-fault-record",
        Notice::Fault(Fault::Aborted { .. }) => "stage1-fault-aborted",
        Notice::FaultsLost { .. } => "stage1-faults-lost",
    };
    all.into_iter().map(|notice| (name(&notice), notice)).collect()
}

/// Every request. The match makes a new variant stop the build here: add it to the list as well.
fn requests() -> Vec<(&'static str, Request)> {
    let all = vec![
        Request::Configure(RoleConfig::Vcpu(vcpu_config())),
        Request::Configure(RoleConfig::Smmu(smmu_config())),
        Request::Configure(RoleConfig::Vfio(vfio_config())),
        Request::Configure(RoleConfig::Nvme(nvme_config())),
        Request::Configure(RoleConfig::Nothing),
        Request::Load(LoadFrom::Reset),
        Request::Load(LoadFrom::Units { len: 0x1234 }),
        Request::Load(LoadFrom::Checkpoint),
        Request::Load(LoadFrom::Failed),
        Request::Arm,
        Request::Replay,
        Request::Go,
        Request::Pause,
        Request::Resume,
        Request::Quit,
        Request::Save,
        Request::CheckSave,
        Request::DirtyLog(DirtyLogOp::Enable { epoch: 0x1234 }),
        Request::DirtyLog(DirtyLogOp::Disable),
        Request::DirtyLog(DirtyLogOp::Rearm),
        Request::Inspect,
        Request::DmaEnded { device: InstanceId::new(Role::Vfio, 2) },
        Request::Throttle { percent: 60 },
        Request::Rewire { peer: InstanceId::new(Role::Smmu, 0), epoch: 0x0102_0304 },
        Request::Heartbeat,
        Request::HoldCpus { held: true },
        Request::HoldCpus { held: false },
        Request::Probe(Probe::Open),
        Request::Configure(RoleConfig::Mover(mover_config())),
        Request::Carry(MoverRequest::TakeIdentity(IdentityFile::Key)),
        Request::Carry(MoverRequest::TakeLane { index: 3 }),
        Request::Carry(MoverRequest::SendRound { round: 300 }),
        Request::Carry(MoverRequest::SendState { instance: InstanceId::new(Role::Smmu, 0), len: 300 }),
        Request::Carry(MoverRequest::TakeState { instance: InstanceId::new(Role::Smmu, 0) }),
        Request::Carry(MoverRequest::Say(vec![1, 2, 3])),
        Request::Carry(MoverRequest::Close),
    ];
    let name = |request: &Request| match request {
        Request::Configure(RoleConfig::Vcpu(_)) => "request-configure-vcpu",
        Request::Configure(RoleConfig::Smmu(_)) => "request-configure-smmu",
        Request::Configure(RoleConfig::Vfio(_)) => "request-configure-vfio",
        Request::Configure(RoleConfig::Nvme(_)) => "request-configure-nvme",
        Request::Configure(RoleConfig::Nothing) => "request-configure-nothing",
        Request::Load(LoadFrom::Reset) => "request-load-reset",
        Request::Load(LoadFrom::Units { .. }) => "request-load-units",
        Request::Load(LoadFrom::Checkpoint) => "request-load-checkpoint",
        Request::Load(LoadFrom::Failed) => "request-load-failed",
        Request::Arm => "request-arm",
        Request::Replay => "request-replay",
        Request::Go => "request-go",
        Request::Pause => "request-pause",
        Request::Resume => "request-resume",
        Request::Quit => "request-quit",
        Request::Save => "request-save",
        Request::CheckSave => "request-check-save",
        Request::DirtyLog(DirtyLogOp::Enable { .. }) => "request-dirty-log-enable",
        Request::DirtyLog(DirtyLogOp::Disable) => "request-dirty-log-disable",
        Request::DirtyLog(DirtyLogOp::Rearm) => "request-dirty-log-rearm",
        Request::Inspect => "request-inspect",
        Request::DmaEnded { .. } => "request-dma-ended",
        Request::Throttle { .. } => "request-throttle",
        Request::Rewire { .. } => "request-rewire",
        Request::Heartbeat => "request-heartbeat",
        Request::HoldCpus { held: true } => "request-hold-cpus",
        Request::HoldCpus { held: false } => "request-hold-cpus-end",
        Request::Probe(_) => "request-probe",
        Request::Configure(RoleConfig::Mover(_)) => "request-configure-mover",
        Request::Carry(MoverRequest::TakeIdentity(_)) => "request-carry-take-identity",
        Request::Carry(MoverRequest::TakeLane { .. }) => "request-carry-take-lane",
        Request::Carry(MoverRequest::SendRound { .. }) => "request-carry-send-round",
        Request::Carry(MoverRequest::SendState { .. }) => "request-carry-send-state",
        Request::Carry(MoverRequest::TakeState { .. }) => "request-carry-take-state",
        Request::Carry(MoverRequest::Say(_)) => "request-carry-say",
        Request::Carry(MoverRequest::Close) => "request-carry-close",
    };
    all.into_iter().map(|request| (name(&request), request)).collect()
}

/// Every reply; as for requests.
fn replies() -> Vec<(&'static str, Reply)> {
    let mut inspect = Inspect::new();
    inspect.counter("cmdq.commands", 300);
    inspect.gauge("ring.outstanding", -1);
    inspect.hex("gerror", 0x81);
    inspect.text("state", "running");
    let all = vec![
        Reply::Done,
        Reply::Saved { len: 0x1234 },
        Reply::Inspect(inspect),
        Reply::Probe(ProbeOutcome::Denied { errno: 1 }),
        Reply::Probe(ProbeOutcome::Allowed),
        Reply::Failed(Failure::new("save", "it is running")),
        Reply::Paused(Quiescence {
            posts: 2,
            vectors: 3,
            pins: 4,
            faults: 5,
            stage1_requests: 6,
            transfers: 300,
        }),
        Reply::Replayed(vec![
            StreamReplay {
                stream: StreamId(8),
                attachment: Attachment::Stage1([0x4100_000b, 0xd4]),
                outcome: ReplayOutcome::Attached,
            },
            StreamReplay {
                stream: StreamId(16),
                attachment: Attachment::Bypass,
                outcome: ReplayOutcome::Aborted("no answer".into()),
            },
        ]),
        Reply::DirtyLog(DirtyLogState { epoch: 300, exact: Exactness::Exact }),
        Reply::Alive { turns: Some(300) },
    ];
    let name = |reply: &Reply| match reply {
        Reply::Done => "reply-done",
        Reply::Saved { .. } => "reply-saved",
        Reply::Inspect(_) => "reply-inspect",
        Reply::Probe(ProbeOutcome::Denied { .. }) => "reply-probe-denied",
        Reply::Probe(ProbeOutcome::Allowed) => "reply-probe-allowed",
        Reply::Failed(_) => "reply-failed",
        Reply::Paused(_) => "reply-paused",
        Reply::Replayed(_) => "reply-replayed",
        Reply::DirtyLog(_) => "reply-dirty-log",
        Reply::Alive { .. } => "reply-alive",
    };
    all.into_iter().map(|reply| (name(&reply), reply)).collect()
}

/// Every event; as for requests.
fn events() -> Vec<(&'static str, Event)> {
    let round = RoundReport { round: 1, page_count: 300, zero_count: 2, sent_len: 1_234_567, took_us: 4321 };
    let all = vec![
        Event::GuestPoweredOff,
        Event::GuestReset,
        Event::Sealed(vec!["landlock 6".into(), "seccomp 2".into()]),
        Event::Fatal("out of memory".into()),
        Event::PeerFailed { name: "vfio0".into(), why: "it does not answer".into() },
        Event::DeviceOpened,
        Event::DeviceFailed("its server is silent".into()),
        Event::Progress,
        Event::Carried(MoverNotice::Connected { migration: MIGRATION, lane_count: 4 }),
        Event::Carried(MoverNotice::RoundSent(round)),
        Event::Carried(MoverNotice::Heard(vec![1, 2, 3])),
        Event::Carried(MoverNotice::LinkLost("it stands still".into())),
        Event::Carried(MoverNotice::Closed),
        Event::Features(vec![Feature::new("counter frequency", "62500000 Hz")]),
        Event::Unmapped { name: "vfio0".into() },
    ];
    let name = |event: &Event| match event {
        Event::GuestPoweredOff => "event-guest-powered-off",
        Event::GuestReset => "event-guest-reset",
        Event::Sealed(_) => "event-sealed",
        Event::Fatal(_) => "event-fatal",
        Event::PeerFailed { .. } => "event-peer-failed",
        Event::DeviceOpened => "event-device-opened",
        Event::DeviceFailed(_) => "event-device-failed",
        Event::Progress => "event-progress",
        Event::Carried(MoverNotice::Connected { .. }) => "event-carried-connected",
        Event::Carried(MoverNotice::RoundSent(_)) => "event-carried-round-sent",
        Event::Carried(MoverNotice::Heard(_)) => "event-carried-heard",
        Event::Carried(MoverNotice::LinkLost(_)) => "event-carried-link-lost",
        Event::Carried(MoverNotice::Closed) => "event-carried-closed",
        Event::Features(_) => "event-features",
        Event::Unmapped { .. } => "event-unmapped",
    };
    all.into_iter().map(|event| (name(&event), event)).collect()
}

/// The numbers of the small enums, which travel inside others.
fn numbers() -> Vec<u8> {
    let roles = Role::ALL.iter().map(to_vec).collect::<Vec<_>>().concat();
    let probes = [
        Probe::Open,
        Probe::Socket,
        Probe::Execve,
        Probe::Ptrace,
        Probe::ForeignIoctl,
        Probe::MmapExec,
        Probe::Fork,
        Probe::Unshare,
        Probe::Kill,
        Probe::Mount,
        Probe::Panic,
        Probe::Hang,
    ];
    [roles, probes.map(to_vec).concat()].concat()
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct SampleV1 {
    ticks: u64,
    name: String,
}

impl SavedState for SampleV1 {
    const KIND: UnitKind = UnitKind::new("sample");
    const VERSION: u16 = 1;
}

fn to_vec<T: Serialize>(value: T) -> Vec<u8> {
    postcard::to_stdvec(&value).unwrap()
}

fn framed<P: Protocol>(kind: Kind, request_id: u64, fd_count: u8, body: &[u8]) -> Vec<u8> {
    let body_len = body.len().try_into().unwrap();
    let (protocol, version) = (P::ID, P::VERSION);
    let header = Header { protocol, version, request_id, generation: 3, kind, fd_count, body_len };
    [&header.to_bytes()[..], body].concat()
}

fn messages<P: Protocol, T>(
    kind: Kind,
    request_id: u64,
    messages: Vec<(&'static str, T)>,
) -> Vec<(&'static str, Vec<u8>)>
where
    T: Message + DeserializeOwned + PartialEq,
{
    let pin = |(name, message): (&'static str, T)| {
        let bytes = framed::<P>(kind, request_id, message.fd_count(), &to_vec(&message));
        let (header, body) = frame::decode(&bytes).unwrap();
        assert_eq!((header.kind, header.request_id), (kind, request_id), "{name}");
        assert_eq!(frame::decode_body::<T>("golden", body).unwrap(), message, "{name}");
        (name, bytes)
    };
    messages.into_iter().map(pin).collect()
}

fn samples() -> BTreeMap<&'static str, Vec<u8>> {
    let mut samples = BTreeMap::new();
    let mut add = |more: Vec<(&'static str, Vec<u8>)>| {
        for (name, bytes) in more {
            assert!(samples.insert(name, bytes).is_none(), "{name} twice");
        }
    };
    add(messages::<Control, _>(Kind::Request, 0x0102_0304_0506_0708, requests()));
    add(messages::<Control, _>(Kind::Reply, 0x0102_0304_0506_0708, replies()));
    add(messages::<Control, _>(Kind::Event, 0, events()));
    add(messages::<Stage1, _>(Kind::Event, 0, notices()));
    add(messages::<FunctionLink, _>(Kind::Request, 7, function_link::requests()));
    add(messages::<FunctionLink, _>(Kind::Reply, 7, function_link::replies()));
    add(stream::samples());
    let hello = Hello { role: Role::Vcpu, protocol: 7, build: "1.2.3".into(), generation: 3 };
    add(vec![("hello", framed::<Control>(Kind::Hello, 0, 0, &to_vec(hello))), ("numbers", numbers())]);
    let mut writer = Writer::new();
    let state = SampleV1 { ticks: 300, name: "rtc".into() };
    writer.append(&state).unwrap();
    let unit = writer.finish();
    assert_eq!(Reader::new(&unit).unwrap().take::<SampleV1>().unwrap(), state);
    add(vec![("state-unit", unit)]);
    samples
}

/// 16 bytes a line, so that a difference is seen where it is.
fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for line in bytes.chunks(16) {
        let words: Vec<_> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(text, "{}", words.join(" ")).unwrap();
    }
    text
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

#[test]
fn messages_have_the_bytes_they_always_had() {
    let samples = samples();
    let bless = std::env::var_os("BULKHEAD_BLESS").is_some_and(|value| value == "1");
    let mut changed = Vec::new();
    for (name, bytes) in &samples {
        let path = folder().join(format!("{name}.hex"));
        let now = hex(bytes);
        let before = std::fs::read_to_string(&path).unwrap_or_default();
        if before != now {
            changed.push(format!("{name}: was\n{before}is\n{now}"));
            if bless {
                std::fs::write(&path, now).unwrap();
            }
        }
    }
    let names: BTreeSet<_> = samples.keys().map(|name| format!("{name}.hex")).collect();
    for entry in std::fs::read_dir(folder()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if !names.contains(&name) {
            changed.push(format!("{name} pins a message that is gone"));
        }
    }
    if !changed.is_empty() {
        let ending = if bless {
            "the files are written: run again without BULKHEAD_BLESS"
        } else {
            "see the head of this test"
        };
        panic!("{} messages changed:\n{}\n{ending}", changed.len(), changed.join("\n"));
    }
}

#[test]
fn protocol_has_a_number_for_the_bytes_that_it_has() {
    let mut hasher = crc32fast::Hasher::new();
    for (name, bytes) in samples() {
        hasher.update(&[name.as_bytes(), &(bytes.len() as u64).to_le_bytes(), &bytes].concat());
    }
    let checksum = hasher.finalize();
    assert_eq!(
        (PROTOCOL, checksum),
        PINNED,
        "messages changed ({checksum:#010x}): raise ipc::hello::PROTOCOL and change PINNED, which says when not to raise"
    );
}
