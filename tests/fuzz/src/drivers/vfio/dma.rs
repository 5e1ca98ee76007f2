// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A server's DMA as messages of every kind, through translation tables made of anything.
//!
//! The server behaves while the device is opened, and then writes what the program says. Whoever asks properly is
//! answered, once and in order; who breaks the framing has lost the connection, and nothing of the guest's changes
//! any more.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use ipc::addr::Iova;
use ipc::deadline::Deadline;
use ipc::protocol::stage1::{Attachment, Fault, Stage1Request};
use ipc::vfio_user::DATA_LEN_MAX;
use ipc::vfio_user::dma::DmaAccess;
use ipc::vfio_user::header::{Command, HEADER_LEN, Header, Kind};
use smmu_arch::spec::commands::Opcode;
use zerocopy::IntoBytes;

use super::Function;
use super::guest::{ASID, Guest, PAGES, STREAM, gpa};
use super::server::Server;
use super::{MOMENT, open};
use crate::program::Program;
use dev_vfio::iommu::HostIommu;
use dev_vfio::stage1_link;

/// The largest transfer here whose answer fits a socket's buffer: nobody reads while it is written.
const ANSWER_LEN_MAX: usize = 64 << 10;
/// How long an answer may take before it is one that never comes.
const ANSWER_SPAN: Duration = Duration::from_secs(5);
/// Opcodes of invalidations, and some that no device is sent.
const OPCODES: [Opcode; 12] = [
    Opcode::TlbiNsnhAll,
    Opcode::TlbiNhAll,
    Opcode::TlbiNhAsid,
    Opcode::TlbiNhVa,
    Opcode::TlbiNhVaa,
    Opcode::CfgiCd,
    Opcode::CfgiCdAll,
    Opcode::AtcInv,
    Opcode::CfgiSte,
    Opcode::Sync,
    Opcode::TlbiS2Ipa,
    Opcode::PrefetchConfig,
];

/// Runs a program; panics only if something that must hold does not.
pub fn dma(program: &[u8]) {
    let mut guest = Guest::new();
    let (socket, server) = Server::start(Vec::new(), true);
    let function = open(socket, &guest, None).expect("a good server's device can be used");
    let (_, stream) = server.end();
    stream.set_nonblocking(true).unwrap();
    function.iommu.lock().unwrap().attach(STREAM, Guest::good_stage1()).unwrap();
    let mut hostile = Hostile { function, stream, next_id: 0 };
    let mut program = Program::new(program);
    while !program.is_over() && hostile.function.failure().is_none() {
        hostile.operate(&mut program, &mut guest);
    }
    guest.check();
    if hostile.function.failure().is_some() {
        assert!(!hostile.function.serve_dma(Deadline::after(MOMENT)), "a failed device asks nothing");
        hostile.function.signal(0);
        guest.check();
    }
}

struct Hostile {
    function: Function,
    stream: UnixStream,
    next_id: u16,
}

impl Hostile {
    fn operate(&mut self, program: &mut Program<'_>, guest: &mut Guest) {
        match program.byte() % 16 {
            0..=2 => change_tables(program, guest),
            3 => {
                let attachment = any_attachment(program);
                let _ = self.function.iommu.lock().unwrap().attach(STREAM, attachment);
            }
            4 | 5 => {
                let requests: Vec<Stage1Request> =
                    (0..program.byte() % 8).map(|_| any_stage1_request(program)).collect();
                stage1_link::carry_out(&mut *self.function.iommu.lock().unwrap(), &requests);
            }
            6..=8 => self.transfer(program, Kind::Command),
            9 => self.transfer(program, Kind::Posted),
            10 | 11 => self.direct(program),
            12 => guest.check(),
            13 => guest.harvest(),
            14 => self.cut_in_two(program),
            _ => self.break_framing(program),
        }
    }

    /// A request that makes sense, or whose body does not.
    fn transfer(&mut self, program: &mut Program<'_>, kind: Kind) {
        let (command, body, expected) = any_request(program);
        let id = self.send(command, kind, &body);
        if kind == Kind::Command {
            self.answered(id, command, expected);
        } else {
            // What follows finds it done; it says nothing itself.
            let id = self.send(Command::DEVICE_RESET, Kind::Command, &[]);
            self.answered(id, Command::DEVICE_RESET, 0);
        }
    }

