// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The process without its sandbox: real ring, channels and memory, between a guest, a vSMMU and a server of the
//! test's.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at the first surprise, in its helpers too"
)]

mod faults;
mod function;
mod hostile;
mod memory;
mod moves;
mod pin;
mod posts;
mod reference;
mod samples;
#[path = "../server/mod.rs"]
mod server;
mod slow;

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, channel as queue};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dev_vfio::service::{Descriptors, VfioProgram};
use dev_vfio::vfio_user::{Given, VfioUserDevice};
use ipc::addr::{Bdf, Gpa, GpaRange, StreamId};
use ipc::channel::{self, Channel, Incoming};
use ipc::deadline::Deadline;
use ipc::doorbell::{self, Doorbell, Ringer};
use ipc::hello::{Hello, Role};
use ipc::instance::InstanceId;
use ipc::protocol::control::{DirtyLogOp, DirtyLogState, Event, Exactness, Quiescence, RoleConfig};
use ipc::protocol::function_link::{DeviceWindow, FunctionLink, FunctionReply, FunctionRequest};
use ipc::protocol::inspect::Value;
use ipc::protocol::ram::{RamLayout, RamRegion};
use ipc::protocol::smmu::Model;
use ipc::protocol::stage1::{Attachment, Fault, Notice, Stage1, Stage1Request};
use ipc::protocol::vfio::{AREA32_REGION, BarAreas, CONFIG_REGION, VfioConfig};
use ipc::shm::checkpoint::Checkpoint;
use ipc::shm::dirty_log::{self, DirtyLog, OwedMap};
use ipc::shm::msi_board::MsiBoard;
use ipc::shm::region::Region;
use ipc::shm::ring::{self, Interrupt, Requester};
use ipc::vfio_user::connection::ConnectionError;
use ipc::vfio_user::dma::DmaAccess;
use ipc::vfio_user::header::{Command, Header, Kind};
use ipc::vfio_user::version::Version;
use process::{Context, Events, Life};
use rustix::fs::SealFlags;
use rustix::io::Errno;
use server::{Bend, Server};
use zerocopy::IntoBytes;

const RAM: u64 = 0x4000_0000;
const RAM_LEN: u64 = 0x10_0000;
const DOORBELL: Gpa = Gpa(0x0821_0040);
const STREAM: StreamId = StreamId(8);
const TABLE: u64 = 0x2000;
/// Command register: the function may make transactions.
const BUS_MASTER: u64 = 0b100;

struct Vm<S = Server> {
    process: Life<VfioProgram<VfioUserDevice>>,
    /// What the coordinator is told.
    events: Receiver<Event>,
    server: S,
    ring: Requester,
    smmu: Channel<Stage1>,
    sequence: u64,
    board: MsiBoard,
    doorbell: Doorbell,
    /// What the vCPU process was asked.
    asked: Arc<Mutex<Vec<FunctionRequest>>>,
    intx: Doorbell,
    intx_end: Ringer,
    log: DirtyLog,
    layout: RamLayout,
    ram: OwnedFd,
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(10))
}

/// The vCPU process's end of the function link: agrees to everything.
fn answer_link(channel: OwnedFd) -> Arc<Mutex<Vec<FunctionRequest>>> {
    let asked = Arc::<Mutex<Vec<FunctionRequest>>>::default();
    let theirs = Arc::clone(&asked);
    std::thread::spawn(move || {
        let channel = Channel::<FunctionLink>::from_fd(channel, Hello::new(Role::Vcpu, 1));
        channel.hello(Role::Vfio, soon()).unwrap();
        while let Ok(Incoming::Request { request_id, body, .. }) = channel.recv(soon()) {
            theirs.lock().unwrap().push(body);
            let _ = channel.reply::<OwnedFd>(request_id, &FunctionReply::Done, &[], soon());
        }
    });
    asked
}

impl Vm {
    fn start(server: Server) -> Vm {
        Vm::start_with(server, false)
    }

    /// Starts it, and waits until the device is open, or is not.
    fn start_with(mut server: Server, direct_dma: bool) -> Vm {
        let client = server.client.take().unwrap();
        Vm::open(server, client, direct_dma)
    }

    /// Starts it, and waits for nothing.
    fn begin(mut server: Server, direct_dma: bool) -> Vm {
        let client = server.client.take().unwrap();
        let ram = RamRegion { gpa: Gpa(RAM), len: RAM_LEN, file_offset: 0 };
        Vm::begin_with(server, client, direct_dma, RamLayout::new(vec![ram]).unwrap(), RAM_LEN)
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

    /// The server's DMA windows: beginning, length, and whether there is memory.
    fn windows(&self) -> Vec<(u64, u64, bool)> {
        let windows = self.server.device.windows.lock().unwrap();
        windows.iter().map(|(start, window)| (*start, window.len, window.memory.is_some())).collect()
    }
}

impl<S> Vm<S> {
    fn open(server: S, client: OwnedFd, direct_dma: bool) -> Vm<S> {
        let ram = RamRegion { gpa: Gpa(RAM), len: RAM_LEN, file_offset: 0 };
        Vm::open_with(server, client, direct_dma, RamLayout::new(vec![ram]).unwrap(), RAM_LEN)
    }

    /// With other RAM, in a file of this length.
    fn open_with(server: S, client: OwnedFd, direct_dma: bool, layout: RamLayout, ram_len: u64) -> Vm<S> {
        let vm = Vm::begin_with(server, client, direct_dma, layout, ram_len);
        vm.event();
        vm.smmu.hello(Role::Vfio, soon()).unwrap();
        vm.write(CONFIG_REGION, 4, 2, BUS_MASTER);
        vm
    }

