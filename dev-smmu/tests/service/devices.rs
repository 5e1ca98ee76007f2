// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A device behind the SMMU: what it is told and when, what it may tell, and what becomes of the guest's CMD_SYNC.

use super::{Guest, RAM, Vm, counter, saved, soon, sync};

use dev_smmu::service::SmmuProgram;
use ipc::addr::{Gpa, StreamId};
use ipc::channel::{self, Channel, Incoming};
use ipc::deadline::Deadline;
use ipc::hello::{Hello, Role};
use ipc::instance::InstanceId;
use ipc::protocol::control::{Quiescence, ReplayOutcome, StreamReplay};
use ipc::protocol::smmu::SmmuDevice;
use ipc::protocol::stage1::{Attachment, Fault, Notice, Stage1, Stage1Request};
use process::{Life, Source};
use smmu_arch::spec::commands::{Command, ComplSignal, Opcode, StreamQw0};
use smmu_arch::spec::registers::Register;
use std::io::Cursor;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use zerocopy::IntoBytes;

mod lives;

const STREAM: StreamId = StreamId(8);
const STRTAB: u64 = RAM + 0x4_0000;
const CONTEXT: u64 = RAM + 0x5_0000;
const EVENTQ: u64 = RAM + 0x6_0000;
const A_MOMENT: Duration = Duration::from_millis(50);

pub struct Device {
    channel: Channel<Stage1>,
}

impl Device {
    fn tell(&self, notice: &Notice) {
        self.channel.event::<OwnedFd>(notice, &[], soon()).unwrap();
    }

    fn requests(&self, deadline: Deadline) -> Option<(u64, Vec<Stage1Request>)> {
        match self.channel.recv(deadline) {
            Ok(Incoming::Event { body: Notice::Requests { sequence, requests }, .. }) => {
                Some((sequence, requests))
            }
            Err(ipc::error::Error::Timeout { .. }) => None,
            other => panic!("{other:?}"),
        }
    }

    /// Carries out the next requests, which are returned.
    fn obey(&self) -> Vec<Stage1Request> {
        let (sequence, requests) = self.requests(soon()).unwrap();
        self.tell(&Notice::Done { sequence, refused: 0 });
        requests
    }
}

const VFIO0: InstanceId = InstanceId::new(Role::Vfio, 0);
const VFIO1: InstanceId = InstanceId::new(Role::Vfio, 1);

/// A process that serves, and a device behind it that has answered what it was told on the way.
pub fn start(vm: &Vm) -> (Life<SmmuProgram>, Device, Guest) {
    let (mut process, device) = armed(vm, Source::Reset);
    assert_eq!(replayed(&mut process, &device), [stream(Attachment::Bypass, ReplayOutcome::Attached)]);
    process.go().unwrap();
    let guest = vm.guest();
    guest.enable();
    (process, device, guest)
}

/// A process that is armed, and a device behind it that has greeted.
pub fn armed(vm: &Vm, source: Source) -> (Life<SmmuProgram>, Device) {
    let (ours, theirs) = channel::pair().unwrap();
    vm.stage1.borrow_mut().insert(VFIO0, theirs);
    let mut process = vm.process(1);
    let device = SmmuDevice { peer: VFIO0, stream: STREAM };
    process.configure(vm.config(|config| config.devices = vec![device])).unwrap();
    process.load(source).unwrap();
    process.arm().unwrap();
    let device = Device { channel: Channel::from_fd(ours, Hello::new(Role::Vfio, 1)) };
    device.channel.hello(Role::Smmu, soon()).unwrap();
    (process, device)
}

fn stream(attachment: Attachment, outcome: ReplayOutcome) -> StreamReplay {
    StreamReplay { stream: STREAM, attachment, outcome }
}

fn replayed(process: &mut Life<SmmuProgram>, device: &Device) -> Vec<StreamReplay> {
    obeying(device, || process.replay().unwrap().unwrap()).0
}

fn await_counter(process: &Life<SmmuProgram>, name: &str, value: u64) {
    let deadline = soon();
    while counter(process, name) != value {
        assert!(!deadline.has_passed(), "{name} is {}", counter(process, name));
        std::thread::yield_now();
    }
}