    /// The same, with a pause in it.
    fn cut_in_two(&mut self, program: &mut Program<'_>) {
        let (command, body, expected) = any_request(program);
        let id = self.next_id;
        let message = self.message(command, Kind::Command, &body);
        let (first, second) = message.split_at(usize::from(program.byte()) % message.len());
        self.stream.write_all(first).unwrap();
        assert!(self.function.serve_dma(Deadline::after(MOMENT)), "half a message is no reason to fail");
        let early = self.stream.read(&mut [0; 1]);
        assert!(
            early.is_err_and(|error| error.kind() == ErrorKind::WouldBlock),
            "half a message was answered"
        );
        self.stream.write_all(second).unwrap();
        self.answered(id, command, expected);
    }

    /// What no client can follow: the device fails, for that reason.
    fn break_framing(&mut self, program: &mut Program<'_>) {
        let kind = program.byte() % 4;
        let number = program.number();
        let bytes = match kind {
            // A reply to a request never made.
            0 => self.message(Command(u16::from(program.byte())), Kind::Reply, &[0; 8]),
            // A size that cannot be.
            1 => {
                let mut message = self.message(Command::DMA_READ, Kind::Command, &[]);
                let size = if number.is_multiple_of(2) { 15 } else { u32::MAX };
                message[4..8].copy_from_slice(&size.to_le_bytes());
                message
            }
            // Half a message and no more.
            2 => {
                let (command, body, _) = any_request(program);
                let mut message = self.message(command, Kind::Command, &body);
                message.truncate(usize::try_from(number % message.len() as u64).unwrap());
                message
            }
            // Anything.
            _ => (0..program.byte()).map(|_| program.byte()).collect(),
        };
        self.stream.write_all(&bytes).unwrap();
        self.stream.shutdown(std::net::Shutdown::Write).unwrap();
        let until = Instant::now() + ANSWER_SPAN;
        while self.function.serve_dma(Deadline::after(MOMENT)) {
            assert!(Instant::now() < until, "a stream that has ended is one that goes on");
        }
        assert!(self.function.failure().is_some(), "who breaks the framing has lost the connection");
    }

    /// DMA without messages, with a look at what it leaves in the fault queue.
    fn direct(&mut self, program: &mut Program<'_>) {
        let iova = Iova(any_iova(program));
        let len = usize::try_from(program.number() % 0x5000).unwrap();
        let mut iommu = self.function.iommu.lock().unwrap();
        let before = *iommu.counters();
        let done = if program.byte().is_multiple_of(2) {
            let mut bytes = vec![0; len];
            let done = iommu.read(iova, &mut bytes).is_ok();
            Guest::assert_is_ram(&bytes);
            done
        } else {
            iommu.write(iova, &vec![program.byte(); len]).is_ok()
        };
        let after = *iommu.counters();
        let moved = after.bytes_read - before.bytes_read + after.bytes_written - before.bytes_written;
        assert!(if done { moved == len as u64 } else { moved < len as u64 }, "counted what was moved");
        assert_eq!(after.terminated - before.terminated, u64::from(!done), "terminated once");
        let fault = iommu.next_fault().and_then(|entry| entry.fault);
        assert!(!(done && fault.is_some()), "what was done is no fault");
        match fault {
            Some(Fault::Record([head, ..])) => {
                assert_eq!(head >> 32, u64::from(STREAM.0), "the guest's name")
            }
            Some(Fault::Aborted { stream }) => assert_eq!(stream, STREAM),
            None => {}
        }
        assert!(iommu.next_fault().is_none(), "a transfer has one fault at most");
        assert!(iommu.cached_translations() <= 4096, "the cache is bounded");
    }

    fn message(&mut self, command: Command, kind: Kind, body: &[u8]) -> Vec<u8> {
        let id = self.next_id;
        self.next_id = id.wrapping_add(1);
        let header = Header { id, command, kind, body_len: body.len() };
        [&header.encode().unwrap()[..], body].concat()
    }

    fn send(&mut self, command: Command, kind: Kind, body: &[u8]) -> u16 {
        let id = self.next_id;
        let message = self.message(command, kind, body);
        self.stream.write_all(&message).unwrap();
        id
    }

    /// Lets the function work until it has answered, and checks the answer. `count` is what a read would return.
    fn answered(&mut self, id: u16, command: Command, count: usize) {
        let until = Instant::now() + ANSWER_SPAN;
        let mut head = [0; HEADER_LEN];
        while !self.filled(&mut head) {
            assert!(Instant::now() < until, "{command:?} was not answered");
            assert!(self.function.serve_dma(Deadline::after(MOMENT)), "a good frame ended the connection");
        }
        let header = Header::decode(&head).unwrap();
        assert_eq!((header.id, header.command), (id, command), "an answer to what was asked");
        let mut body = vec![0; header.body_len];
        assert!(body.is_empty() || self.filled(&mut body), "an answer is whole");
        match header.kind {
            Kind::Failure(_) => assert!(body.is_empty(), "a failure says no more"),
            Kind::Reply => {
                let data = body.get(size_of::<DmaAccess>()..).unwrap_or_default();
                assert_eq!(data.len(), if command == Command::DMA_READ { count } else { 0 }, "as asked");
                Guest::assert_is_ram(data);
            }
            other => assert_eq!(other, Kind::Reply, "an answer"),
        }
    }

