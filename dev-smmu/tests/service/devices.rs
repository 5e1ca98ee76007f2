// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A device behind the SMMU: what it is told and when, what it may tell, and what becomes of the guest's CMD_SYNC.

use super::{Guest, RAM, Vm, counter, soon, sync};

use dev_smmu::service::SmmuProgram;
use ipc::addr::{Gpa, StreamId};
use ipc::channel::{self, Channel, Incoming};
use ipc::deadline::Deadline;
use ipc::hello::{Hello, Role};
use ipc::instance::InstanceId;
use ipc::protocol::smmu::SmmuDevice;
use ipc::protocol::stage1::{Attachment, Fault, Notice, Order, Stage1};
use process::Life;
use smmu_arch::spec::commands::{Command, ComplSignal, Opcode, StreamQw0};
use smmu_arch::spec::registers::Register;
use std::os::fd::OwnedFd;
use std::time::Duration;
use zerocopy::IntoBytes;

const STREAM: StreamId = StreamId(8);
const STRTAB: u64 = RAM + 0x4_0000;
const CONTEXT: u64 = RAM + 0x5_0000;
const EVENTQ: u64 = RAM + 0x6_0000;
const A_MOMENT: Duration = Duration::from_millis(50);

struct Device {
    channel: Channel<Stage1>,
}

impl Device {
    fn tell(&self, notice: &Notice) {
        self.channel.event::<OwnedFd>(notice, &[], soon()).unwrap();
    }

    fn orders(&self, deadline: Deadline) -> Option<(u64, Vec<Order>)> {
        match self.channel.recv(deadline) {
            Ok(Incoming::Event { body: Notice::Orders { sequence, orders }, .. }) => Some((sequence, orders)),
            Err(ipc::error::Error::Timeout { .. }) => None,
            other => panic!("{other:?}"),
        }
    }

    /// Carries out the next orders, which are returned.
    fn obey(&self) -> Vec<Order> {
        let (sequence, orders) = self.orders(soon()).unwrap();
        self.tell(&Notice::Done { sequence, refused: 0 });
        orders
    }
}

const VFIO0: InstanceId = InstanceId::new(Role::Vfio, 0);

fn start(vm: &Vm) -> (Life<SmmuProgram>, Device, Guest) {
    let (ours, theirs) = channel::pair().unwrap();
    vm.stage1.borrow_mut().insert(VFIO0, theirs);
    let mut process = vm.process(1);
    let device = SmmuDevice { peer: VFIO0, stream: STREAM };
    process.configure(vm.config(|config| config.devices = vec![device])).unwrap();
    process.boot().unwrap();
    let device = Device { channel: Channel::from_fd(ours, Hello::new(Role::Vfio, 1)) };
    device.channel.hello(Role::Smmu, soon()).unwrap();
    let guest = vm.guest();
    guest.enable();
    (process, device, guest)
}

fn attach(to: Attachment) -> Vec<Order> {
    vec![Order::Attach { stream: STREAM, to }]
}

fn about_stream(opcode: Opcode, stream: u32) -> Command {
    Command { qw0: StreamQw0::new().with_opcode(opcode).with_stream_id(stream).into_bits(), qw1: 1 }
}

/// Enables translation over a linear table of 16 entries, all of them invalid; the device obeys meanwhile.
fn enable_translation(device: &Device, guest: &Guest) {
    guest.write(Register::EVENTQ_BASE, EVENTQ | 4);
    assert_eq!(device.obey(), attach(Attachment::Bypass), "GBPA says so");
    std::thread::scope(|scope| {
        let obeying = scope.spawn(|| {
            let mut last = Vec::new();
            while let Some((sequence, orders)) = device.orders(Deadline::after(Duration::from_millis(300))) {
                device.tell(&Notice::Done { sequence, refused: 0 });
                last = orders;
            }
            last
        });
        guest.write(Register::STRTAB_BASE, STRTAB);
        guest.write(Register::STRTAB_BASE_CFG, 4);
        guest.write(Register::CR0, 0b1101);
        assert_eq!(guest.read(Register::CR0ACK), 0b1101);
        assert_eq!(obeying.join().unwrap(), attach(Attachment::Abort), "its entry is invalid");
    });
}

fn write_ste(guest: &Guest, words: [u64; 2]) {
    guest.ram.write(Gpa(STRTAB + u64::from(STREAM.0) * 64), words.as_bytes()).unwrap();
}

fn event(guest: &Guest, index: u64) -> [u64; 4] {
    let mut words = [0; 4];
    guest.ram.read(Gpa(EVENTQ + index * 32), words.as_mut_bytes()).unwrap();
    words
}

#[test]
fn a_register_write_that_detaches_is_acknowledged_when_the_device_has_followed() {
    let vm = Vm::new();
    let (_process, device, guest) = start(&vm);
    device.obey();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| guest.write(Register::GBPA, 1 << 31 | 1 << 20));
        let (sequence, orders) = device.orders(soon()).unwrap();
        assert_eq!(orders, attach(Attachment::Abort));
        std::thread::sleep(A_MOMENT);
        assert!(!writer.is_finished(), "the write returned before the stream was detached");
        device.tell(&Notice::Done { sequence, refused: 0 });
    });
    assert_eq!(guest.read(Register::GBPA) & 1 << 20, 1 << 20);
}

