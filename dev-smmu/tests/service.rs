// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The process without its sandbox: real ring, real register page, real RAM, the control calls of a life.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may stop at the first surprise"
)]

use dev_smmu::host::{GuestRam, Wires};
use dev_smmu::service::{Descriptors, SmmuProgram};
use ipc::addr::Gpa;
use ipc::deadline::Deadline;
use ipc::doorbell::{self, Doorbell, Ringer};
use ipc::hello::Role;
use ipc::instance::InstanceId;
use ipc::protocol::control::{DirtyLogOp, Event, RoleConfig};
use ipc::protocol::inspect::Value;
use ipc::protocol::ram::{RamLayout, RamRegion};
use ipc::protocol::smmu::{Model, Options, SmmuConfig};
use ipc::shm::checkpoint::Checkpoint;
use ipc::shm::dirty_log::{self, DirtyLog, OwedMap};
use ipc::shm::guest_memory::{self, GuestMemory};
use ipc::shm::region::Region;
use ipc::shm::register_page::{GuestOwned, RegisterPage};
use ipc::shm::ring::{self, Interrupt, Requester};
use process::{Context, Events, Life, Source};
use smmu_arch::memory::Abort;
use smmu_arch::spec::commands::{Command, ComplSignal, Opcode, SyncQw0};
use smmu_arch::spec::registers::{REGISTER_FILE_LEN, Register};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Cursor;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;
use zerocopy::IntoBytes;

#[path = "service/crashes.rs"]
mod crashes;
#[path = "service/devices.rs"]
mod devices;

const RAM: u64 = 0x4000_0000;
const RAM_LEN: u64 = 0x20_0000;
const CMDQ: u64 = RAM + 0x1_0000;
const REGION: u16 = 7;

/// Everything the coordinator would have made, and the vCPU side of it.
struct Vm {
    layout: RamLayout,
    ram: Region,
    dirty_log: Region,
    checkpoint: Region,
    ring: Region,
    page: Region,
    /// The SMMU's wires: event queue, global error, CMD_SYNC.
    wires: [(Ringer, Doorbell); 3],
    fatal: mpsc::Sender<String>,
    died: mpsc::Receiver<String>,
    failed: mpsc::Sender<(String, String)>,
    /// Devices that were given up, and why.
    given_up: mpsc::Receiver<(String, String)>,
    /// What the next process gets.
    stage1: RefCell<BTreeMap<InstanceId, OwnedFd>>,
}

impl Vm {
    fn new() -> Vm {
        let layout = RamLayout::new(vec![RamRegion { gpa: Gpa(RAM), len: RAM_LEN, file_offset: 0 }]).unwrap();
        let (fatal, died) = mpsc::channel();
        let (failed, given_up) = mpsc::channel();
        Vm {
            ram: Region::create("ram", RAM_LEN).unwrap(),
            dirty_log: DirtyLog::create("dirty", &layout).unwrap(),
            checkpoint: Checkpoint::create("checkpoint").unwrap(),
            ring: ring::create("ring").unwrap(),
            page: RegisterPage::create("page").unwrap(),
            wires: [(); 3].map(|()| doorbell::pair().unwrap()),
            layout,
            fatal,
            died,
            failed,
            given_up,
            stage1: RefCell::default(),
        }
    }

    /// Another life of the process, on the same objects.
    fn process(&self, generation: u32) -> Life<SmmuProgram> {
        let clone = |fd: &dyn AsFd| fd.as_fd().try_clone_to_owned().unwrap();
        let descriptors = Descriptors {
            ram: clone(&self.ram),
            dirty_log: clone(&self.dirty_log),
            checkpoint: clone(&self.checkpoint),
            ring: clone(&self.ring),
            register_page: clone(&self.page),
            wires: Wires {
                event_queue: clone(&self.wires[0].0).into(),
                global_error: clone(&self.wires[1].0).into(),
                command_sync: clone(&self.wires[2].0).into(),
            },
            stage1: self.stage1.take(),
        };
        let (fatal, failed) = (self.fatal.clone(), self.failed.clone());
        let events = Events::new(move |event| match event {
            Event::Fatal(reason) => fatal.send(reason).unwrap(),
            Event::PeerFailed { name, why } => failed.send((name, why)).unwrap(),
            // The version of its state alone.
            Event::Features(features) => assert_eq!(features.len(), 1, "{features:?}"),
            other => panic!("{other:?}"),
        });
        Life::new(descriptors, Context { generation, spin: Duration::ZERO, events })
    }

    /// The first life, begun, and its guest, whose Command queue and interrupts are on.
    fn running(&self) -> (Life<SmmuProgram>, Guest) {
        let mut process = self.process(1);
        process.configure(self.config(|_| {})).unwrap();
        process.boot().unwrap();
        let guest = self.guest();
        guest.enable();
        (process, guest)
    }

