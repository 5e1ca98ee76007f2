// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The process of such a device, moved from life to life with characters in its FIFO: to the same open device, in which
//! the state stays, and to another one, which is given it.

use std::io::Cursor;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, channel as queue};
use std::time::{Duration, Instant};

use dev_vfio::physical::Given;
use dev_vfio::physical::journal::HostJournal;
use dev_vfio::service::{Descriptors, VfioProgram};
use ipc::addr::{Bdf, Gpa, GpaRange, StreamId};
use ipc::channel::{self, Channel, Incoming};
use ipc::deadline::Deadline;
use ipc::doorbell::{self, Doorbell, Ringer};
use ipc::hello::{Hello, Role};
use ipc::instance::InstanceId;
use ipc::protocol::control::{Event, RoleConfig};
use ipc::protocol::function_link::{FunctionLink, FunctionReply};
use ipc::protocol::ram::{RamLayout, RamRegion};
use ipc::protocol::smmu::Model;
use ipc::protocol::stage1::Stage1;
use ipc::protocol::vfio::{BarAreas, CONFIG_REGION, IO_REGION, IdempotentRegisters, VfioConfig};
use ipc::shm::checkpoint::Checkpoint;
use ipc::shm::dirty_log::DirtyLog;
use ipc::shm::msi_board::MsiBoard;
use ipc::shm::region::Region;
use ipc::shm::ring::{self, Interrupt, Requester};
use process::{Context, Events, Life, Source};
use rustix::process::{Resource, Rlimit, setrlimit};

use super::*;

const LONG: Duration = Duration::from_secs(20);
const RAM_LEN: u64 = 0x10_0000;

/// Registers of a 16550.
const DATA: u64 = 0;
const INTERRUPT_ENABLE: u64 = 1;
const FIFO_CONTROL: u64 = 2;
const LINE_STATUS: u64 = 5;
const DATA_READY: u64 = 1;
/// As many as the sample's receive FIFO of 16 holds without looking empty.
const FIFO_LEN: u64 = 15;

fn soon() -> Deadline {
    Deadline::after(LONG)
}

/// A life of the process, and what is around it.
struct Side {
    process: Life<VfioProgram<PhysicalDevice>>,
    events: Receiver<Event>,
    ring: Requester,
    smmu: Channel<Stage1>,
    intx: Doorbell,
    intx_end: Ringer,
    /// Where its first BAR is in the I/O region.
    port: u64,
}

impl Side {
    /// Configured, over a device that its coordinator keeps open.
    fn configured(files: &Files) -> Side {
        Side::configured_with(files, None)
    }

    /// The same; if there is a checkpoint, a next life goes on from it.
    fn configured_with(files: &Files, checkpoint: Option<&Region>) -> Side {
        let layout = RamLayout::new(vec![RamRegion { gpa: Gpa(0x4000_0000), len: RAM_LEN, file_offset: 0 }]);
        let layout = layout.unwrap();
        let object = |region: &Region| region.file().try_clone().unwrap().into();
        let ring = ring::create("ring").unwrap();
        let [(msi_doorbell, _), (pin, intx), (intx_end, told_end)] =
            [(); 3].map(|()| doorbell::pair().unwrap());
        let (smmu, stage1) = channel::pair().unwrap();
        let (vcpu, link) = channel::pair().unwrap();
        answer_link(vcpu);
        let next_life = checkpoint.map(|_| IdempotentRegisters::none());
        let checkpoint = checkpoint.cloned().unwrap_or_else(|| Checkpoint::create("checkpoint").unwrap());
        let checkpoint = object(&checkpoint);
        let given = Given {
            cdev: files.cdev.try_clone().unwrap(),
            iommu: files.iommu.try_clone().unwrap(),
            checkpoint,
        };
        let descriptors = Descriptors {
            ram: object(&Region::create("ram", RAM_LEN).unwrap()),
            dirty_log: object(&DirtyLog::create("log", &layout).unwrap()),
            ring: object(&ring),
            stage1,
            given,
            msi_board: object(&MsiBoard::create("board").unwrap()),
            msi_doorbell,
            link,
            intx: pin,
            intx_end: told_end,
        };
        let (tell, events) = queue();
        let told = Events::new(move |event| {
            // What is said of a device before it is open is another suite's.
            if !matches!(event, Event::Features(_)) {
                drop(tell.send(event));
            }
        });
        let mut process =
            Life::new(descriptors, Context { generation: 1, spin: Duration::ZERO, events: told });
        let config = VfioConfig {
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
            ram: layout,
            direct_dma: false,
            keeps_server: true,
            next_life,
            model: Model::default(),
        };
        process.configure(RoleConfig::Vfio(config)).unwrap();
        let smmu = Channel::from_fd(smmu, Hello::new(Role::Smmu, 1));
        let ring = Requester::attach(&ring, Duration::ZERO).unwrap();
        Side { process, events, ring, smmu, intx, intx_end, port: 0 }
    }