pub fn attach(to: Attachment) -> Vec<Stage1Request> {
    vec![Stage1Request::Attach { stream: STREAM, to }]
}

fn about_stream(opcode: Opcode, stream: u32) -> Command {
    Command { qw0: StreamQw0::new().with_opcode(opcode).with_stream_id(stream).into_bits(), qw1: 1 }
}

/// Enables translation over a linear table of 16 entries, all of them invalid; the device obeys meanwhile.
pub fn enable_translation(device: &Device, guest: &Guest) {
    guest.write(Register::EVENTQ_BASE, EVENTQ | 4);
    std::thread::scope(|scope| {
        let obeying = scope.spawn(|| {
            let mut last = Vec::new();
            while let Some((sequence, requests)) =
                device.requests(Deadline::after(Duration::from_millis(300)))
            {
                device.tell(&Notice::Done { sequence, refused: 0 });
                last = requests;
            }
            last
        });
        guest.write(Register::STRTAB_BASE, STRTAB);
        guest.write(Register::STRTAB_BASE_CFG, 4);
        guest.write(Register::CR0, 0b1101);
        guest.await_value(Register::CR0ACK, 0b1101);
        assert_eq!(obeying.join().unwrap(), attach(Attachment::Abort), "its entry is invalid");
    });
}

fn write_ste(guest: &Guest, words: [u64; 2]) {
    guest.ram.write(Gpa(STRTAB + u64::from(STREAM.0) * 64), words.as_bytes()).unwrap();
}

/// The guest's entry asks for stage 1: what the stream is to be attached to.
pub fn stage1_entry(guest: &Guest) -> Attachment {
    let words = [CONTEXT | 0b1011, 0b1101_0100];
    write_ste(guest, words);
    Attachment::Stage1(words)
}

fn event(guest: &Guest, index: u64) -> [u64; 4] {
    let mut words = [0; 4];
    guest.ram.read(Gpa(EVENTQ + index * 32), words.as_mut_bytes()).unwrap();
    words
}

#[test]
fn a_register_write_that_detaches_is_acknowledged_when_the_device_has_followed_and_not_before() {
    const UPDATE: u32 = 1 << 31;
    const ABORT: u32 = 1 << 20;
    let vm = Vm::new();
    let (process, device, guest) = start(&vm);
    guest.write(Register::GBPA, (UPDATE | ABORT).into());
    let (sequence, requests) = device.requests(soon()).unwrap();
    assert_eq!(requests, attach(Attachment::Abort));
    // It is asked to be ended after some seconds, by the clock of the process.
    let (name, _) = vm.given_up.recv_timeout(Duration::from_secs(60)).unwrap();
    assert_eq!(name, "vfio0");
    assert_eq!(guest.read(Register::GBPA), UPDATE | ABORT, "its stream may still be in bypass");
    // A second update is ignored until then.
    guest.write(Register::GBPA, UPDATE.into());
    assert_eq!(guest.read(Register::GBPA) & ABORT, ABORT);
    device.tell(&Notice::Done { sequence, refused: 0 });
    guest.await_value(Register::GBPA, ABORT);
    // The same for SMMUEN; the queue's enable bit does not wait.
    guest.write(Register::STRTAB_BASE_CFG, 4);
    guest.write(Register::STRTAB_BASE, STRTAB);
    let drain = || while device.requests(Deadline::after(A_MOMENT)).is_some() {};
    guest.write(Register::CR0, 0b0001);
    std::thread::sleep(A_MOMENT);
    assert_eq!(guest.read(Register::CR0), 0b0001);
    assert_eq!(guest.read(Register::CR0ACK), 0b0000);
    drain();
    drop(device);
    std::thread::sleep(A_MOMENT);
    assert_eq!(guest.read(Register::CR0ACK), 0b0000, "its process is gone, and its DMA may not be");
    let mut process = process;
    assert_eq!(process.dma_ended(VFIO1).unwrap_err().why, "it is not behind this process");
    process.dma_ended(VFIO0).unwrap();
    guest.await_value(Register::CR0ACK, 0b0001);
}

