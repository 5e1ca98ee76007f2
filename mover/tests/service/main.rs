// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The process without its sandbox: both ends of a migration, real sockets and memory, and the coordinators a test.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test stops at the first surprise, in its helpers too"
)]

mod closing;
mod identity;
mod moves;
mod strangers;

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use ipc::addr::Gpa;
use ipc::instance::InstanceId;
use ipc::migration::frame::MigrationId;
use ipc::protocol::control::{Event, Failure, RoleConfig};
use ipc::protocol::mover::{MoverConfig, MoverNotice, MoverRequest, Packing, Security, Side};
use ipc::protocol::ram::{RamLayout, RamRegion};
use ipc::shm::dirty_log::{OwedMap, SharedOwed};
use ipc::shm::memory_file;
use ipc::shm::region::Region;
use mover::service::{Descriptors, MoverProgram};
use process::{Context, Events, Life};

const MIGRATION: MigrationId = MigrationId(*b"a migration's id");
const RAM: u64 = 0x4000_0000;
/// Not a whole number of words.
const PAGES: u64 = 64 * 33 + 5;
/// Far above every wait that a test provokes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A mover, and what its coordinator has.
struct Mover {
    life: Life<MoverProgram>,
    notices: Receiver<Event>,
    ram: Region,
    owed: SharedOwed,
}

fn layout() -> RamLayout {
    RamLayout::new(vec![RamRegion { gpa: Gpa(RAM), len: PAGES * 4096, file_offset: 0 }]).unwrap()
}

impl Mover {
    fn start(side: Side, security: Security) -> Mover {
        let (tell, notices) = channel();
        let context = Context {
            generation: 1,
            spin: Duration::ZERO,
            events: Events::new(move |event| _ = tell.send(event)),
        };
        let ram = Region::create("ram", layout().file_len()).unwrap();
        let owed_map = SharedOwed::create("owed", &layout()).unwrap();
        let given = Descriptors {
            ram: ram.as_fd().try_clone_to_owned().unwrap(),
            owed_map: owed_map.as_fd().try_clone_to_owned().unwrap(),
        };
        let mut life = Life::new(given, context);
        life.configure(RoleConfig::Mover(MoverConfig { side, ram: layout(), security })).unwrap();
        let owed = SharedOwed::attach(&owed_map, &layout()).unwrap();
        Mover { life, notices, ram, owed }
    }

    fn ask(&mut self, request: MoverRequest) {
        self.life.carry(request, None).unwrap();
    }

    fn give(&mut self, request: MoverRequest, fd: impl Into<OwnedFd>) -> Result<(), Failure> {
        self.life.carry(request, Some(fd.into()))
    }

    fn notice(&self) -> MoverNotice {
        match self.notices.recv_timeout(PATIENCE).unwrap() {
            Event::Carried(notice) => notice,
            other => panic!("{other:?}"),
        }
    }

    fn lost(&self) -> String {
        match self.notice() {
            MoverNotice::LinkLost(reason) => reason,
            other => panic!("{other:?}"),
        }
    }

    fn close(&mut self) {
        self.ask(MoverRequest::Close);
        assert_eq!(self.notice(), MoverNotice::Closed);
    }

    /// Closes, with what comes of what was under way.
    fn close_whatever_comes(&mut self) {
        self.ask(MoverRequest::Close);
        while self.notice() != MoverNotice::Closed {}
    }

    /// Writes into a page, and owes it.
    fn write(&self, page: u64, byte: u8) {
        self.ram.file().write_all_at(&[byte; 4096], page * 4096).unwrap();
        let mut owed = OwedMap::new(&layout());
        owed.mark(Gpa(RAM + page * 4096), 1);
        self.owed.add(&owed);
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; (PAGES * 4096) as usize];
        self.ram.file().read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }
}

/// A connection, as a launcher hands it over.
fn pair() -> (UnixStream, UnixStream) {
    let (one, other) = UnixStream::pair().unwrap();
    one.set_nonblocking(true).unwrap();
    other.set_nonblocking(true).unwrap();
    (one, other)
}

fn source(lane_count: u8, security: Security) -> Mover {
    Mover::start(Side::Source { migration: MIGRATION, lane_count, packing: Packing::Plain }, security)
}

fn destination() -> Mover {
    Mover::start(Side::Destination, Security::Plain)
}

/// Both ends, connected by so many lanes.
fn connected(lane_count: u8) -> (Mover, Mover) {
    let (mut source, mut destination) = (source(lane_count, Security::Plain), destination());
    for index in 0..lane_count {
        let (here, there) = pair();
        source.give(MoverRequest::TakeLane { index }, here).unwrap();
        destination.give(MoverRequest::TakeLane { index: 0 }, there).unwrap();
    }
    await_connected(&source, &destination, lane_count);
    (source, destination)
}

fn await_connected(source: &Mover, destination: &Mover, lane_count: u8) {
    let told = MoverNotice::Connected { migration: MIGRATION, lane_count };
    assert_eq!((source.notice(), destination.notice()), (told.clone(), told));
}

/// A memory object without seals that has these bytes.
fn memory(bytes: &[u8]) -> OwnedFd {
    let file = std::fs::File::from(memory_file::create("state").unwrap());
    file.write_all_at(bytes, 0).unwrap();
    file.into()
}

fn vfio(index: u8) -> InstanceId {
    InstanceId::new(ipc::hello::Role::Vfio, index)
}
