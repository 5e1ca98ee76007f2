// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The process without its sandbox: real ring, channels and memory, between a guest, a vSMMU and a server of the test's.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at the first surprise, in its helpers too"
)]

mod server;

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use dev_vfio::service::{Behind, Descriptors, VfioProcess};
use ipc::addr::{Bdf, Gpa, GpaRange, StreamId};
use ipc::channel::{self, Channel, Incoming};
use ipc::deadline::Deadline;
use ipc::hello::{Hello, Role};
use ipc::protocol::control::RoleConfig;
use ipc::protocol::inspect::Value;
use ipc::protocol::ram::{RamLayout, RamRegion};
use ipc::protocol::smmu::SmmuModel;
use ipc::protocol::stage1::{Attachment, Fault, Notice, Order, Stage1};
use ipc::protocol::vfio::{AREA32_REGION, CONFIG_REGION, VfioConfig};
use ipc::service::Process;
use ipc::shm::dirty_log::DirtyLog;
use ipc::shm::msi_board::MsiBoard;
use ipc::shm::region::Region;
use ipc::shm::ring::{self, Interrupt, Requester};
use ipc::vfio_user::connection::ConnectionError;
use ipc::vfio_user::dma::DmaAccess;
use ipc::vfio_user::header::Command;
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use server::{Bend, Server};
use zerocopy::IntoBytes;

const RAM: u64 = 0x4000_0000;
const RAM_LEN: u64 = 0x10_0000;
const DOORBELL: Gpa = Gpa(0x0821_0040);
const STREAM: StreamId = StreamId(8);
const TABLE: u64 = 0x2000;

struct Vm {
    process: VfioProcess,
    server: Server,
    ring: Requester,
    smmu: Channel<Stage1>,
    sequence: u64,
    board: MsiBoard,
    doorbell: OwnedFd,
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(10))
}

impl Vm {
    fn start(mut server: Server) -> Vm {
        let layout = RamLayout::new(vec![RamRegion { gpa: Gpa(RAM), len: RAM_LEN, file_offset: 0 }]).unwrap();
        let ring_memory = ring::create("ring").unwrap();
        let board_memory = MsiBoard::create("board").unwrap();
        let doorbell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        let (smmu, device) = channel::pair().unwrap();
        let clone = |fd: &dyn AsFd| fd.as_fd().try_clone_to_owned().unwrap();
        let descriptors = Descriptors {
            ram: clone(&Region::create("ram", RAM_LEN).unwrap()),
            dirty_log: clone(&DirtyLog::create("log", &layout).unwrap()),
            ring: clone(&ring_memory),
            stage1: device,
            behind: Behind::Server(server.client.take().unwrap()),
            msi_board: clone(&board_memory),
            msi_doorbell: clone(&doorbell),
        };
        let mut process = VfioProcess::new(descriptors, 1, Duration::ZERO, |reason| panic!("{reason}"));
        let config = VfioConfig {
            name: "vfio0".to_owned(),
            bdf: Bdf(8),
            stream: STREAM,
            area32: GpaRange::new(Gpa(0x1100_0000), 0x100_0000).unwrap(),
            area64: GpaRange::new(Gpa(0x84_0000_0000), 0x4_0000_0000).unwrap(),
            doorbell: DOORBELL,
            ram: layout,
            model: SmmuModel::default(),
        };
        process.configure(RoleConfig::Vfio(config)).unwrap();
        process.start().unwrap();
        let smmu = Channel::from_fd(smmu, Hello::new(Role::Smmu, 1));
        smmu.hello(Role::Vfio, soon()).unwrap();
        let ring = Requester::attach(&ring_memory, Duration::ZERO).unwrap();
        let board = MsiBoard::attach(&board_memory).unwrap();
        Vm { process, server, ring, smmu, sequence: 0, board, doorbell }
    }

    fn read(&self, region: u16, offset: u64, size: u8) -> u64 {
        self.ring.read(region, offset, size, &Interrupt::new(), soon()).unwrap()
    }

    fn write(&self, region: u16, offset: u64, size: u8, value: u64) {
        self.ring.write(region, offset, size, value, &Interrupt::new(), soon()).unwrap();
    }

    /// Gives orders and waits for the answer; faults that come before it are returned.
    fn order(&mut self, orders: Vec<Order>) -> (u32, Vec<Fault>) {
        self.sequence += 1;
        let notice = Notice::Orders { sequence: self.sequence, orders };
        self.smmu.event::<OwnedFd>(&notice, &[], soon()).unwrap();
        let mut faults = Vec::new();
        loop {
            let Incoming::Event { body, .. } = self.smmu.recv(soon()).unwrap();
            match body {
                Notice::Done { sequence, refused } => {
                    assert_eq!(sequence, self.sequence);
                    return (refused, faults);
                }
                Notice::Fault(fault) => faults.push(fault),
                other => panic!("{other:?}"),
            }
        }
    }