    /// Armed, in this state or out of reset, and let go.
    fn start(files: &Files, state: Option<&[u8]>) -> Side {
        let mut side = Side::configured(files);
        side.arm(state);
        side.go();
        side
    }

    fn go(&mut self) {
        self.process.replay().unwrap();
        self.process.go().unwrap();
        self.port =
            (self.ring.read(CONFIG_REGION, 0x10, 4, &Interrupt::new(), soon()).unwrap() & !3) - 0x8000;
    }

    fn arm(&mut self, state: Option<&[u8]>) {
        let source =
            state.map_or(Source::Reset, |state| Source::Units(Box::new(Cursor::new(state.to_vec()))));
        self.arm_from(source);
    }

    fn arm_from(&mut self, source: Source) {
        self.process.load(source).unwrap();
        self.process.arm().unwrap();
        assert_eq!(self.events.recv_timeout(LONG).unwrap(), Event::DeviceOpened);
        self.smmu.hello(Role::Vfio, soon()).unwrap();
    }

    fn read(&self, register: u64) -> u64 {
        self.ring.read(IO_REGION, self.port + register, 1, &Interrupt::new(), soon()).unwrap()
    }

    fn write(&self, register: u64, value: u64) {
        self.ring.write(IO_REGION, self.port + register, 1, value, &Interrupt::new(), soon()).unwrap();
    }

    /// As a driver sets the port up.
    fn set_up(&self) {
        // Accesses to I/O are answered, and INTx is enabled.
        self.ring.write(CONFIG_REGION, 4, 2, 1, &Interrupt::new(), soon()).unwrap();
        self.write(FIFO_CONTROL, 1);
        self.write(SCRATCH, 0x5a);
    }

    fn save(&mut self) -> Vec<u8> {
        self.process.check_save().unwrap();
        let in_flight = self.process.pause().unwrap();
        assert!(in_flight.is_quiet(), "{in_flight:?}");
        let mut state = Vec::new();
        self.process.save(&mut state).unwrap();
        state
    }

