// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A server with the limits of the reference library (libvfio-user), as they were found with its sample programs.
//!
//! One thread. No window above 8 TiB, and some number of them; no message above 1 MiB and its header; 8 fds in a
//! message; `VERSION` first, and without fds; all kinds of interrupts in one table of eventfds, none of which masks
//! itself; nothing but accesses and features while it is stopped. While it waits for the answer to a command of its
//! own, what comes next on that socket *is* the answer, or the connection is over.
//!
//! Its device copies: 4 KiB from one IOVA to another, in messages, then interrupts.

use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ipc::vfio_user::device::{
    DeviceInfo, IrqAction, IrqData, IrqInfo, IrqSet, PCI_CONFIG_REGION, PCI_INTX_IRQ, PCI_MSIX_IRQ,
    RegionDescription, RegionInfo,
};
use ipc::vfio_user::dma::{DmaAccess, DmaMap, DmaUnmap};
use ipc::vfio_user::feature::{self, FeatureHeader, FeatureOp, MigDeviceState, MigState, MigrationFlags};
use ipc::vfio_user::header::{Command, HEADER_LEN, Header, Kind};
use ipc::vfio_user::region::RegionAccess;
use ipc::vfio_user::version::{Capabilities, TwinSocket, Version};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags};
use zerocopy::IntoBytes;

const WINDOW_LEN_MAX: u64 = 8 << 40;
const MESSAGE_LEN_MAX: usize = (1 << 20) + 64;
const FDS_MAX: usize = 8;
/// More than fit one message.
pub const VECTORS: u32 = 12;
const BAR_LEN: u64 = 0x2000;
/// Where in BAR 1 table and pending bits lie.
const TABLE: u32 = 0x1000;
const PENDING: u32 = 0x1800;

/// Registers of BAR 0, which is I/O, 8 bytes each: from, to, and how the copy went: 1 done, 2 failed. A write to the
/// last starts it.
pub const FROM: u64 = 0;
pub const TO: u64 = 8;
pub const STATE: u64 = 16;
/// How much is copied, in messages of how much.
pub const COPIED: usize = 4096;
const PIECE: usize = 1024;

/// What it was told, to be looked at.
#[derive(Debug, Default)]
pub struct Seen {
    pub windows: Vec<(u64, u64)>,
    pub unmasked: usize,
    pub resets: usize,
    pub refused: Vec<(Command, Errno)>,
    pub over: Option<String>,
}

/// How it differs from the newest library with its default settings.
pub struct Options {
    /// How many windows it takes.
    pub windows_max: usize,
    /// Whether it has a second socket for its own commands: older ones have not.
    pub twin: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { windows_max: 96, twin: true }
    }
}

pub struct Reference {
    pub client: Option<OwnedFd>,
    pub seen: Arc<Mutex<Seen>>,
    thread: Option<JoinHandle<()>>,
}

impl Reference {
    pub fn start(options: Options) -> Reference {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let seen = Arc::<Mutex<Seen>>::default();
        let mut session = Session {
            socket: ours,
            twin: None,
            seen: Arc::clone(&seen),
            options,
            eventfds: (0..VECTORS).map(|_| None).collect(),
            stopped: false,
            registers: [0; 24],
            next_id: 1,
        };
        let thread = thread::spawn(move || {
            let over = session.serve().unwrap_err();
            session.seen.lock().unwrap().over = Some(over);
        });
        Reference { client: Some(theirs.into()), seen, thread: Some(thread) }
    }

    /// Why it has ended: waits for that.
    pub fn end(&mut self) -> String {
        self.thread.take().unwrap().join().unwrap();
        self.seen.lock().unwrap().over.take().unwrap()
    }
}

/// A function with INTA and MSI-X.
fn config_space() -> [u8; 256] {
    let mut image = [0; 256];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &[0xb7, 0xf1, 0x02, 0x00, 0, 0, 0x10, 0, 0, 0, 0xff, 0]);
    // What is not said to be memory is I/O, in that library.
    put(0x10, &[1]);
    put(0x34, &[0x40]);
    put(0x3c, &[0, 1]);
    put(0x40, &[0x11, 0, u8::try_from(VECTORS - 1).unwrap(), 0]);
    put(0x44, &(TABLE | 1).to_le_bytes());
    put(0x48, &(PENDING | 1).to_le_bytes());
    image
}

