// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A vfio-user server on a thread, with answers bent here and there.
//!
//! A good answer is made for every request, and bent if the list says so for its number. A bend after which the client
//! would wait for bytes that never come ends the connection too: silence costs time and shows nothing. What silence
//! does is found by delays: an answer comes late, in one piece or in two, and the client has milliseconds for all.

// The servers of dev-vfio's suites answer by it too.
#[path = "../../../../../dev-vfio/tests/server/described.rs"]
mod described;

use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::descriptors::descriptor;
use described::Described;
use ipc::vfio_user::device::RegionInfo;
use ipc::vfio_user::dma::DmaAccess;
use ipc::vfio_user::feature::{FeatureHeader, MigrationFlags};
use ipc::vfio_user::header::{Command, HEADER_LEN, Header, Kind};
use ipc::vfio_user::region::RegionAccess;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use zerocopy::IntoBytes;

/// The length of BAR 0, in the middle of which table and pending bits lie.
pub const BAR_LEN: u64 = 0x4000;
/// How many vectors the device has.
pub const VECTORS: u16 = 4;
/// Where the table is in BAR 0; the pending bits are at 0x3000.
pub const TABLE: u64 = 0x2000;
/// Where capabilities are in configuration space.
pub const CAP_MSIX: u8 = 0x40;
const CAP_POWER: u8 = 0x50;
const CAP_EXPRESS: u8 = 0x60;

/// Bytes of a bend in an input.
const BEND_LEN: usize = 6;
/// The most bends in an input.
const BENDS_MAX: usize = 16;

/// The kind of bend that is a delay.
const LATE: u8 = 15;
/// The longest delay of one answer, and the longest time for the whole conversation where there is one, in
/// milliseconds.
const DELAY_MS_MAX: u64 = 16;
const CONVERSATION_MS_MAX: u64 = 64;

const EDGES: [u32; 8] = [0, 1, 0xff, 0xfff, 0x10_0000, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff];

/// What is done to the answer to one message.
#[derive(Clone, Copy, Debug)]
pub struct Bend {
    message: u8,
    kind: u8,
    parameter: u32,
}

impl Bend {
    /// The list that an input begins with, and what is behind it.
    pub fn list(input: &[u8]) -> (Vec<Bend>, &[u8]) {
        let (count, rest) = input.split_first().map_or((0, input), |(count, rest)| (*count, rest));
        let len = (usize::from(count) % (BENDS_MAX + 1) * BEND_LEN).min(rest.len());
        let (bends, rest) = rest.split_at(len);
        let bends = bends.as_chunks::<BEND_LEN>().0.iter();
        let bends = bends.map(|[message, kind, parameter @ ..]| Bend {
            message: *message,
            kind: *kind,
            parameter: u32::from_le_bytes(*parameter),
        });
        (bends.collect(), rest)
    }

    /// How long a client waits for all answers together, if one of them is late by intent.
    pub fn conversation(bends: &[Bend]) -> Option<Duration> {
        let late = bends.iter().find(|bend| bend.kind % 16 == LATE)?;
        let [_, _, span, _] = late.parameter.to_le_bytes();
        Some(Duration::from_millis(1 + u64::from(span) % CONVERSATION_MS_MAX))
    }
}

/// What a server was asked.
#[derive(Debug, Default)]
pub struct Seen {
    /// Requests and posted messages of the client.
    pub messages: u64,
    /// The client answered what the server had asked.
    pub answers: u64,
}

/// A running server.
pub struct Server {
    thread: JoinHandle<(Seen, UnixStream)>,
}