    /// The characters are in the FIFO, in their order, and no others; and the port works on, its interrupt too.
    fn check(&self, sent: &[u64]) {
        assert_eq!(self.read(SCRATCH), 0x5a);
        for (place, character) in sent.iter().enumerate() {
            assert_eq!(self.read(LINE_STATUS) & DATA_READY, 1, "character {place} of {sent:x?} is missing");
            assert_eq!(self.read(DATA), *character, "character {place} of {sent:x?}");
        }
        assert_eq!(self.read(LINE_STATUS) & DATA_READY, 0, "there are more than {sent:x?}");
        while self.intx.take() {}
        self.write(INTERRUPT_ENABLE, 1);
        self.write(DATA, 0x21);
        let until = Instant::now() + LONG;
        while !self.intx.take() {
            assert!(Instant::now() < until, "no interrupt");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(self.read(DATA), 0x21);
        self.write(INTERRUPT_ENABLE, 0);
        self.intx_end.ring();
    }
}

/// The vCPU process's end of the function link: agrees to everything.
fn answer_link(channel: OwnedFd) {
    std::thread::spawn(move || {
        let channel = Channel::<FunctionLink>::from_fd(channel, Hello::new(Role::Vcpu, 1));
        // A process whose state is refused does not greet.
        if channel.hello(Role::Vfio, soon()).is_err() {
            return;
        }
        while let Ok(Incoming::Request { request_id, .. }) = channel.recv(Deadline::after(Deadline::SPAN_MAX))
        {
            let _ = channel.reply::<OwnedFd>(request_id, &FunctionReply::Done, &[], soon());
        }
    });
}

/// An instance that stays: a life's threads end with their process, and hold its file until then.
fn instance(index: u32) -> Option<std::mem::ManuallyDrop<Instance>> {
    Instance::new(index).map(std::mem::ManuallyDrop::new)
}

/// As many moves: to the same open device, and to one more by turns while there are some.
fn moves(count: u64, indexes: &[u32]) {
    let all: Option<Vec<_>> = indexes.iter().map(|index| instance(*index)).collect();
    let Some(mut left) = all else { return };
    // Those of the lives before stay open too.
    let files_max = Some(16 * 1024);
    setrlimit(Resource::Nofile, Rlimit { current: files_max, maximum: files_max }).unwrap();
    let mut files = left.remove(0).open();
    let mut side = Side::start(&files, None);
    side.set_up();
    side.check(&[]);
    let (mut bytes, mut characters, mut to_others) = (0, 0, 0);
    for turn in 0..count {
        let sent: Vec<u64> = (0..turn % FIFO_LEN + 1).map(|place| (turn * 31 + place * 7) & 0xff).collect();
        sent.iter().for_each(|character| side.write(DATA, *character));
        let state = side.save();
        (bytes, characters) = (state.len(), characters + sent.len());
        if turn % 2 == 0 || left.is_empty() {
            // A next life that comes to nothing: the one before goes on with all that it had.
            let mut given_up = Side::configured(&files);
            given_up.arm(Some(&state));
            drop(given_up);
            side.process.resume().unwrap();
            assert_eq!(side.save().len(), bytes);
        } else {
            files = left.remove(0).open();
            to_others += 1;
        }
        drop(std::mem::replace(&mut side, Side::start(&files, Some(&state))));
        side.check(&sent);
    }
    println!(
        "SEEN: {count} moves, {to_others} of them to another device, {characters} characters in flight, {bytes} bytes of state: \
         all came, in order"
    );
}

#[test]
fn characters_in_flight_come_over_in_four_moves() {
    moves(4, &[6, 7, 8]);
}

#[test]
fn characters_in_flight_come_over_in_a_hundred_moves() {
    moves(100, &[9, 10]);
}

/// As many lives that die with characters in the FIFO, each followed by the next one.
fn deaths(count: u64, index: u32) {
    let Some(device) = instance(index) else { return };
    let files_max = Some(16 * 1024);
    setrlimit(Resource::Nofile, Rlimit { current: files_max, maximum: files_max }).unwrap();
    let files = device.open();
    let checkpoint = Checkpoint::create("checkpoint").unwrap();
    let mut side = Side::configured_with(&files, Some(&checkpoint));
    side.arm(None);
    side.go();
    side.set_up();
    side.check(&[]);
    let journal = HostJournal::new(&checkpoint).unwrap();
    let mut characters = 0;
    for turn in 0..count {
        let sent: Vec<u64> = (0..turn % FIFO_LEN + 1).map(|place| (turn * 31 + place * 7) & 0xff).collect();
        sent.iter().for_each(|character| side.write(DATA, *character));
        characters += sent.len();
        // The last access is out of the ring, but this life may not have said so yet.
        let until = Instant::now() + LONG;
        while journal.begun().is_some() {
            assert!(Instant::now() < until, "an access that was answered counts as begun");
            std::thread::yield_now();
        }
        // Killed: nothing of it does anything any more. Its threads wait for what does not come.
        let mut next = Side::configured_with(&files, Some(&checkpoint));
        std::mem::forget(std::mem::replace(&mut side, {
            next.arm_from(Source::Checkpoint);
            next.go();
            next
        }));
        // It is told of an interrupt that the life before may not have seen.
        let until = Instant::now() + LONG;
        while !side.intx.take() {
            assert!(Instant::now() < until, "no interrupt");
            std::thread::sleep(Duration::from_millis(1));
        }
        side.intx_end.ring();
        side.check(&sent);
    }
    // An access that was begun: whether the register was written is not known.
    journal.begin_access(0, 3);
    let mut next = Side::configured_with(&files, Some(&checkpoint));
    let refused = next.process.load(Source::Checkpoint).unwrap_err();
    assert!(refused.why.contains("an access to BAR 0 at 0x3 was begun"), "{refused:?}");
    println!("SEEN: {count} deaths with {characters} characters in flight: all were there, in order");
}

#[test]
fn characters_in_flight_are_there_after_twenty_deaths_of_the_process() {
    deaths(20, 14);
}

#[test]
fn characters_in_flight_are_there_in_a_hundred_moves_by_death() {
    deaths(100, 15);
}

#[test]
fn state_that_is_cut_off_is_refused() {
    let Some(source) = instance(11) else { return };
    let files = source.open();
    let mut side = Side::start(&files, None);
    side.set_up();
    let state = side.save();
    for (index, len) in [(12, state.len() - 1), (13, state.len() / 2)] {
        let target = instance(index).unwrap();
        let mut next = Side::configured(&target.open());
        let source = Source::Units(Box::new(Cursor::new(state[..len].to_vec())));
        if next.process.load(source).is_ok() {
            next.process.arm().unwrap();
            let event = next.events.recv_timeout(LONG).unwrap();
            assert!(matches!(event, Event::DeviceFailed(_)), "{len} of {} bytes: {event:?}", state.len());
        }
    }
}