    fn config(&self, change: impl FnOnce(&mut SmmuConfig)) -> RoleConfig {
        let mut config = SmmuConfig {
            id: InstanceId::new(Role::Smmu, 0),
            region: REGION,
            base: Gpa(0x0905_0000),
            len: REGISTER_FILE_LEN,
            ram: self.layout.clone(),
            model: Model::default(),
            devices: Vec::new(),
        };
        change(&mut config);
        RoleConfig::Smmu(config)
    }

    fn guest(&self) -> Guest {
        let log = Arc::new(DirtyLog::attach(&self.dirty_log, &self.layout).unwrap());
        let page = RegisterPage::attach(&self.page).unwrap();
        let owned = [Register::CMDQ_PROD, Register::EVENTQ_CONS].map(|r| u32::try_from(r.offset()).unwrap());
        Guest {
            ram: GuestMemory::new(Arc::new(guest_memory::map(&self.ram, &self.layout).unwrap()), log),
            owned: GuestOwned::new(page.clone(), owned),
            page,
            ring: Requester::attach(&self.ring, Duration::ZERO).unwrap(),
        }
    }

    fn pulses(&self) -> [bool; 3] {
        self.wires.each_ref().map(|(_, doorbell)| doorbell.take())
    }
}

struct Guest {
    ram: GuestMemory,
    page: RegisterPage,
    owned: GuestOwned,
    ring: Requester,
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(10))
}

impl Guest {
    fn write(&self, register: Register, value: u64) {
        let offset = register.offset();
        let narrow = u32::try_from(value & u64::from(u32::MAX)).unwrap();
        if register.width() == 4 && self.owned.store_u32(offset, narrow) {
            self.ring.post(REGION, offset, 4, value, &Interrupt::new(), soon()).unwrap();
        } else {
            self.ring.write(REGION, offset, register.width(), value, &Interrupt::new(), soon()).unwrap();
        }
    }

    fn read(&self, register: Register) -> u32 {
        self.page.load_u32(register.offset()).unwrap()
    }

    fn command(&self, index: u64, command: Command) {
        self.ram.write(Gpa(CMDQ + index * 16), command.as_bytes()).unwrap();
    }

    fn enable(&self) {
        self.write(Register::CMDQ_BASE, CMDQ | 4);
        self.write(Register::IRQ_CTRL, 0b101);
        assert_eq!(self.read(Register::IRQ_CTRLACK), 0b101, "acknowledged when the write returned");
        self.write(Register::CR0, 0b1000);
        assert_eq!(self.read(Register::CR0ACK), 0b1000);
    }

    /// Polls a register as a driver does.
    fn await_value(&self, register: Register, value: u32) {
        let deadline = soon();
        while self.read(register) != value {
            assert!(!deadline.has_passed(), "{register:?} stays at {:#x}", self.read(register));
            std::thread::yield_now();
        }
    }

    /// Polls CONS as a driver does.
    fn await_cons(&self, cons: u32) {
        let deadline = soon();
        while self.read(Register::CMDQ_CONS) & 0xf_ffff != cons {
            assert!(!deadline.has_passed(), "CONS stays at {:#x}", self.read(Register::CMDQ_CONS));
            std::thread::yield_now();
        }
    }
}

fn sync(cs: ComplSignal) -> Command {
    Command { qw0: SyncQw0::new().with_opcode(Opcode::Sync).with_cs(cs).into_bits(), qw1: 0 }
}

fn saved(process: &mut Life<SmmuProgram>) -> Vec<u8> {
    let mut stream = Vec::new();
    process.save(&mut stream).unwrap();
    stream
}

fn counter(process: &Life<SmmuProgram>, name: &str) -> u64 {
    match process.inspect().get(name) {
        Some(Value::Counter(value)) => *value,
        other => panic!("{name} is {other:?}"),
    }
}

#[test]
fn a_guest_enables_the_device_and_its_commands_complete() {
    let vm = Vm::new();
    let mut process = vm.process(1);
    process.configure(vm.config(|_| {})).unwrap();
    let guest = vm.guest();
    assert_eq!(guest.read(Register::IDR0), 0, "the page may still be that of an earlier life");
    process.boot().unwrap();
    assert_ne!(guest.read(Register::IDR0), 0, "identification is there when the device has begun");
    guest.enable();
    guest.command(0, sync(ComplSignal::None));
    guest.command(1, sync(ComplSignal::Irq));
    guest.write(Register::CMDQ_PROD, 2);
    guest.await_cons(2);
    // The reply to a later access comes after the step that raised the interrupt.
    guest.write(Register::GERRORN, 0);
    assert_eq!(vm.pulses(), [false, false, true]);
    assert_eq!(counter(&process, "cmdq.syncs"), 2);

    guest.command(2, Command { qw0: 0, qw1: 0 });
    guest.write(Register::CMDQ_PROD, 3);
    // The step has it in the page before it pulses; a later access waits for the step.
    guest.await_value(Register::GERROR, 1);
    guest.write(Register::CR2, 0);
    assert_eq!(vm.pulses(), [false, true, false]);
}