impl Server {
    /// Starts it; the socket is the client's end. With `opening` it answers what a client asks to open a
    /// device, and leaves the rest of the stream to the caller.
    pub fn start(bends: Vec<Bend>, opening: bool) -> (OwnedFd, Server) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let thread = thread::spawn(move || {
            let mut talk = Talk { stream: ours, seen: Seen::default(), bends, asked: Vec::new() };
            // Its vectors are connected once, to see that they can be, and disconnected.
            let mut sets = 0;
            while let Some(last) = talk.turn() {
                sets += u32::from(last == Command::DEVICE_SET_IRQS);
                if opening && sets == 2 {
                    return (talk.seen, talk.stream);
                }
            }
            // The client is not to wait for what does not come; it may have gone itself.
            let _ = talk.stream.shutdown(Shutdown::Both);
            (talk.seen, talk.stream)
        });
        (theirs.into(), Server { thread })
    }

    /// Waits until the client has gone, or the opening is over.
    pub fn end(self) -> (Seen, UnixStream) {
        match self.thread.join() {
            Ok(end) => end,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

struct Talk {
    stream: UnixStream,
    seen: Seen,
    bends: Vec<Bend>,
    /// Ids of requests of ours that were not answered yet.
    asked: Vec<u16>,
}

impl Talk {
    /// Handles one message of the client. `None`: there is no connection any more.
    fn turn(&mut self) -> Option<Command> {
        let mut head = [0; HEADER_LEN];
        self.stream.read_exact(&mut head).ok()?;
        let header = Header::decode(&head).unwrap();
        let mut body = vec![0; header.body_len];
        self.stream.read_exact(&mut body).ok()?;
        match header.kind {
            Kind::Reply | Kind::Failure(_) => {
                let asked = self.asked.iter().position(|id| *id == header.id);
                self.asked.remove(asked.expect("an answer is to something that was asked"));
                self.seen.answers += 1;
            }
            Kind::Posted => self.seen.messages += 1,
            Kind::Command => {
                let number = self.seen.messages;
                self.seen.messages += 1;
                let bend = self.bends.iter().find(|bend| u64::from(bend.message) == number).copied();
                let good = answer(header.command, &body);
                self.send(header, good, bend)?;
            }
        }
        Some(header.command)
    }

    fn send(&mut self, to: Header, good: Option<Vec<u8>>, bend: Option<Bend>) -> Option<()> {
        let Header { mut id, mut command, .. } = to;
        let mut failure = good.is_none().then_some(95);
        let mut body = good.unwrap_or_default();
        let Bend { kind, parameter, .. } = bend.unwrap_or(Bend { message: 0, kind: u8::MAX, parameter: 0 });
        let [low, at, ..] = parameter.to_le_bytes();
        let at = usize::from(at).checked_rem(body.len()).unwrap_or(0);
        let mut half = false;
        let mut twice = false;
        let mut late = None;
        let mut wild = None;
        let mut fds = Vec::new();
        match kind % 16 {
            0 => body.truncate(at),
            1 => body.extend(vec![low; usize::from(low) + 1]),
            2 => body.iter_mut().skip(at).take(1).for_each(|byte| *byte = low),
            3 => {
                let edge = EDGES[usize::from(low) % EDGES.len()].to_le_bytes();
                body.iter_mut().skip(at).zip(edge).for_each(|(byte, edge)| *byte = edge);
            }
            4 => failure = Some(parameter),
            5 => id = id.wrapping_add(1 + u16::from(low)),
            6 => command = Command(low.into()),
            7 => half = true,
            8 => return None,
            9 | 10 => self.ask(parameter)?,
            11 => twice = true,
            12 => wild = Some((4, parameter)),
            13 => wild = Some((8, parameter)),
            // Descriptors of some kind, one or several, as if they were a region's memory.
            14 => {
                let count = 1 + parameter.to_le_bytes()[2] % 3;
                fds.extend((0..count).filter_map(|more| descriptor(low.wrapping_add(more)).ok()));
                let flags = body.get_mut(4).filter(|_| command == Command::DEVICE_GET_REGION_INFO);
                if let Some(flags) = flags {
                    *flags |= u8::try_from(RegionInfo::MMAP).unwrap();
                }
            }
            LATE => late = Some(Duration::from_millis(u64::from(low) % DELAY_MS_MAX)),
            _ => {}
        }
        let kind = failure.map_or(Kind::Reply, Kind::Failure);
        if failure.is_some() {
            body.clear();
        }
        let header = Header { id, command, kind, body_len: body.len() };
        let mut message = [&header.encode().unwrap()[..], &body].concat();
        if let Some((at, value)) = wild {
            message[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        let len = if half { at % message.len() } else { message.len() };
        let mut begun = 0;
        if let Some(late) = late {
            // In the middle of its header or its body, or before all of it.
            let [_, at, ..] = parameter.to_le_bytes();
            begun = usize::from(at) % message.len();
            self.stream.write_all(&message[..begun]).ok()?;
            thread::sleep(late);
        }
        self.write_with(&message[begun..len], &fds)?;
        if twice {
            self.stream.write_all(&message).ok()?;
        }
        if half || wild.is_some() || id != to.id {
            self.stream.shutdown(Shutdown::Both).ok()?;
        }
        Some(())
    }

    fn write_with(&mut self, message: &[u8], fds: &[(OwnedFd, OwnedFd)]) -> Option<()> {
        let fds: Vec<_> = fds.iter().map(|(passed, _)| passed.as_fd()).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)));
        }
        let parts = [IoSlice::new(message)];
        let sent = rustix::net::sendmsg(&self.stream, &parts, &mut ancillary, SendFlags::NOSIGNAL).ok()?;
        self.stream.write_all(&message[sent..]).ok()
    }

    /// Asks the client for memory, right before the answer it waits for.
    fn ask(&mut self, parameter: u32) -> Option<()> {
        let address = u64::from(parameter >> 8) << 12;
        let access = DmaAccess::new(address, usize::from(parameter.to_le_bytes()[0]) * 64);
        let id = u16::try_from(self.seen.messages).unwrap_or(0);
        let header =
            Header { id, command: Command::DMA_READ, kind: Kind::Command, body_len: access.as_bytes().len() };
        self.asked.push(id);
        self.stream.write_all(&[&header.encode().unwrap()[..], access.as_bytes()].concat()).ok()
    }
}