    /// Whether as many bytes were there.
    fn filled(&mut self, bytes: &mut [u8]) -> bool {
        match self.stream.read_exact(bytes) {
            Ok(()) => true,
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            Err(_) => false,
        }
    }
}

/// Command, body, and how many bytes a read that succeeds returns.
fn any_request(program: &mut Program<'_>) -> (Command, Vec<u8>, usize) {
    let address = any_iova(program);
    let kind = program.byte();
    let count = usize::try_from(program.number()).unwrap_or(usize::MAX);
    // As many as may be, or more than that; in between an answer would not fit the socket.
    let count = if count > DATA_LEN_MAX { count } else { count % (ANSWER_LEN_MAX + 1) };
    let mut access = DmaAccess::new(address, 0);
    access.count = u64::try_from(count).unwrap_or(u64::MAX).into();
    let mut body = access.as_bytes().to_vec();
    let command = match kind % 8 {
        0..=2 => Command::DMA_READ,
        3..=5 => {
            // With as many bytes as it says, mostly.
            let len = if kind & 0x70 == 0 { program.byte().into() } else { count.min(ANSWER_LEN_MAX) };
            body.extend(vec![kind | 1; len]);
            Command::DMA_WRITE
        }
        6 => {
            body.truncate(usize::from(kind >> 3));
            Command::DMA_READ
        }
        _ => Command(u16::from(program.byte()) + 19),
    };
    (command, body, count)
}

/// Mapped, RAM's, or anywhere.
fn any_iova(program: &mut Program<'_>) -> u64 {
    let offset = program.number();
    match program.byte() % 4 {
        0 | 1 => offset % (20 * 4096),
        2 => gpa(offset >> 12).wrapping_add(offset & 0xfff),
        _ => offset,
    }
}

fn any_attachment(program: &mut Program<'_>) -> Attachment {
    let page = u64::from(program.byte());
    match program.byte() % 8 {
        0 => Attachment::Abort,
        1 => Attachment::Bypass,
        2 => Attachment::Stage1([program.number(), program.number()]),
        3 => Guest::stage1(page, [1 << (program.byte() % 64), 1 << (program.byte() % 64)]),
        4 => Guest::stage1(page, [0, 0]),
        _ => Guest::good_stage1(),
    }
}

fn any_stage1_request(program: &mut Program<'_>) -> Stage1Request {
    let opcode = OPCODES[usize::from(program.byte()) % OPCODES.len()];
    let (mut word0, mut word1) = (u64::from(opcode.0), 0);
    match program.byte() % 4 {
        0 => word0 |= u64::from(STREAM.0) << 32,
        1 => {
            word0 |= u64::from(ASID) << 48;
            word1 = program.number() << 12;
        }
        // With NUM, SCALE, TTL, TG and whatever else.
        2 => {
            word0 |= u64::from(ASID) << 48 | program.number() << 8;
            word1 = program.number();
        }
        _ => (word0, word1) = (program.number(), program.number()),
    }
    Stage1Request::Invalidate([word0, word1])
}

/// Writes a word that may be read as a descriptor, or a context descriptor, anywhere in RAM.
fn change_tables(program: &mut Program<'_>, guest: &mut Guest) {
    let page = match program.byte() % 4 {
        0 => u64::from(program.byte()) % PAGES,
        other => 16 + u64::from(other),
    };
    let word = program.number();
    let to = u64::from(program.byte());
    let attributes = program.number();
    match program.byte() % 8 {
        // A table: itself, another level's, one that is data.
        0 => guest.put(page, word, gpa(page) | 3),
        1 => guest.put(page, word, gpa(to) | 3 | attributes << 48),
        2 | 3 => guest.put(page, word % 16, Guest::leaf(to)),
        4 => guest.put(page, word % 16, Guest::leaf(to) ^ attributes),
        // A block where one may be, and where not.
        5 => guest.put(page, word % 16, gpa(to) & !1 | 1 | 1 << 10 | attributes),
        6 => guest.put_context(16, 16 + to % 4, if attributes == 0 { 0 } else { 1 << (attributes % 64) }),
        _ => guest.put(page, word, attributes),
    }
}
