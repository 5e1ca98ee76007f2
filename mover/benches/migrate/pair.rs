// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Both ends of a migration, connected, and their coordinators.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use ipc::addr::Gpa;
use ipc::migration::frame::MigrationId;
use ipc::protocol::control::{Event, RoleConfig};
use ipc::protocol::mover::{
    IdentityFile, MoverConfig, MoverNotice, MoverRequest, Packing, RoundReport, Security, Side,
};
use ipc::protocol::ram::{RamLayout, RamRegion};
use ipc::shm::dirty_log::{OwedMap, SharedOwed};
use ipc::shm::memory_file;
use ipc::shm::region::Region;
use mover::service::{Descriptors, MoverProgram};
use process::{Context, Events, Life};
use rustix::fs::SealFlags;

use crate::RAM_LEN;
use crate::bare::{Kind, connection};
use crate::identity::{PEERS, Pems, pems};

/// For anything to happen.
const PATIENCE: Duration = Duration::from_secs(60);
/// What is written at a time.
const CHUNK: usize = 1 << 20;

/// A mover, and what its coordinator has of it.
struct End {
    life: Life<MoverProgram>,
    notices: Receiver<Event>,
    ram: Region,
    owed: SharedOwed,
}

/// Both.
pub struct Pair {
    source: End,
    destination: End,
}

pub fn layout() -> RamLayout {
    RamLayout::new(vec![RamRegion { gpa: Gpa(0), len: RAM_LEN, file_offset: 0 }]).unwrap()
}

impl End {
    fn start(side: Side, kind: Kind, pems: &Pems, peer: &str) -> Self {
        let (tell, notices) = channel();
        let events = Events::new(move |event| drop(tell.send(event)));
        let ram = Region::create("ram", RAM_LEN).unwrap();
        let owed_map = SharedOwed::create("owed", &layout()).unwrap();
        let duplicate = |memory: &Region| memory.as_fd().try_clone_to_owned().unwrap();
        let given = Descriptors { ram: duplicate(&ram), owed_map: duplicate(&owed_map) };
        let mut life = Life::new(given, Context { generation: 1, spin: Duration::ZERO, events });
        let security = match kind {
            Kind::Plain => Security::Plain,
            Kind::Tls => Security::Tls { peer: peer.to_owned() },
        };
        life.configure(RoleConfig::Mover(MoverConfig { side, ram: layout(), security })).unwrap();
        if kind == Kind::Tls {
            let Pems { authority, chain, key } = pems;
            for (file, text) in IdentityFile::ALL.into_iter().zip([authority, chain, key]) {
                life.carry(MoverRequest::TakeIdentity(file), Some(sealed(text))).unwrap();
            }
        }
        let owed = SharedOwed::attach(&owed_map, &layout()).unwrap();
        Self { life, notices, ram, owed }
    }

    fn ask(&mut self, request: MoverRequest) {
        self.life.carry(request, None).unwrap();
    }

    fn notice(&self) -> MoverNotice {
        let Event::Carried(notice) = self.notices.recv_timeout(PATIENCE).unwrap() else {
            unreachable!("a mover has nothing else to say")
        };
        notice
    }
}

fn sealed(text: &str) -> OwnedFd {
    let mut file = File::from(memory_file::create("identity").unwrap());
    file.write_all(text.as_bytes()).unwrap();
    rustix::fs::fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW).unwrap();
    file.into()
}

impl Pair {
    /// Connected by so many lanes; the source has RAM without a page that is zero.
    pub fn new(kind: Kind, lanes: u8, packing: Packing) -> Self {
        let [near, far] = pems();
        let migration = MigrationId(*b"a migration's id");
        let side = Side::Source { migration, lane_count: lanes, packing };
        let mut source = End::start(side, kind, &near, PEERS[1]);
        let mut destination = End::start(Side::Destination, kind, &far, PEERS[0]);
        for index in 0..lanes {
            let [here, there] = connection();
            [&here, &there].iter().for_each(|end| end.set_nonblocking(true).unwrap());
            source.life.carry(MoverRequest::TakeLane { index }, Some(here.into())).unwrap();
            destination.life.carry(MoverRequest::TakeLane { index }, Some(there.into())).unwrap();
        }
        for end in [&source, &destination] {
            assert!(matches!(end.notice(), MoverNotice::Connected { .. }));
        }
        fill(source.ram.file());
        // A guest's memory at the destination is fresh: what is measured includes that it comes into being.
        Self { source, destination }
    }

    /// Has these bytes over and over in guest RAM at the source.
    pub fn fill_with(&self, content: &[u8]) {
        let mut at = 0;
        while at < RAM_LEN {
            let len = content.len().min(usize::try_from(RAM_LEN - at).unwrap());
            self.source.ram.file().write_all_at(&content[..len], at).unwrap();
            at += len as u64;
        }
    }

    /// Guest RAM at the source.
    pub fn ram(&self) -> File {
        self.source.ram.file().try_clone().unwrap()
    }

    pub fn owe_all(&mut self) {
        let mut all = OwedMap::new(&layout());
        all.mark_all();
        self.owe(&all);
    }

    pub fn owe(&mut self, owed: &OwedMap) {
        self.source.owed.add(owed);
    }

    /// Pages that are owed.
    pub fn owed(&self) -> u64 {
        self.source.owed.count()
    }

    /// Sends what is owed. How long it takes until the other end has written all of it.
    pub fn round(&mut self, round: u32) -> (RoundReport, Duration) {
        let begun = Instant::now();
        self.source.ask(MoverRequest::SendRound { round });
        self.source.ask(MoverRequest::Say(b"sent".to_vec()));
        let MoverNotice::RoundSent(report) = self.source.notice() else { unreachable!("a round is sent") };
        assert_eq!(self.destination.notice(), MoverNotice::Heard(b"sent".to_vec()));
        (report, begun.elapsed())
    }

    /// Both ends have the same bytes.
    pub fn check(&self) {
        let [mut here, mut there] = [vec![0; CHUNK], vec![0; CHUNK]];
        for at in (0..RAM_LEN).step_by(CHUNK) {
            self.source.ram.file().read_exact_at(&mut here, at).unwrap();
            self.destination.ram.file().read_exact_at(&mut there, at).unwrap();
            assert!(here == there, "RAM differs within {CHUNK:#x} bytes from {at:#x}");
        }
    }

    pub fn end(mut self) {
        for end in [&mut self.source, &mut self.destination] {
            end.ask(MoverRequest::Close);
        }
        for end in [&self.source, &self.destination] {
            while end.notice() != MoverNotice::Closed {}
        }
    }
}

/// Writes bytes that look random.
fn fill(ram: &File) {
    let mut word = 0x9e37_79b9_7f4a_7c15_u64;
    let mut chunk = vec![0; CHUNK];
    for at in (0..RAM_LEN).step_by(CHUNK) {
        for bytes in chunk.chunks_exact_mut(8) {
            word ^= word << 13;
            word ^= word >> 7;
            word ^= word << 17;
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        ram.write_all_at(&chunk, at).unwrap();
    }
}