#[test]
fn a_sync_waits_for_the_answer_and_a_dead_device_holds_nothing_up() {
    let vm = Vm::new();
    let (process, device, guest) = start(&vm);
    enable_translation(&device, &guest);
    write_ste(&guest, [CONTEXT | 0b1011, 0b1101_0100]);
    guest.command(0, about_stream(Opcode::CfgiSte, STREAM.0));
    guest.command(1, Command { qw0: u64::from(Opcode::TlbiNhAll.0), qw1: 0 });
    // Another device's contexts are no business of this one.
    guest.command(2, about_stream(Opcode::CfgiCdAll, STREAM.0 + 1));
    guest.command(3, sync(ComplSignal::None));
    guest.write(Register::CMDQ_PROD, 4);
    let mut orders = Vec::new();
    let mut last = 0;
    while orders.len() < 2 {
        let (sequence, more) = device.orders(soon()).unwrap();
        (last, orders) = (sequence, [orders, more].concat());
    }
    assert!(orders.contains(&attach(Attachment::Stage1([CONTEXT | 0b1011, 0b1101_0100]))[0]), "{orders:?}");
    assert!(orders.contains(&Order::Invalidate([0x10, 0])), "{orders:?}");
    std::thread::sleep(A_MOMENT);
    assert_eq!(guest.read(Register::CMDQ_CONS), 3, "the CMD_SYNC waits");
    device.tell(&Notice::Done { sequence: last, refused: 0 });
    guest.await_cons(4);

    guest.command(4, Command { qw0: u64::from(Opcode::TlbiNhAll.0), qw1: 0 });
    guest.command(5, sync(ComplSignal::None));
    guest.write(Register::CMDQ_PROD, 6);
    assert!(device.orders(soon()).is_some());
    std::thread::sleep(A_MOMENT);
    assert_eq!(guest.read(Register::CMDQ_CONS), 5);
    drop(device);
    guest.await_cons(6);
    assert_eq!(counter(&process, "vfio0.up"), 0);
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
    let (process, device, guest) = start(&vm);
    device.obey();
    device.tell(&Notice::Done { sequence: 77, refused: 0 });
    let deadline = soon();
    while counter(&process, "vfio0.up") == 1 && !deadline.has_passed() {
        std::thread::yield_now();
    }
    assert_eq!(counter(&process, "vfio0.up"), 0);
    guest.command(0, sync(ComplSignal::None));
    guest.write(Register::CMDQ_PROD, 1);
    guest.await_cons(1);
}

#[test]
fn a_silent_device_is_given_up_by_name_while_registers_and_inspection_go_on() {
    let vm = Vm::new();
    let (process, device, guest) = start(&vm);
    device.obey();
    guest.command(0, Command { qw0: u64::from(Opcode::TlbiNhAll.0), qw1: 0 });
    guest.command(1, sync(ComplSignal::None));
    guest.write(Register::CMDQ_PROD, 2);
    assert!(device.orders(soon()).is_some(), "which it keeps to itself");
    let (name, why) = vm.given_up.recv_timeout(Duration::from_secs(60)).unwrap();
    assert_eq!(name, "vfio0");
    assert!(why.contains("CMD_SYNC waiting for 5 s"), "{why}");
    assert_eq!(counter(&process, "vfio0.given_up"), 1);
    // Every access and inspection is answered within the helpers' deadlines.
    guest.write(Register::GERRORN, 0);
    assert_eq!(guest.read(Register::CMDQ_CONS), 1, "it lives, and may still use what it has cached");
    drop(device);
    guest.await_cons(2);
    assert!(vm.given_up.try_recv().is_err(), "once is enough");
}

#[test]
fn a_device_that_reads_nothing_keeps_no_thread_waiting_and_is_told_all_when_it_does() {
    // Of the queue; the wrap bit is above the index.
    const ENTRIES: u32 = 16;
    let vm = Vm::new();
    let (process, device, guest) = start(&vm);
    device.obey();
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
    while let Some((sequence, orders)) = device.orders(Deadline::after(Duration::from_secs(3))) {
        device.tell(&Notice::Done { sequence, refused: 0 });
        last = orders;
    }
    assert_eq!(last, attach(Attachment::Bypass), "which drops all that it has cached");
    guest.await_cons(prod % (2 * ENTRIES));
}

#[test]
fn numbers_that_a_device_makes_up_are_counted_without_overflow() {
    let vm = Vm::new();
    let (process, device, _guest) = start(&vm);
    let (sequence, _) = device.orders(soon()).unwrap();
    // Their sum, if it wrapped, would be 5.
    for count in [u64::MAX, 6] {
        device.tell(&Notice::FaultsLost { count });
    }
    device.tell(&Notice::Done { sequence, refused: u32::MAX });
    let deadline = soon();
    while counter(&process, "vfio0.orders_answered") < 1 && !deadline.has_passed() {
        std::thread::yield_now();
    }
    assert_eq!(counter(&process, "vfio0.faults_lost"), u64::MAX);
    assert_eq!(counter(&process, "vfio0.up"), 1);
}