    fn attach(&mut self, to: Attachment) -> Vec<Fault> {
        let (refused, faults) = self.order(vec![Order::Attach { stream: STREAM, to }]);
        assert_eq!(refused, 0);
        faults
    }

    fn dma_write(&self, iova: u64, bytes: &[u8]) -> Result<(), ConnectionError> {
        let access = DmaAccess::new(iova, bytes.len());
        let parts = [access.as_bytes(), bytes];
        let answer = self.server.connection.request(Command::DMA_WRITE, &parts, &[], soon())?;
        access.check_write_reply(&answer.body).unwrap();
        Ok(())
    }

    fn dma_read(&self, iova: u64, len: usize) -> Result<Vec<u8>, ConnectionError> {
        let access = DmaAccess::new(iova, len);
        let parts = [access.as_bytes()];
        let answer = self.server.connection.request(Command::DMA_READ, &parts, &[], soon())?;
        Ok(access.decode_read_reply(&answer.body).unwrap().to_vec())
    }

    /// The events that come with the next ring of the doorbell, or within a moment if none may come.
    fn msis(&self, wait: Duration) -> Vec<u32> {
        let until = Instant::now() + wait;
        while rustix::io::read(&self.doorbell, &mut [0; 8]).is_err() {
            if Instant::now() > until {
                return Vec::new();
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let mut events = Vec::new();
        self.board.take(|event| events.push(event));
        events
    }

    fn enable_vector_0(&self, address: u64, data: u64) {
        self.write(CONFIG_REGION, 4, 2, 0b110);
        self.write(AREA32_REGION, TABLE, 8, address);
        self.write(AREA32_REGION, TABLE + 8, 8, data);
        self.write(CONFIG_REGION, 0x42, 2, 0x8000);
    }

    fn failure(&self) -> Option<String> {
        match self.process.inspect().get("failure") {
            Some(Value::Text(text)) => Some(text.clone()),
            _ => None,
        }
    }

    /// Waits until the device has failed, and checks that it is gone for the guest, and only it.
    fn assert_failed(&mut self, reason: &str) {
        let until = Instant::now() + Duration::from_secs(10);
        while self.failure().is_none() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        let failure = self.failure().unwrap();
        assert!(failure.contains(reason), "{failure}");
        assert_eq!(self.read(CONFIG_REGION, 0, 4), 0xffff_ffff);
        assert_eq!(self.read(AREA32_REGION, 0, 8), u64::MAX);
        self.write(AREA32_REGION, 0, 4, 1);
        self.attach(Attachment::Abort);
        self.process.pause().unwrap();
        self.process.resume().unwrap();
    }
}

const A_MOMENT: Duration = Duration::from_millis(100);
const LONG: Duration = Duration::from_secs(10);

#[test]
fn a_guest_finds_the_function_and_reaches_its_registers() {
    let vm = Vm::start(Server::good());
    assert_eq!(vm.read(CONFIG_REGION, 0, 4), 0x0001_f1b7);
    assert_eq!(vm.read(CONFIG_REGION, 0x10, 4), 0x1100_0004);
    assert_eq!(vm.read(AREA32_REGION, 8, 4), 0xffff_ffff, "memory space is not enabled yet");
    vm.write(CONFIG_REGION, 4, 2, 0b110);
    vm.write(AREA32_REGION, 8, 4, 0x1234_5678);
    assert_eq!(vm.read(AREA32_REGION, 8, 4), 0x1234_5678);
    assert_eq!(vm.server.device.registers.lock().unwrap()[8..12], [0x78, 0x56, 0x34, 0x12]);
    vm.ring.post(AREA32_REGION, 8, 4, 7, &Interrupt::new(), soon()).unwrap();
    assert_eq!(vm.read(AREA32_REGION, 8, 4), 7, "a read behind a post sees its effect");
    assert_eq!(vm.read(AREA32_REGION, 0x5000, 4), 0xffff_ffff, "behind the BAR there is nothing");
    assert_eq!(vm.read(99, 0, 4), 0xffff_ffff);
}

#[test]
fn the_msix_table_is_ours_and_messages_are_translated() {
    let mut vm = Vm::start(Server::good());
    vm.enable_vector_0(DOORBELL.0, 33);
    assert_eq!(vm.read(AREA32_REGION, TABLE + 8, 8), 33);
    assert!(!vm.server.device.commands.lock().unwrap().contains(&Command::REGION_WRITE_MULTI));
    vm.server.signal(0);
    assert_eq!(vm.msis(A_MOMENT), [0; 0], "the stream is attached to abort");
    let faults = vm.attach(Attachment::Bypass);
    assert_eq!(faults, [Fault::Aborted { stream: STREAM }]);
    vm.server.signal(0);
    assert_eq!(vm.msis(LONG), [33]);
    // Masked, it is pending, and comes when it is unmasked.
    vm.write(AREA32_REGION, TABLE + 12, 4, 1);
    vm.server.signal(0);
    assert_eq!(vm.msis(A_MOMENT), [0; 0]);
    assert_eq!(vm.read(AREA32_REGION, 0x3000, 4), 1);
    vm.write(AREA32_REGION, TABLE + 12, 4, 0);
    assert_eq!(vm.msis(LONG), [33]);
    // A message that is no interrupt is a write to memory, as on a bus.
    vm.enable_vector_0(RAM + 0x100, 0xabcd);
    vm.server.signal(0);
    let until = Instant::now() + LONG;
    while vm.dma_read(RAM + 0x100, 4).unwrap() != [0xcd, 0xab, 0, 0] && Instant::now() < until {}
    assert_eq!(vm.dma_read(RAM + 0x100, 4).unwrap(), [0xcd, 0xab, 0, 0]);
    assert_eq!(vm.msis(A_MOMENT), [0; 0]);
}

#[test]
fn dma_reaches_what_the_stream_is_attached_to_and_faults_are_told_before_the_answer() {
    let mut vm = Vm::start(Server::good());
    assert!(matches!(vm.dma_write(RAM, b"x"), Err(ConnectionError::Remote { errno: 14, .. })));
    assert_eq!(vm.attach(Attachment::Bypass), [Fault::Aborted { stream: STREAM }]);
    let data: Vec<u8> = (0..70_000u32).map(|n| n.to_le_bytes()[0]).collect();
    vm.dma_write(RAM + 5, &data).unwrap();
    assert_eq!(vm.dma_read(RAM + 5, data.len()).unwrap(), data);
    for iova in [0, RAM - 1, RAM + RAM_LEN - 3, 1 << 39] {
        assert!(vm.dma_read(iova, 8).is_err(), "{iova:#x}");
    }
    let (refused, faults) = vm.order(vec![Order::Invalidate([0x30, 0]), Order::Invalidate([0x46, 0])]);
    assert_eq!((refused, faults), (1, vec![]), "CMD_SYNC is not for devices");
}

#[test]
fn a_paused_device_changes_nothing_of_the_guest() {
    let mut vm = Vm::start(Server::good());
    vm.attach(Attachment::Bypass);
    vm.enable_vector_0(DOORBELL.0, 5);
    vm.process.pause().unwrap();
    vm.server.signal(0);
    let connection = std::sync::Arc::clone(&vm.server.connection);
    let writer = std::thread::spawn(move || {
        let access = DmaAccess::new(RAM, 4);
        let parts = [access.as_bytes(), &[1, 2, 3, 4]];
        connection.request(Command::DMA_WRITE, &parts, &[], soon()).is_ok()
    });
    assert_eq!(vm.msis(A_MOMENT), [0; 0]);
    assert!(!writer.is_finished());
    // Its vSMMU is answered all the same.
    vm.attach(Attachment::Bypass);
    vm.process.resume().unwrap();
    assert_eq!(vm.msis(LONG), [5]);
    assert!(writer.join().unwrap());
}

#[test]
fn a_server_that_goes_away_or_breaks_the_protocol_fails_its_device_only() {
    let mut vm = Vm::start(Server::good());
    vm.write(CONFIG_REGION, 4, 2, 0b110);
    vm.server.connection.close();
    vm.assert_failed("closed");

    let reply_too_long: Bend = Box::new(|command, body| {
        let config = body.get(8..12) == Some(&[7, 0, 0, 0]);
        (command == Command::REGION_READ && !config).then(|| Ok([body, &[0; 64]].concat()))
    });
    let mut vm = Vm::start(Server::start(reply_too_long));
    vm.write(CONFIG_REGION, 4, 2, 0b110);
    assert_eq!(vm.read(AREA32_REGION, 0, 4), 0xffff_ffff);
    vm.assert_failed("protocol");

    // A refusal is an answer like any other.
    let refuses: Bend = Box::new(|command, body| {
        let config = body.get(8..12) == Some(&[7, 0, 0, 0]);
        (command == Command::REGION_READ && !config).then_some(Err(Errno::IO))
    });
    let vm = Vm::start(Server::start(refuses));
    vm.write(CONFIG_REGION, 4, 2, 0b110);
    assert_eq!(vm.read(AREA32_REGION, 0, 4), 0xffff_ffff);
    assert_eq!(vm.failure(), None);
}

#[test]
fn a_server_with_a_bad_opening_leaves_an_empty_slot() {
    let bent = |at: Command, answer: Result<Vec<u8>, Errno>| -> Bend {
        Box::new(move |command, _| (command == at).then(|| answer.clone()))
    };
    let bridge = |command: Command, body: &[u8]| -> Option<Result<Vec<u8>, Errno>> {
        let mut image = server::config_space();
        image[0x0e] = 1;
        (command == Command::REGION_READ).then(|| Ok([body, &image].concat()))
    };
    let cases: Vec<(&str, Bend)> = vec![
        ("JSON", bent(Command::VERSION, Ok(b"\0\0\x01\0{\0".to_vec()))),
        ("major version", bent(Command::VERSION, Ok(b"\x09\0\0\0{}\0".to_vec()))),
        ("minor version", bent(Command::VERSION, Ok(b"\0\0\x09\0{}\0".to_vec()))),
        ("shorter", bent(Command::DEVICE_GET_INFO, Ok(vec![0; 3]))),
        ("not a PCI device", bent(Command::DEVICE_GET_INFO, Ok(vec![0; 16]))),
        ("error number 5", bent(Command::DEVICE_GET_REGION_INFO, Err(Errno::IO))),
        ("GET_REGION_INFO reply", bent(Command::DEVICE_GET_REGION_INFO, Ok(vec![0xff; 32]))),
        ("GET_IRQ_INFO reply", bent(Command::DEVICE_GET_IRQ_INFO, Ok(vec![0xff; 16]))),
        ("REGION_READ reply", bent(Command::REGION_READ, Ok(vec![0xee; 300]))),
        ("error number 12", bent(Command::DMA_MAP, Err(Errno::NOMEM))),
        ("its interrupts", bent(Command::DEVICE_SET_IRQS, Err(Errno::INVAL))),
        ("DEVICE_FEATURE", bent(Command::DEVICE_FEATURE, Ok(vec![0; 7]))),
        ("header type", Box::new(bridge)),
    ];
    for (reason, bend) in cases {
        Vm::start(Server::start(bend)).assert_failed(reason);
    }
}

#[test]
fn requests_of_the_server_that_make_no_sense_are_refused_and_hurt_nothing() {
    let mut vm = Vm::start(Server::good());
    vm.attach(Attachment::Bypass);
    let ask = |command, body: &[u8]| vm.server.connection.request(command, &[body], &[], soon());
    let access = |address: u64, count: u64| [address.to_le_bytes(), count.to_le_bytes()].concat();
    for (command, body) in [
        (Command::DMA_READ, access(RAM, 0)),
        (Command::DMA_READ, access(RAM, u64::MAX)),
        (Command::DMA_READ, access(u64::MAX, 2)),
        (Command::DMA_READ, access(RAM, (1 << 20) + 1)),
        (Command::DMA_READ, vec![0; 3]),
        (Command::DMA_WRITE, access(RAM, 8)),
        (Command::DMA_WRITE, vec![]),
        (Command::REGION_READ, vec![0; 16]),
        (Command::DEVICE_RESET, vec![]),
        (Command(0xffff), vec![0; 100]),
    ] {
        let answer = ask(command, &body);
        assert!(matches!(answer, Err(ConnectionError::Remote { .. })), "{command:?}: {answer:?}");
    }
    assert_eq!(vm.failure(), None);
}

#[test]
fn a_device_with_states_is_stopped_while_the_guest_is_paused() {
    let has_states: Bend = Box::new(|command, body| {
        let get = body.get(..8).is_some_and(|head| head[6] & 1 != 0);
        let flags: &[u8] = if get { &[3, 0, 0, 0, 0, 0, 0, 0] } else { &[] };
        (command == Command::DEVICE_FEATURE).then(|| Ok([&body[..8], flags].concat()))
    });
    let mut vm = Vm::start(Server::start(has_states));
    let features = |vm: &Vm| {
        let commands = vm.server.device.commands.lock().unwrap();
        commands.iter().filter(|command| **command == Command::DEVICE_FEATURE).count()
    };
    assert_eq!(features(&vm), 1, "asked once");
    vm.process.pause().unwrap();
    assert_eq!(features(&vm), 2, "stopped");
    vm.process.resume().unwrap();
    assert_eq!((features(&vm), vm.failure()), (3, None));
}
