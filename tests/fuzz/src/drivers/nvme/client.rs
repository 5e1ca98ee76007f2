// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A client of the NVMe controller's server, with descriptors of every kind.
//!
//! The bytes are a program of messages and of what the client does to what it has passed: files are cut short, holes
//! punched, counters filled, commands put into shared memory. It waits for no answer, and goes. Then its session must
//! end, at once: whatever a client leaves behind, the next one is served.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use dev_nvme::device::Device;
use dev_nvme::identity::Identity;
use dev_nvme::service;
use ipc::vfio_user::device::{IrqSet, PCI_MSIX_IRQ};
use ipc::vfio_user::dma::{DmaMap, DmaUnmap};
use ipc::vfio_user::feature::{
    DMA_LOGGING_REPORT, DMA_LOGGING_START, FeatureHeader, FeatureOp, LoggingReport, LoggingStart,
};
use ipc::vfio_user::header::{Command, Header, Kind};
use ipc::vfio_user::region::RegionAccess;
use ipc::vfio_user::version::Version;
use rustix::fs::{FallocateFlags, fallocate, ftruncate};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use zerocopy::IntoBytes;

use super::{MEDIUM_LEN, Medium};
use crate::descriptors::{MEMORY_LEN, descriptor, fill_eventfd};
use crate::program::Program;

/// The most messages of a client: what is answered fits its socket.
const MESSAGES_MAX: usize = 64;
/// The most descriptors of a message.
const FDS_MAX: usize = 4;

/// Far longer than the end of a session takes, and short enough for a fuzz target to find it.
const PATIENCE: Duration = Duration::from_secs(20);

const PAGE: u64 = 4096;

struct Client {
    socket: OwnedFd,
    next_id: u16,
    /// Its own ends of what it has passed.
    kept: Vec<OwnedFd>,
}