/// DEVIATION of RES0: the guest reads back its own word, the device has only the bits that exist.
#[test]
fn reserved_bits_of_the_guests_own_registers_read_back_but_have_no_effect() {
    let vm = Vm::new();
    let (process, guest) = vm.running();
    guest.command(0, sync(ComplSignal::None));
    guest.write(Register::CMDQ_PROD, 0xfff0_0001);
    guest.await_cons(1);
    assert_eq!(guest.read(Register::CMDQ_PROD), 0xfff0_0001);
    assert_eq!(process.inspect().get("register.cmdq_prod"), Some(&Value::Hex(1)));
}

#[test]
fn a_paused_device_has_emptied_ring_and_queue_and_starts_no_commands() {
    let vm = Vm::new();
    let (mut process, guest) = vm.running();
    (0..16).for_each(|index| guest.command(index, sync(ComplSignal::None)));
    guest.write(Register::CMDQ_PROD, 8);
    process.pause().unwrap();
    assert_eq!(guest.read(Register::CMDQ_CONS), 8, "what was posted before the pause is done");
    assert_eq!(guest.ring.outstanding().unwrap(), 0);
    guest.write(Register::CMDQ_PROD, 12);
    guest.write(Register::CR2, 2);
    assert_eq!(guest.read(Register::CMDQ_CONS), 8, "answered, but no command is started");
    process.pause().unwrap();
    assert_eq!(guest.read(Register::CMDQ_CONS), 12, "a second pause drains again");
    process.resume().unwrap();
    guest.write(Register::CMDQ_PROD, 16);
    guest.await_cons(16);
}

#[test]
fn a_restored_process_goes_on_where_the_saved_one_stopped() {
    let vm = Vm::new();
    let (mut source, guest) = vm.running();
    guest.command(0, Command { qw0: 0xff, qw1: 0 });
    guest.write(Register::CMDQ_PROD, 1);
    source.pause().unwrap();
    let stream = saved(&mut source);
    assert_eq!(saved(&mut source), stream, "saving changes nothing");
    let before: Vec<_> = Register::ALL.iter().map(|r| guest.page.load_u32(r.offset())).collect();
    drop(source);

    // Another machine: other memory objects, RAM copied.
    let there = Vm::new();
    let mut target = there.process(1);
    target.configure(there.config(|_| {})).unwrap();
    target.load(Source::Units(Box::new(Cursor::new(stream.clone())))).unwrap();
    let guest = there.guest();
    target.arm().unwrap();
    target.replay().unwrap();
    assert_eq!(guest.read(Register::CR0), 0, "what fails on the way in has shown nothing");
    target.go().unwrap();
    let after: Vec<_> = Register::ALL.iter().map(|r| guest.page.load_u32(r.offset())).collect();
    assert_eq!(before, after, "the guest reads what it read before, its own registers included");
    guest.command(0, sync(ComplSignal::None));
    guest.write(Register::CMDQ_PROD, 1);
    guest.write(Register::CR2, 0);
    assert_eq!(guest.read(Register::CMDQ_CONS), 0x0100_0000, "the error still stops the queue");
    guest.write(Register::GERRORN, 1);
    guest.await_cons(1);
}

fn model(oas: u8) -> Model {
    Model::new("bulkhead-smmu-1", Options { oas, ..Options::default() }).unwrap()
}

#[test]
fn saved_state_of_another_model_or_with_leftovers_is_refused() {
    let vm = Vm::new();
    let mut source = vm.process(1);
    source.configure(vm.config(|_| {})).unwrap();
    source.boot().unwrap();
    source.pause().unwrap();
    let stream = saved(&mut source);
    drop(source);
    for (stream, change) in [
        (stream.clone(), 48),
        ([stream.clone(), stream.clone()].concat(), Model::default().options().oas),
        (stream[..stream.len() - 1].to_vec(), Model::default().options().oas),
        (Vec::new(), Model::default().options().oas),
    ] {
        let vm = Vm::new();
        let mut target = vm.process(1);
        target.configure(vm.config(|config| config.model = model(change))).unwrap();
        assert!(target.load(Source::Units(Box::new(Cursor::new(stream.clone())))).is_err());
    }
}