struct Session {
    socket: UnixStream,
    twin: Option<UnixStream>,
    seen: Arc<Mutex<Seen>>,
    options: Options,
    eventfds: Vec<Option<OwnedFd>>,
    stopped: bool,
    registers: [u8; 24],
    next_id: u16,
}

type Answer = Result<Vec<u8>, Errno>;

impl Session {
    fn serve(&mut self) -> Result<(), String> {
        let (header, body, fds) = receive(&mut self.socket)?;
        if header.command != Command::VERSION || !fds.is_empty() {
            return Err(format!("{:?} with {} fds comes first", header.command, fds.len()));
        }
        self.negotiate(&header, &body)?;
        loop {
            let (header, body, fds) = receive(&mut self.socket)?;
            let empty = body.is_empty() && header.command != Command::DEVICE_RESET;
            let answer = if empty || self.stopped && !allowed_when_stopped(header.command) {
                Err(Errno::INVAL)
            } else {
                self.answer(header.command, &body, fds)
            };
            if let Err(errno) = answer {
                self.seen.lock().unwrap().refused.push((header.command, errno));
            }
            if header.kind == Kind::Command {
                reply(&mut self.socket, &header, &answer);
            }
            self.work()?;
        }
    }

    fn negotiate(&mut self, header: &Header, body: &[u8]) -> Result<(), String> {
        let proposal = Version::decode(body).map_err(|error| error.to_string())?;
        let mut capabilities = Capabilities {
            msg_fds_max: Some(FDS_MAX as u64),
            data_len_max: Some(1 << 20),
            ..Capabilities::default()
        };
        let mut fds = Vec::new();
        if self.options.twin && proposal.capabilities.twin_socket.is_some() {
            let (ours, theirs) = UnixStream::pair().unwrap();
            capabilities.twin_socket = Some(TwinSocket { fd_index: Some(0) });
            self.twin = Some(ours);
            fds.push(theirs);
        }
        let body = Version { major: 0, minor: proposal.minor.min(2), capabilities }.encode();
        let header = Header { kind: Kind::Reply, body_len: body.len(), ..*header };
        let bytes = [&header.encode().unwrap()[..], &body].concat();
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = rustix::net::SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(ancillary.push(rustix::net::SendAncillaryMessage::ScmRights(&fds)));
        }
        let flags = rustix::net::SendFlags::NOSIGNAL;
        let sent =
            rustix::net::sendmsg(&self.socket, &[std::io::IoSlice::new(&bytes)], &mut ancillary, flags);
        sent.map(drop).map_err(|errno| errno.to_string())
    }

    fn answer(&mut self, command: Command, body: &[u8], mut fds: Vec<OwnedFd>) -> Answer {
        match command {
            Command::DEVICE_GET_INFO => Ok(DeviceInfo::pci().as_bytes().to_vec()),
            Command::DEVICE_GET_REGION_INFO => {
                let mut info = RegionInfo::decode_request(body).map_err(|_| Errno::INVAL)?;
                let argsz = info.argsz.get();
                let (len, flags) = match info.index.get() {
                    0 => (0x100, RegionInfo::READ | RegionInfo::WRITE),
                    1 => (BAR_LEN, RegionInfo::READ | RegionInfo::WRITE),
                    PCI_CONFIG_REGION => (256, RegionInfo::READ | RegionInfo::WRITE),
                    _ => (0, 0),
                };
                (info.size, info.flags) = (len.into(), flags.into());
                Ok(RegionDescription { info, sparse: None }.encode(argsz))
            }
            Command::DEVICE_GET_IRQ_INFO => {
                let index = IrqInfo::decode_request(body).map_err(|_| Errno::INVAL)?.index.get();
                let count = match index {
                    PCI_INTX_IRQ => 1,
                    PCI_MSIX_IRQ => VECTORS,
                    _ => 0,
                };
                Ok(IrqInfo::new(index, IrqInfo::EVENTFD, count).as_bytes().to_vec())
            }
            Command::DEVICE_SET_IRQS => self.set_irqs(body, fds),
            Command::DMA_MAP => {
                let map = DmaMap::decode(body, fds.len()).map_err(|_| Errno::INVAL)?;
                if map.size.get() > WINDOW_LEN_MAX {
                    return Err(Errno::NOSPC);
                }
                let mut seen = self.seen.lock().unwrap();
                if seen.windows.len() == self.options.windows_max {
                    return Err(Errno::INVAL);
                }
                seen.windows.push((map.address.get(), map.size.get()));
                fds.clear();
                Ok(Vec::new())
            }
            Command::DMA_UNMAP => {
                let (unmap, _) = DmaUnmap::decode(body).map_err(|_| Errno::INVAL)?;
                let windows = &mut self.seen.lock().unwrap().windows;
                let window = (unmap.address.get(), unmap.size.get());
                let at = windows.iter().position(|known| *known == window).ok_or(Errno::NOENT)?;
                windows.remove(at);
                Ok(body.to_vec())
            }
            Command::REGION_READ => {
                let (access, count) = RegionAccess::decode_read(body).map_err(|_| Errno::INVAL)?;
                let at = usize::try_from(access.offset.get()).unwrap();
                let bytes = match access.region.get() {
                    PCI_CONFIG_REGION => config_space().to_vec(),
                    0 => self.registers.to_vec(),
                    _ => return Err(Errno::INVAL),
                };
                let data = bytes.get(at..at + count).ok_or(Errno::INVAL)?;
                Ok([access.as_bytes(), data].concat())
            }
            Command::REGION_WRITE => {
                let (access, data) = RegionAccess::decode_write(body).map_err(|_| Errno::INVAL)?;
                let at = usize::try_from(access.offset.get()).unwrap();
                if access.region == 0 {
                    let registers = self.registers.get_mut(at..at + data.len()).ok_or(Errno::INVAL)?;
                    registers.copy_from_slice(data);
                }
                Ok(access.as_bytes().to_vec())
            }
            Command::DEVICE_RESET => {
                self.seen.lock().unwrap().resets += 1;
                Ok(Vec::new())
            }
            Command::DEVICE_FEATURE => self.feature(body),
            _ => Err(Errno::INVAL),
        }
    }

    fn set_irqs(&mut self, body: &[u8], fds: Vec<OwnedFd>) -> Answer {
        let (set, data, action) = IrqSet::decode(body, fds.len()).map_err(|_| Errno::INVAL)?;
        let index = set.index.get();
        let has = match index {
            PCI_INTX_IRQ => 1,
            PCI_MSIX_IRQ => VECTORS,
            _ => 0,
        };
        let (start, count) = (set.start.get(), set.count.get());
        if start + count > has || start >= has {
            return Err(Errno::INVAL);
        }
        match (data, action) {
            (IrqData::None, IrqAction::Trigger) if count == 0 => {
                self.eventfds.iter_mut().take(has as usize).for_each(|eventfd| *eventfd = None);
            }
            (IrqData::Eventfd, IrqAction::Trigger) => {
                // One table for all kinds.
                for (slot, eventfd) in self.eventfds.iter_mut().skip(start as usize).zip(fds) {
                    *slot = Some(eventfd);
                }
            }
            (IrqData::None, IrqAction::Unmask) => self.seen.lock().unwrap().unmasked += 1,
            _ => return Err(Errno::INVAL),
        }
        Ok(Vec::new())
    }

    fn feature(&mut self, body: &[u8]) -> Answer {
        let (_, feature, op, data) = FeatureHeader::decode(body).map_err(|_| Errno::INVAL)?;
        match (feature, op) {
            (feature::MIGRATION, FeatureOp::Get) => {
                let flags = MigrationFlags { flags: MigrationFlags::STOP_COPY.into() };
                Ok([body, flags.as_bytes()].concat())
            }
            (feature::MIG_DEVICE_STATE, FeatureOp::Set) => {
                let state = MigDeviceState::decode(data).map_err(|_| Errno::INVAL)?;
                self.stopped = state != MigState::Running;
                Ok(body.to_vec())
            }
            _ => Err(Errno::INVAL),
        }
    }

    /// Does what was asked of the device, between two messages.
    fn work(&mut self) -> Result<(), String> {
        let [from, to, wanted] = self.words();
        if wanted != 1 << 32 {
            return Ok(());
        }
        let mut done = true;
        for at in (0..COPIED).step_by(PIECE) {
            let at = at as u64;
            let access = DmaAccess::new(from + at, PIECE);
            let read = self.ask(Command::DMA_READ, access.as_bytes().to_vec())?;
            let data = read.and_then(|body| Some(access.decode_read_reply(&body).ok()?.to_vec()));
            let access = DmaAccess::new(to + at, PIECE);
            done &= match data {
                Some(data) => {
                    let written = self.ask(Command::DMA_WRITE, [access.as_bytes(), &data].concat())?;
                    written.is_some_and(|body| body == access.as_bytes())
                }
                None => false,
            };
        }
        self.registers[16..].copy_from_slice(&if done { 1u64 } else { 2 }.to_le_bytes());
        if let Some(eventfd) = &self.eventfds[0] {
            rustix::io::write(eventfd, &1u64.to_ne_bytes()).unwrap();
        }
        Ok(())
    }

    fn words(&self) -> [u64; 3] {
        let word = |at: usize| u64::from_le_bytes(self.registers[at..at + 8].try_into().unwrap());
        [word(0), word(8), word(16)]
    }

    /// A command of its own. What comes next is the answer.
    fn ask(&mut self, command: Command, body: Vec<u8>) -> Result<Option<Vec<u8>>, String> {
        let header = Header { id: self.next_id, command, kind: Kind::Command, body_len: body.len() };
        self.next_id += 1;
        let alone = self.twin.is_none();
        if alone {
            // The client has time for a command of its own.
            let span = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
            poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&span)).unwrap();
        }
        let socket = self.twin.as_mut().unwrap_or(&mut self.socket);
        socket
            .write_all(&[&header.encode().unwrap()[..], &body].concat())
            .map_err(|error| error.to_string())?;
        let (answer, body, _) = receive(socket)?;
        match answer.kind {
            Kind::Reply if answer.id == header.id => Ok(Some(body)),
            Kind::Failure(_) if answer.id == header.id => Ok(None),
            _ => Err(format!("{:?} instead of the answer to {command:?}", answer.command)),
        }
    }
}

