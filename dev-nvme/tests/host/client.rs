// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A vfio-user client: a controller in another process, or behind a thread of this one.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use dev_nvme::dma::HostMemory;
use ipc::deadline::Deadline;
use ipc::vfio_user::connection::{Connection, ConnectionError};
use ipc::vfio_user::device::{IrqSet, PCI_MSIX_IRQ};
use ipc::vfio_user::dma::{DmaAccess, DmaMap};
use ipc::vfio_user::feature::{FeatureHeader, FeatureOp, MIG_DEVICE_STATE, MigDeviceState, MigState};
use ipc::vfio_user::header::Command;
use ipc::vfio_user::migration::MigData;
use ipc::vfio_user::region::RegionAccess;
use ipc::vfio_user::version::Version;
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use zerocopy::IntoBytes;

use super::{BASE, Ram, Wire};

pub fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(40))
}

/// A connection whose version is settled.
#[derive(Clone)]
pub struct Client {
    pub connection: Arc<Connection>,
    /// DMA messages served.
    pub messages: Arc<AtomicU64>,
    /// The most bytes that one of them asked for.
    pub longest: Arc<AtomicU64>,
}

impl Client {
    pub fn connect(stream: UnixStream) -> Client {
        Client::propose(stream, &Version::proposal())
    }

    /// A client of another version than ours.
    pub fn propose(stream: UnixStream, version: &Version) -> Client {
        let connection = Arc::new(Connection::new(stream.into()));
        let answer = connection.request(Command::VERSION, &[&version.encode()], &[], soon()).unwrap();
        Version::decode(&answer.body).unwrap().accept().unwrap();
        Client { connection, messages: Arc::default(), longest: Arc::default() }
    }

    pub fn ask(&self, command: Command, parts: &[&[u8]]) -> Result<Vec<u8>, ConnectionError> {
        self.connection.request(command, parts, &[], soon()).map(|answer| answer.body)
    }

    /// Declares the memory: with its fd, or to be reached by messages.
    pub fn map(&self, ram: &Ram, by_fd: bool) {
        let map = DmaMap::new(BASE, ram.object.len(), 0, DmaMap::READ | DmaMap::WRITE);
        let fds = [ram.object.as_fd()];
        let fds = if by_fd { &fds[..] } else { &[] };
        self.connection.request(Command::DMA_MAP, &[map.as_bytes()], fds, soon()).unwrap();
        if !by_fd {
            self.serve_memory(ram);
        }
    }

    /// Serves the device's reads and writes of memory, until the connection ends.
    pub fn serve_memory(&self, ram: &Ram) {
        let (client, ram) = (self.clone(), ram.clone());
        thread::spawn(move || {
            while let Ok(incoming) = client.connection.receive(soon()) {
                client.messages.fetch_add(1, Ordering::SeqCst);
                let served = match incoming.command() {
                    Command::DMA_READ => {
                        let (access, count) = DmaAccess::decode_read(&incoming.body).unwrap();
                        client.longest.fetch_max(count as u64, Ordering::SeqCst);
                        let mut bytes = vec![0; count];
                        let read = ram.read(access.address.get(), &mut bytes);
                        read.map(|()| [access.as_bytes(), &bytes].concat()).ok()
                    }
                    Command::DMA_WRITE => {
                        let (access, data) = DmaAccess::decode_write(&incoming.body).unwrap();
                        let written = ram.write(access.address.get(), data);
                        written.map(|()| access.as_bytes().to_vec()).ok()
                    }
                    other => panic!("the server asks {other:?}"),
                };
                let answered = match served {
                    Some(body) => client.connection.reply(&incoming, &[&body], &[], soon()),
                    None => client.connection.fail(&incoming, Errno::FAULT, soon()),
                };
                if answered.is_err() {
                    return;
                }
            }
        });
    }

    /// Connects an eventfd to each of the first `count` vectors.
    pub fn eventfds(&self, count: u32) -> Vec<OwnedFd> {
        let flags = EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC;
        let eventfds: Vec<OwnedFd> = (0..count).map(|_| eventfd(0, flags).unwrap()).collect();
        let fds: Vec<_> = eventfds.iter().map(AsFd::as_fd).collect();
        let set = IrqSet::new(PCI_MSIX_IRQ, IrqSet::DATA_EVENTFD | IrqSet::ACTION_TRIGGER, 0, count);
        self.connection.request(Command::DEVICE_SET_IRQS, &[set.as_bytes()], &fds, soon()).unwrap();
        eventfds
    }

    pub fn set_state(&self, state: MigState) -> Result<(), ConnectionError> {
        let header = FeatureHeader::request(MIG_DEVICE_STATE, FeatureOp::Set, 64);
        self.ask(Command::DEVICE_FEATURE, &[header.as_bytes(), MigDeviceState::new(state).as_bytes()])
            .map(drop)
    }

    pub fn state(&self) -> MigState {
        let header = FeatureHeader::request(MIG_DEVICE_STATE, FeatureOp::Get, 64);
        let reply = self.ask(Command::DEVICE_FEATURE, &[header.as_bytes()]).unwrap();
        MigDeviceState::decode(header.decode_reply(&reply).unwrap()).unwrap()
    }

    pub fn read_state(&self, piece_len: usize) -> Vec<u8> {
        let mut data = Vec::new();
        loop {
            let reply = self.ask(Command::MIG_DATA_READ, &[MigData::new(piece_len).as_bytes()]).unwrap();
            let piece = MigData::decode_read_reply(&reply, piece_len).unwrap();
            data.extend_from_slice(piece);
            if piece.len() < piece_len {
                return data;
            }
        }
    }

    pub fn write_state(&self, data: &[u8], piece_len: usize) {
        for piece in data.chunks(piece_len) {
            self.ask(Command::MIG_DATA_WRITE, &[MigData::new(piece.len()).as_bytes(), piece]).unwrap();
        }
    }
}

impl Wire for Client {
    fn read(&self, offset: u64, len: usize) -> u64 {
        let access = RegionAccess::new(0, offset, len as u32);
        let body = self.ask(Command::REGION_READ, &[access.as_bytes()]).unwrap();
        let mut bytes = [0; 8];
        bytes[..len].copy_from_slice(access.decode_read_reply(&body).unwrap());
        u64::from_le_bytes(bytes)
    }

    fn write(&self, offset: u64, len: usize, value: u64) {
        let access = RegionAccess::new(0, offset, len as u32);
        let value = value.to_le_bytes();
        let parts = [access.as_bytes(), &value[..len]];
        if offset >= 0x1000 {
            // A doorbell needs no answer.
            self.connection.post(Command::REGION_WRITE, &parts, &[], soon()).unwrap();
        } else {
            self.ask(Command::REGION_WRITE, &parts).unwrap();
        }
    }

    fn progress(&self) {
        thread::yield_now();
    }
}