#[test]
fn the_next_life_executes_what_the_last_one_left_in_the_ring() {
    let vm = Vm::new();
    let guest = vm.guest();
    guest.ring.post(REGION, Register::CR2.offset(), 4, 2, &Interrupt::new(), soon()).unwrap();
    let mut process = vm.process(2);
    process.configure(vm.config(|_| {})).unwrap();
    process.boot().unwrap();
    guest.write(Register::CR1, 1);
    assert_eq!(guest.read(Register::CR2), 2);
    assert_eq!(guest.ring.responder_generation(), 2);
}

#[test]
fn writes_of_the_device_are_marked_dirty_and_reads_are_not() {
    let vm = Vm::new();
    let mut process = vm.process(1);
    process.configure(vm.config(|_| {})).unwrap();
    process.dirty_log(DirtyLogOp::Enable { epoch: 1 }).unwrap();
    process.boot().unwrap();
    let guest = vm.guest();
    guest.enable();
    guest.command(0, sync(ComplSignal::None));
    guest.write(Register::CMDQ_PROD, 1);
    guest.await_cons(1);
    let mut pages = OwedMap::new(&vm.layout);
    let log = DirtyLog::attach(&vm.dirty_log, &vm.layout).unwrap();
    dirty_log::rearm_and_harvest(&log, &mut pages);
    assert!(pages.is_empty(), "fetching commands writes nothing");

    log.enable(1);
    let ram = guest_memory::map(&vm.ram, &vm.layout).unwrap();
    let ram = GuestRam(GuestMemory::new(Arc::new(ram), Arc::new(log)));
    assert_eq!(dev_smmu::memory::GuestMemory::write(&ram, RAM + RAM_LEN - 8, &[1; 16]), Err(Abort));
    dev_smmu::memory::GuestMemory::write(&ram, RAM + 0x1ff0, &[1; 32]).unwrap();
    dirty_log::rearm_and_harvest(ram.0.log(), &mut pages);
    assert_eq!(pages.count(), 2, "the record lies across two pages");
}

#[test]
fn requests_for_what_does_not_exist_are_answered() {
    let vm = Vm::new();
    let mut process = vm.process(1);
    process.configure(vm.config(|_| {})).unwrap();
    process.boot().unwrap();
    let guest = vm.guest();
    for (region, offset, size) in
        [(REGION, u64::MAX, 8), (REGION, 3, 4), (REGION + 1, 0, 4), (REGION, 0x2_0000, 1)]
    {
        guest.ring.write(region, offset, size, u64::MAX, &Interrupt::new(), soon()).unwrap();
        assert_eq!(guest.ring.read(region, offset, size, &Interrupt::new(), soon()).unwrap(), 0);
    }
    assert_eq!(counter(&process, "ring.foreign_requests"), 2);
    assert_eq!(counter(&process, "mmio.ignored"), 3);
}

#[test]
fn a_request_that_cannot_be_closes_the_ring_and_not_the_control_side() {
    let vm = Vm::new();
    let guest = vm.guest();
    // A request whose place in the queue is right and whose content is not: found in the ring by its value.
    let mark = 0x5ca1_ab1e_0ddb_a115_u64;
    guest.ring.post(REGION, 0, 8, mark, &Interrupt::new(), soon()).unwrap();
    let mut ring = vec![0; usize::try_from(vm.ring.len()).unwrap()];
    rustix::io::pread(vm.ring.file(), &mut ring[..], 0).unwrap();
    let value = ring.windows(8).position(|word| word == mark.to_le_bytes()).unwrap();
    rustix::io::pwrite(vm.ring.file(), &[0xff; 8], u64::try_from(value - 16).unwrap()).unwrap();

    let mut process = vm.process(1);
    process.configure(vm.config(|_| {})).unwrap();
    process.boot().unwrap();
    let reason = vm.died.recv_timeout(Duration::from_secs(10)).unwrap();
    assert!(reason.contains("broke the MMIO ring's contract"), "{reason}");
    let failure = process.pause().unwrap_err();
    assert!(failure.why.contains("closed"), "{failure:?}");
    assert_eq!(counter(&process, "mmio.writes"), 0);
}

#[test]
fn wrong_configurations_and_wrong_orders_fail_with_a_reason() {
    let vm = Vm::new();
    let mut process = vm.process(1);
    let (armed, paused) = (process.arm(), process.pause().map(drop));
    for failure in [armed, paused, process.dirty_log(DirtyLogOp::Rearm).map(drop)] {
        assert!(!failure.unwrap_err().why.is_empty());
    }
    // A model that no SMMU can have is not even a message: `ipc` shows that.
    process.configure(vm.config(|config| config.len = 0x1_0000)).unwrap_err();
    process.configure(vm.config(|_| {})).unwrap();
    process.configure(vm.config(|_| {})).unwrap_err();
    process.boot().unwrap();
    process.load(Source::Units(Box::new(Cursor::new(vec![])))).unwrap_err();
}