#[test]
fn a_sync_waits_for_the_answer_and_of_a_dead_device_for_the_end_of_its_dma() {
    let vm = Vm::new();
    let (mut process, device, guest) = start(&vm);
    enable_translation(&device, &guest);
    write_ste(&guest, [CONTEXT | 0b1011, 0b1101_0100]);
    guest.command(0, about_stream(Opcode::CfgiSte, STREAM.0));
    guest.command(1, Command { qw0: u64::from(Opcode::TlbiNhAll.0), qw1: 0 });
    // Another device's contexts are no business of this one.
    guest.command(2, about_stream(Opcode::CfgiCdAll, STREAM.0 + 1));
    guest.command(3, sync(ComplSignal::None));
    guest.write(Register::CMDQ_PROD, 4);
    let mut requests = Vec::new();
    let mut last = 0;
    while requests.len() < 2 {
        let (sequence, more) = device.requests(soon()).unwrap();
        (last, requests) = (sequence, [requests, more].concat());
    }
    assert!(
        requests.contains(&attach(Attachment::Stage1([CONTEXT | 0b1011, 0b1101_0100]))[0]),
        "{requests:?}"
    );
    assert!(requests.contains(&Stage1Request::Invalidate([0x10, 0])), "{requests:?}");
    std::thread::sleep(A_MOMENT);
    assert_eq!(guest.read(Register::CMDQ_CONS), 3, "the CMD_SYNC waits");
    device.tell(&Notice::Done { sequence: last, refused: 0 });
    guest.await_cons(4);

    guest.command(4, Command { qw0: u64::from(Opcode::TlbiNhAll.0), qw1: 0 });
    guest.command(5, sync(ComplSignal::None));
    guest.write(Register::CMDQ_PROD, 6);
    assert!(device.requests(soon()).is_some());
    std::thread::sleep(A_MOMENT);
    assert_eq!(guest.read(Register::CMDQ_CONS), 5);
    drop(device);
    await_counter(&process, "vfio0.up", 0);
    std::thread::sleep(A_MOMENT);
    assert_eq!(guest.read(Register::CMDQ_CONS), 5, "a physical device goes on without its process");
    process.dma_ended(VFIO0).unwrap();
    guest.await_cons(6);
    // From now on it holds nothing up.
    guest.command(6, about_stream(Opcode::CfgiSte, STREAM.0));
    guest.command(7, sync(ComplSignal::None));
    guest.write(Register::CMDQ_PROD, 8);
    guest.await_cons(8);
    assert_eq!(counter(&process, "vfio0.given_up"), 0);
}

#[test]
fn a_sync_waits_for_a_device_that_has_not_greeted_yet() {
    let vm = Vm::new();
    let (ours, theirs) = channel::pair().unwrap();
    vm.stage1.borrow_mut().insert(VFIO0, theirs);
    let mut process = vm.process(1);
    let device = SmmuDevice { peer: VFIO0, stream: STREAM };
    process.configure(vm.config(|config| config.devices = vec![device])).unwrap();
    process.load(Source::Reset).unwrap();
    process.arm().unwrap();
    process.go().unwrap();
    let guest = vm.guest();
    guest.enable();
    guest.command(0, sync(ComplSignal::None));
    guest.write(Register::CMDQ_PROD, 1);
    std::thread::sleep(A_MOMENT);
    assert_eq!(guest.read(Register::CMDQ_CONS), 0, "an earlier life may have attached it");
    let device = Device { channel: Channel::from_fd(ours, Hello::new(Role::Vfio, 1)) };
    device.channel.hello(Role::Smmu, soon()).unwrap();
    assert_eq!(device.obey(), attach(Attachment::Bypass));
    guest.await_cons(1);
}