fn allowed_when_stopped(command: Command) -> bool {
    matches!(command, Command::REGION_READ | Command::REGION_WRITE | Command::DEVICE_FEATURE)
}

fn reply(socket: &mut UnixStream, to: &Header, answer: &Answer) {
    let empty = Vec::new();
    let (kind, body) = match answer {
        Ok(body) => (Kind::Reply, body),
        Err(errno) => (Kind::Failure(errno.raw_os_error().cast_unsigned()), &empty),
    };
    let header = Header { kind, body_len: body.len(), ..*to };
    // A client that is gone is found out by the next read.
    let _ = socket.write_all(&[&header.encode().unwrap()[..], body].concat());
}

/// A header with its fds, then the body.
fn receive(socket: &mut UnixStream) -> Result<(Header, Vec<u8>, Vec<OwnedFd>), String> {
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut head = [0; HEADER_LEN];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::net::recvmsg(
        &*socket,
        &mut [IoSliceMut::new(&mut head)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )
    .map_err(|errno| errno.to_string())?;
    let fds: Vec<OwnedFd> = ancillary
        .drain()
        .flat_map(|part| match part {
            RecvAncillaryMessage::ScmRights(rights) => rights.collect::<Vec<_>>(),
            _ => Vec::new(),
        })
        .collect();
    match received.bytes {
        0 => return Err("the client has gone".to_owned()),
        HEADER_LEN => {}
        some => return Err(format!("{some} bytes of a header")),
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err("more than 8 fds came along".to_owned());
    }
    let header = Header::decode(&head).map_err(|error| error.to_string())?;
    if header.body_len + HEADER_LEN > MESSAGE_LEN_MAX {
        return Err(format!("a message of {} bytes", header.body_len));
    }
    let mut body = vec![0; header.body_len];
    socket.read_exact(&mut body).map_err(|error| error.to_string())?;
    Ok((header, body, fds))
}