/// A function with power management, PCI Express and MSI-X, its table and pending bits in its one BAR.
fn config_space() -> [u8; 256] {
    let mut image = [0; 256];
    let mut put = |at: u8, bytes: &[u8]| {
        image[usize::from(at)..usize::from(at) + bytes.len()].copy_from_slice(bytes);
    };
    put(0, &[0xb7, 0xf1, 0x02, 0x00, 0, 0, 0x10, 0, 0, 0x02, 0x08, 0x01]);
    put(0x10, &[0x04]);
    put(0x34, &[CAP_MSIX]);
    put(CAP_MSIX, &[0x11, CAP_POWER, 0x03, 0, 0x00, 0x20, 0, 0, 0x00, 0x30, 0, 0]);
    put(CAP_POWER, &[0x01, CAP_EXPRESS, 0x03, 0, 0x08, 0, 0, 0]);
    put(CAP_EXPRESS, &[0x10, 0, 0x02, 0]);
    image
}

/// What the server answers about its device.
const DESCRIBED: Described = Described { bar_len: BAR_LEN, vectors: VECTORS as u32, config_space };

/// The answer of a good server. `None`: it does not know the command.
fn answer(command: Command, body: &[u8]) -> Option<Vec<u8>> {
    match command {
        Command::REGION_READ => DESCRIBED.answer(command, body).or_else(|| {
            let (access, count) = RegionAccess::decode_read(body).unwrap();
            Some([access.as_bytes(), &vec![0x5a; count]].concat())
        }),
        Command::REGION_WRITE => {
            let (access, _) = RegionAccess::decode_write(body).unwrap();
            Some(access.as_bytes().to_vec())
        }
        Command::DEVICE_FEATURE => {
            let (head, ..) = FeatureHeader::decode(body).unwrap();
            let flags = MigrationFlags { flags: (MigrationFlags::STOP_COPY).into() };
            let get = body.get(6).is_some_and(|flags| flags & 1 != 0);
            Some(if get { [head.as_bytes(), flags.as_bytes()].concat() } else { head.as_bytes().to_vec() })
        }
        Command::DMA_MAP | Command::DEVICE_SET_IRQS | Command::DEVICE_RESET => Some(Vec::new()),
        _ => DESCRIBED.answer(command, body),
    }
}