#[test]
fn faults_enter_the_queue_with_their_stream_and_abort_says_why() {
    let vm = Vm::new();
    let (process, device, guest) = start(&vm);
    enable_translation(&device, &guest);
    let (record, stream) = ([0x10 | 8 << 32, 1 << 35, 0xdead_f000, 0], STREAM);
    device.tell(&Notice::Fault(Fault::Record(record)));
    device.tell(&Notice::Fault(Fault::Aborted { stream }));
    // Not its stream, stalled, of a kind no device reports: dropped.
    device.tell(&Notice::Fault(Fault::Record([0x10 | 9 << 32, 0, 0, 0])));
    device.tell(&Notice::Fault(Fault::Record([0x10 | 8 << 32, 1 << 31, 0, 0])));
    device.tell(&Notice::Fault(Fault::Record([0x03 | 8 << 32, 0, 0, 0])));
    // A sync is answered behind all of them.
    guest.command(0, Command { qw0: u64::from(Opcode::TlbiNhAll.0), qw1: 0 });
    guest.command(1, sync(ComplSignal::None));
    guest.write(Register::CMDQ_PROD, 2);
    device.obey();
    guest.await_cons(2);
    assert_eq!(event(&guest, 0), record);
    assert_eq!(event(&guest, 1), [0x04 | 8 << 32, 0, 0, 0], "C_BAD_STE");
    assert_eq!(guest.read(Register::EVENTQ_PROD), 2);
    assert_eq!(counter(&process, "eventq.written"), 2);
    // An entry that asks for abort is silent.
    write_ste(&guest, [1, 0]);
    device.tell(&Notice::Fault(Fault::Aborted { stream }));
    guest.command(2, sync(ComplSignal::None));
    guest.write(Register::CMDQ_PROD, 3);
    guest.await_cons(3);
    assert_eq!(guest.read(Register::EVENTQ_PROD), 2);
}

#[test]
fn a_device_that_answers_what_was_not_asked_is_cut_off() {
    let vm = Vm::new();
    let (mut process, device, guest) = start(&vm);
    device.tell(&Notice::Done { sequence: 77, refused: 0 });
    await_counter(&process, "vfio0.up", 0);
    let (name, why) = vm.given_up.recv_timeout(Duration::from_secs(60)).unwrap();
    assert_eq!((&*name, why.contains("were not sent")), ("vfio0", true), "{why}");
    guest.command(0, Command { qw0: u64::from(Opcode::TlbiNhAll.0), qw1: 0 });
    guest.command(1, sync(ComplSignal::None));
    guest.write(Register::CMDQ_PROD, 2);
    std::thread::sleep(A_MOMENT);
    assert_eq!(guest.read(Register::CMDQ_CONS), 1, "it lives, and hears nothing any more");
    process.dma_ended(VFIO0).unwrap();
    guest.await_cons(2);
}

#[test]
fn a_silent_device_is_given_up_by_name_while_registers_and_inspection_go_on() {
    let vm = Vm::new();
    let (mut process, device, guest) = start(&vm);
    guest.command(0, Command { qw0: u64::from(Opcode::TlbiNhAll.0), qw1: 0 });
    guest.command(1, sync(ComplSignal::None));
    guest.write(Register::CMDQ_PROD, 2);
    assert!(device.requests(soon()).is_some(), "which it keeps to itself");
    let (name, why) = vm.given_up.recv_timeout(Duration::from_secs(60)).unwrap();
    assert_eq!(name, "vfio0");
    assert!(why.contains("CMD_SYNC waiting for 5 s"), "{why}");
    assert_eq!(counter(&process, "vfio0.given_up"), 1);
    // Every access and inspection is answered within the helpers' deadlines.
    guest.write(Register::GERRORN, 0);
    assert_eq!(guest.read(Register::CMDQ_CONS), 1, "it lives, and may still use what it has cached");
    drop(device);
    process.dma_ended(VFIO0).unwrap();
    guest.await_cons(2);
    assert!(vm.given_up.try_recv().is_err(), "once is enough");
}