impl Client {
    fn send(&mut self, command: Command, body: &[u8], fds: &[OwnedFd]) {
        self.next_id = self.next_id.wrapping_add(1);
        let header = Header { id: self.next_id, command, kind: Kind::Command, body_len: body.len() };
        let Ok(header) = header.encode() else { return };
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            let _ = ancillary.push(SendAncillaryMessage::ScmRights(&fds));
        }
        let parts = [IoSlice::new(&header), IoSlice::new(body)];
        // A server that has ended the session, or does not keep up, is sent nothing more.
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let _ = rustix::net::sendmsg(&self.socket, &parts, &mut ancillary, flags);
    }

    fn descriptors(&mut self, program: &mut Program<'_>, count: u8) -> Vec<OwnedFd> {
        let made = (0..count).filter_map(|_| descriptor(program.byte()).ok());
        let (fds, kept): (Vec<_>, Vec<_>) = made.unzip();
        self.kept.extend(kept);
        fds
    }

    fn map(&mut self, start: u64, pages: u64, offset: u64, flags: u32, fds: &[OwnedFd]) {
        let map = DmaMap::new(start * PAGE, pages * PAGE, offset * PAGE, flags);
        self.send(Command::DMA_MAP, map.as_bytes(), fds);
    }

    fn write(&mut self, offset: u64, value: &[u8]) {
        let access = RegionAccess::new(0, offset, u32::try_from(value.len()).unwrap_or(0));
        self.send(Command::REGION_WRITE, &[access.as_bytes(), value].concat(), &[]);
    }

    /// Memory in place, and a controller that is enabled with its admin queues in it.
    fn prepare(&mut self) {
        let mut memory = Program::new(&[0]);
        let fds = self.descriptors(&mut memory, 1);
        self.map(0, MEMORY_LEN / PAGE, 0, DmaMap::READ | DmaMap::WRITE, &fds);
        for (offset, value) in [(0x24, 0x003f_003f_u32), (0x28, 0), (0x30, 0x1000), (0x14, 0x0046_0001)] {
            self.write(offset, &value.to_le_bytes());
        }
    }

    fn operate(&mut self, program: &mut Program<'_>) {
        match program.byte() % 8 {
            0 => {
                let (start, pages) = (u64::from(program.byte()) * 64, u64::from(program.byte()));
                let (offset, count) = (u64::from(program.byte() % 8), program.byte() % 3);
                let fds = self.descriptors(program, count);
                self.map(start, pages, offset, u32::from(program.byte() % 4), &fds);
            }
            1 => {
                let (first, count) = (u32::from(program.byte() % 18), program.byte() % 5);
                let fds = self.descriptors(program, count);
                let flags = IrqSet::DATA_EVENTFD | IrqSet::ACTION_TRIGGER;
                let set = IrqSet::new(PCI_MSIX_IRQ, flags, first, count.into());
                self.send(Command::DEVICE_SET_IRQS, set.as_bytes(), &fds);
            }
            2 => {
                let unmap = match program.byte() {
                    255 => DmaUnmap { flags: DmaUnmap::ALL.into(), ..DmaUnmap::new(0, 0) },
                    start => DmaUnmap::new(u64::from(start) * 64 * PAGE, u64::from(program.byte()) * PAGE),
                };
                self.send(Command::DMA_UNMAP, unmap.as_bytes(), &[]);
            }
            3 => {
                let value = u32::try_from(program.number() & 0xffff_ffff).unwrap_or(0);
                self.write(program.number() & 0x1fff, &value.to_le_bytes());
            }
            4 => self.log(program.byte()),
            5 => self.meddle(program),
            6 => self.command(program),
            _ => {
                let (command, len, count) = (program.byte(), program.byte(), program.byte() % 5);
                let body: Vec<u8> = (0..len).map(|_| program.byte()).collect();
                let fds = self.descriptors(program, count);
                self.send(Command(u16::from(command) % 20), &body, &fds);
            }
        }
    }

    fn log(&mut self, which: u8) {
        let (feature, op, data) = match which % 2 {
            0 => {
                let start = LoggingStart { page_size: PAGE.into(), num_ranges: 0.into(), reserved: 0.into() };
                (DMA_LOGGING_START, FeatureOp::Set, start.as_bytes().to_vec())
            }
            _ => {
                let (iova, length) = (u64::from(which) * PAGE, 64 * PAGE);
                let report =
                    LoggingReport { iova: iova.into(), length: length.into(), page_size: PAGE.into() };
                (DMA_LOGGING_REPORT, FeatureOp::Get, report.as_bytes().to_vec())
            }
        };
        let header = FeatureHeader::request(feature, op, 4096);
        self.send(Command::DEVICE_FEATURE, &[header.as_bytes(), &data].concat(), &[]);
    }

    /// Does something to one of the descriptors that it has passed; what it is not made for fails.
    fn meddle(&self, program: &mut Program<'_>) {
        let what = program.byte();
        let Some(fd) = self.kept.get(usize::from(program.byte()) % self.kept.len().max(1)) else { return };
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let _ = match what % 4 {
            0 => ftruncate(fd, u64::from(program.byte()) * PAGE),
            1 => fallocate(fd, hole, u64::from(program.byte()) * PAGE, 64 * PAGE),
            _ => fill_eventfd(fd),
        };
    }

    /// Puts a command into the first memory, and rings its queue's doorbell.
    fn command(&mut self, program: &mut Program<'_>) {
        let (slot, opcode) = (u64::from(program.byte() % 64), program.byte() % 16);
        let mut command = [0; 64];
        for (number, dword) in command.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            *dword = match number {
                0 => [opcode, 0, program.byte(), 0],
                1 => [1, 0, 0, 0],
                _ => u32::try_from(program.number() & 0xffff_ffff).unwrap_or(0).to_le_bytes(),
            };
        }
        if let Some(memory) = self.kept.first() {
            let _ = rustix::io::pwrite(memory, &command, slot * 64);
        }
        let tail = u32::try_from((slot + 1) % 64).unwrap_or(0);
        self.write(0x1000 + u64::from(program.byte() % 3) * 8, &tail.to_le_bytes());
    }
}

/// Runs a client's program; with `enabled`, on a controller whose admin queues are in place.
pub fn run(program: &[u8], enabled: bool) {
    let Ok(identity) = Identity::new("FUZZ", MEDIUM_LEN as u64, 512) else { return };
    let device = Arc::new(Device::new(identity, Box::new(Medium(Mutex::new(vec![0; MEDIUM_LEN])))));
    let pair = rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None);
    let Ok((socket, theirs)) = pair else { return };
    let mut client = Client { socket, next_id: 0, kept: Vec::new() };
    let worker = thread::spawn({
        let engine = Arc::clone(device.engine());
        move || engine.work(|| ())
    });
    let session = thread::spawn({
        let device = Arc::clone(&device);
        move || service::serve_in_turn(&device, theirs, PATIENCE)
    });
    client.send(Command::VERSION, &Version::proposal().encode(), &[]);
    if enabled {
        client.prepare();
    }
    let mut program = Program::new(program);
    for _ in 0..MESSAGES_MAX {
        if program.is_over() {
            break;
        }
        client.operate(&mut program);
    }
    drop(client);
    let ended = session.join();
    device.engine().end();
    let worked = worker.join();
    assert!(matches!(ended, Ok(Ok(()))), "a client that has gone holds up nobody: {ended:?}");
    assert!(worked.is_ok(), "a worker ends in good order");
}