    fn begin_with(server: S, client: OwnedFd, direct_dma: bool, layout: RamLayout, ram_len: u64) -> Vm<S> {
        let ram = Region::create("ram", ram_len).unwrap();
        let mut vm = Vm::configured(server, client, layout, ram, |config| config.direct_dma = direct_dma);
        vm.process.boot().unwrap();
        vm
    }

    /// Configured and not loaded.
    fn configured(
        server: S,
        client: OwnedFd,
        layout: RamLayout,
        ram: Region,
        change: impl FnOnce(&mut VfioConfig),
    ) -> Vm<S> {
        let log_memory = DirtyLog::create("log", &layout).unwrap();
        let log = DirtyLog::attach(&log_memory, &layout).unwrap();
        let ring_memory = ring::create("ring").unwrap();
        let board_memory = MsiBoard::create("board").unwrap();
        let [(msi_doorbell, doorbell), (pin, intx), (intx_end, told_end)] =
            [(); 3].map(|()| doorbell::pair().unwrap());
        let (smmu, device) = channel::pair().unwrap();
        let (vcpu, link) = channel::pair().unwrap();
        let asked = answer_link(vcpu);
        let clone = |fd: &dyn AsFd| fd.as_fd().try_clone_to_owned().unwrap();
        let descriptors = Descriptors {
            ram: clone(&ram),
            dirty_log: clone(&log_memory),
            ring: clone(&ring_memory),
            stage1: device,
            given: Given { server: client, checkpoint: clone(&Checkpoint::create("checkpoint").unwrap()) },
            msi_board: clone(&board_memory),
            msi_doorbell,
            link,
            intx: pin,
            intx_end: told_end,
        };
        let (tell, events) = queue();
        // A test that is over listens no more. A slow server's device reports progress now and then, which is not what
        // these tests wait for, and neither are its features.
        let told = Events::new(move |event| {
            if !matches!(event, Event::Progress | Event::Features(_)) {
                drop(tell.send(event));
            }
        });
        let mut process =
            Life::new(descriptors, Context { generation: 1, spin: Duration::ZERO, events: told });
        let mut config = VfioConfig {
            id: InstanceId::new(Role::Vfio, 0),
            bdf: Bdf(8),
            stream: STREAM,
            areas: BarAreas {
                memory32: GpaRange::new(Gpa(0x1100_0000), 0x100_0000).unwrap(),
                memory64: GpaRange::new(Gpa(0x84_0000_0000), 0x4_0000_0000).unwrap(),
                io: GpaRange::new(Gpa(0x0f00_8000), 0x8000).unwrap(),
                io_base: Gpa(0x0f00_0000),
            },
            doorbell: DOORBELL,
            ram: layout.clone(),
            direct_dma: false,
            keeps_server: true,
            next_life: None,
            model: Model::default(),
        };
        change(&mut config);
        process.configure(RoleConfig::Vfio(config)).unwrap();
        let smmu = Channel::from_fd(smmu, Hello::new(Role::Smmu, 1));
        let ring = Requester::attach(&ring_memory, Duration::ZERO).unwrap();
        let board = MsiBoard::attach(&board_memory).unwrap();
        Vm {
            process,
            events,
            server,
            ring,
            smmu,
            sequence: 0,
            board,
            doorbell,
            asked,
            intx,
            intx_end,
            log,
            layout,
            ram: clone(&ram),
        }
    }

    /// The next thing that the coordinator is told.
    fn event(&self) -> Event {
        self.events.recv_timeout(LONG).unwrap()
    }

    fn read(&self, region: u16, offset: u64, size: u8) -> u64 {
        self.ring.read(region, offset, size, &Interrupt::new(), soon()).unwrap()
    }

    fn write(&self, region: u16, offset: u64, size: u8, value: u64) {
        self.ring.write(region, offset, size, value, &Interrupt::new(), soon()).unwrap();
    }

    /// Sends requests and waits for the answer; faults that come before it are returned.
    fn request(&mut self, requests: Vec<Stage1Request>) -> (u32, Vec<Fault>) {
        self.sequence += 1;
        let notice = Notice::Requests { sequence: self.sequence, requests };
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
        let (refused, faults) = self.request(vec![Stage1Request::Attach { stream: STREAM, to }]);
        assert_eq!(refused, 0);
        faults
    }

    /// The events that come with the next ring of the doorbell, or within a moment if none may come.
    fn msis(&self, wait: Duration) -> Vec<u32> {
        let until = Instant::now() + wait;
        while !self.doorbell.take() {
            if Instant::now() > until {
                return Vec::new();
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let mut events = Vec::new();
        self.board.take(|event| events.push(event));
        events
    }

    /// Whether the pin is asserted within a time.
    fn intx_within(&self, span: Duration) -> bool {
        let until = Instant::now() + span;
        while Instant::now() < until {
            if self.intx.take() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        false
    }

    /// The guest has ended the interrupt: the line fell.
    fn end_intx(&self) {
        self.intx_end.ring();
    }

    fn interrupt_status(&self) -> u64 {
        self.read(CONFIG_REGION, 6, 2) >> 3 & 1
    }

    fn await_interrupt_status(&self, wanted: u64) {
        let until = Instant::now() + LONG;
        while self.interrupt_status() != wanted && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(2));
        }
        assert_eq!(self.interrupt_status(), wanted);
    }

    /// How many pages are in the dirty log; they are taken out.
    fn dirty(&self) -> u64 {
        let mut pages = OwedMap::new(&self.layout);
        dirty_log::rearm_and_harvest(&self.log, &mut pages);
        pages.count()
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