#[test]
fn a_device_that_reads_nothing_keeps_no_thread_waiting_and_is_told_all_when_it_does() {
    // Of the queue; the wrap bit is above the index.
    const ENTRIES: u32 = 16;
    let vm = Vm::new();
    let (process, device, guest) = start(&vm);
    // More invalidations than its channel takes, and no CMD_SYNC among them.
    let mut prod = 0;
    while counter(&process, "vfio0.full") == 0 {
        for _ in 0..ENTRIES / 2 {
            let command = Command { qw0: u64::from(Opcode::TlbiNhAll.0), qw1: 0 };
            guest.command((prod % ENTRIES).into(), command);
            prod += 1;
        }
        guest.write(Register::CMDQ_PROD, (prod % (2 * ENTRIES)).into());
        guest.await_cons(prod % (2 * ENTRIES));
        assert!(prod < 1 << 20, "its channel has no end");
    }
    guest.command((prod % ENTRIES).into(), sync(ComplSignal::None));
    prod += 1;
    guest.write(Register::CMDQ_PROD, (prod % (2 * ENTRIES)).into());
    assert_eq!(counter(&process, "vfio0.up"), 1, "it lives");
    let mut last = Vec::new();
    while let Some((sequence, requests)) = device.requests(Deadline::after(Duration::from_secs(3))) {
        device.tell(&Notice::Done { sequence, refused: 0 });
        last = requests;
    }
    assert_eq!(last, attach(Attachment::Bypass), "which drops all that it has cached");
    guest.await_cons(prod % (2 * ENTRIES));
}

#[test]
fn numbers_that_a_device_makes_up_are_counted_without_overflow() {
    let vm = Vm::new();
    let (process, device, guest) = start(&vm);
    guest.command(0, Command { qw0: u64::from(Opcode::TlbiNhAll.0), qw1: 0 });
    guest.command(1, sync(ComplSignal::None));
    guest.write(Register::CMDQ_PROD, 2);
    let (sequence, _) = device.requests(soon()).unwrap();
    // Their sum, if it wrapped, would be 5.
    for count in [u64::MAX, 6] {
        device.tell(&Notice::FaultsLost { count });
    }
    device.tell(&Notice::Done { sequence, refused: u32::MAX });
    await_counter(&process, "vfio0.requests_answered", sequence);
    assert_eq!(counter(&process, "vfio0.faults_lost"), u64::MAX);
    assert_eq!(counter(&process, "vfio0.up"), 1);
}

/// What is done while the device answers; the requests that it was given.
pub fn obeying<T>(device: &Device, act: impl FnOnce() -> T) -> (T, Vec<Stage1Request>) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let obeys = scope.spawn(|| {
            let mut all = Vec::new();
            while !done.load(Ordering::Relaxed) {
                if let Some((sequence, requests)) = device.requests(Deadline::after(Duration::from_millis(5)))
                {
                    device.tell(&Notice::Done { sequence, refused: 0 });
                    all.extend(requests);
                }
            }
            all
        });
        // Also when it fails.
        let acted = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act));
        done.store(true, Ordering::Relaxed);
        let requests = obeys.join().unwrap();
        (acted.unwrap_or_else(|panic| std::panic::resume_unwind(panic)), requests)
    })
}

fn fault(address: u64) -> [u64; 4] {
    [0x10 | 8 << 32, 1 << 35, address, 0]
}

#[test]
fn faults_before_a_pause_are_in_the_queue_by_its_answer_and_later_ones_wait_for_who_goes_on() {
    let vm = Vm::new();
    let (mut process, device, guest) = start(&vm);
    enable_translation(&device, &guest);
    // Told by a device that stops right behind them.
    (0..10).for_each(|index| device.tell(&Notice::Fault(Fault::Record(fault(index)))));
    let (paused, _) = obeying(&device, || process.pause());
    assert_eq!(paused.unwrap(), Quiescence::NONE);
    assert_eq!(guest.read(Register::EVENTQ_PROD), 10);
    assert_eq!(event(&guest, 9), fault(9));
    let ram_before = event(&guest, 10);
    // A physical device's last DMA fails after that, behind the last harvest of the dirty log.
    device.tell(&Notice::Fault(Fault::Record(fault(0xf000))));
    device.tell(&Notice::Fault(Fault::Aborted { stream: STREAM }));
    await_counter(&process, "vfio0.faults_waiting", 2);
    assert_eq!((guest.read(Register::EVENTQ_PROD), event(&guest, 10)), (10, ram_before));
    let (units, _) = obeying(&device, || saved(&mut process));
    assert_eq!(guest.read(Register::EVENTQ_PROD), 10, "saving writes nothing of the guest's");

    // The next life, on another machine.
    let there = Vm::new();
    let (mut target, device_there) = armed(&there, Source::Units(Box::new(Cursor::new(units))));
    let guest_there = there.guest();
    let attachment = Attachment::Abort;
    assert_eq!(replayed(&mut target, &device_there), [stream(attachment, ReplayOutcome::Attached)]);
    device_there.tell(&Notice::Fault(Fault::Record(fault(0xe000))));
    await_counter(&target, "vfio0.faults_waiting", 1);
    assert_eq!(guest_there.read(Register::EVENTQ_PROD), 0, "nothing is shown before it is let go");
    assert_eq!(there.pulses(), [false; 3]);
    target.go().unwrap();
    guest_there.await_value(Register::EVENTQ_PROD, 13);
    let records = [10, 11, 12].map(|index| event(&guest_there, index));
    assert_eq!(records, [fault(0xf000), [0x04 | 8 << 32, 0, 0, 0], fault(0xe000)]);
    assert_eq!(counter(&target, "eventq.written"), 3);
    assert_eq!(there.pulses(), [true, false, true]);

    // If the move fails the old life has them as well, once.
    process.resume().unwrap();
    guest.await_value(Register::EVENTQ_PROD, 12);
    assert_eq!(event(&guest, 10), fault(0xf000));
    assert_eq!(counter(&process, "vfio0.faults_waiting"), 0);
}

#[test]
fn saving_while_a_device_has_not_followed_is_refused() {
    let vm = Vm::new();
    let (mut process, device, guest) = start(&vm);
    guest.write(Register::GBPA, 1 << 31 | 1 << 20);
    assert!(device.requests(soon()).is_some(), "which it keeps to itself");
    let requests = 2; // That one, and the question how far the device is.
    assert_eq!(process.pause().unwrap(), Quiescence { stage1_requests: requests, ..Quiescence::NONE });
    let failure = process.save(&mut Vec::new()).unwrap_err();
    assert!(failure.why.contains("have not answered"), "{failure:?}");
    drop(device);
    process.dma_ended(VFIO0).unwrap();
    process.pause().unwrap();
    saved(&mut process);
    assert_eq!(guest.read(Register::GBPA), 1 << 20, "which has completed meanwhile");
}

#[test]
fn replay_says_of_each_stream_whether_its_device_follows_the_guests_own_tables() {
    let vm = Vm::new();
    let (mut source, device, guest) = start(&vm);
    enable_translation(&device, &guest);
    let stage1 = Attachment::Stage1([CONTEXT | 0b1011, 0b1101_0100]);
    write_ste(&guest, [CONTEXT | 0b1011, 0b1101_0100]);
    obeying(&device, || source.pause().unwrap());
    let (units, _) = obeying(&device, || saved(&mut source));
    drop((source, device));
    let reborn = || armed(&vm, Source::Units(Box::new(Cursor::new(units.clone()))));
    let aborted = |why: &str| vec![stream(stage1, ReplayOutcome::Aborted(why.to_owned()))];

    let (mut process, device) = reborn();
    let (streams, requests) = obeying(&device, || process.replay().unwrap().unwrap());
    assert_eq!((streams, requests), (vec![stream(stage1, ReplayOutcome::Attached)], attach(stage1)));
    drop((process, device));

    // The host does not take it, and the device is attached to abort.
    let (mut process, device) = reborn();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (sequence, _) = device.requests(soon()).unwrap();
            device.tell(&Notice::Done { sequence, refused: 1 });
        });
        let streams = process.replay().unwrap().unwrap();
        assert_eq!(streams, aborted("its device cannot be attached so"));
    });
    drop((process, device));

    let (mut process, device) = reborn();
    assert_eq!(process.replay().unwrap().unwrap(), aborted("its device's process has not answered"));
    // Of a device that is lost there is nothing to attach.
    drop(device);
    process.dma_ended(VFIO0).unwrap();
    assert_eq!(process.replay().unwrap().unwrap(), [stream(stage1, ReplayOutcome::Attached)]);
}
