// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A host: memory, and a small NVMe driver that does what the specification says a driver does.
//!
//! The driver reaches the controller through [`Wire`]: the device in this process, or a vfio-user connection to
//! another.
#![allow(dead_code, reason = "each test program uses a part of the host")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test may stop at the first surprise"
)]

pub mod client;
pub mod ending;
pub mod local;
pub mod program;

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dev_nvme::dma::{DmaError, HostMemory, Loan};
use dev_nvme::prp::Segment;
use dev_nvme::spec::command::{Command, admin, io};
use dev_nvme::spec::completion::{COMPLETION_LEN, Completion};
use ipc::shm::region::Region as Shared;
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, VolatileSlice};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

pub const PAGE: u64 = 4096;
/// Where the host's memory begins, as its device sees it.
pub const BASE: u64 = 0x4000_0000;

/// The host's memory, in a memory object that can be passed on.
#[derive(Clone)]
pub struct Ram {
    pub object: Shared,
    map: Arc<GuestMemoryMmap>,
}

impl Ram {
    pub fn new(len: u64) -> Ram {
        let object = Shared::create("host-ram", len).unwrap();
        let file = FileOffset::from_arc(Arc::clone(object.file()), 0);
        let range = (GuestAddress(BASE), len as usize, Some(file));
        Ram { object, map: Arc::new(GuestMemoryMmap::from_ranges_with_files([range]).unwrap()) }
    }

    pub fn get(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.map.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        bytes
    }

    pub fn put(&self, at: u64, bytes: &[u8]) {
        self.map.write_slice(bytes, GuestAddress(at)).unwrap();
    }

    /// Stores a dword that the other end polls, and sees that the store is before whatever is loaded next.
    pub fn swap(&self, at: u64, value: u32) -> u32 {
        let before = self.load(at);
        self.map.store(value, GuestAddress(at), std::sync::atomic::Ordering::Release).unwrap();
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        before
    }

    pub fn load(&self, at: u64) -> u32 {
        self.map.load(GuestAddress(at), std::sync::atomic::Ordering::Acquire).unwrap()
    }
}

impl HostMemory for Ram {
    fn read(&self, iova: u64, bytes: &mut [u8]) -> Result<(), DmaError> {
        let failed = DmaError { iova, len: bytes.len(), write: false };
        self.map.read_slice(bytes, GuestAddress(iova)).map_err(|_| failed)
    }

    fn write(&self, iova: u64, bytes: &[u8]) -> Result<(), DmaError> {
        let failed = DmaError { iova, len: bytes.len(), write: true };
        // All or nothing, as a bus would.
        if !self.map.check_range(GuestAddress(iova), bytes.len()) {
            return Err(failed);
        }
        self.map.write_slice(bytes, GuestAddress(iova)).map_err(|_| failed)
    }

    fn publish(&self, iova: u64, entries: &[[u8; COMPLETION_LEN]]) -> Result<(), DmaError> {
        self.write(iova, entries.as_flattened())
    }

    fn load(&self, iova: u64) -> Result<u32, DmaError> {
        let mut bytes = [0; 4];
        HostMemory::read(self, iova, &mut bytes).map(|()| u32::from_le_bytes(bytes))
    }

    fn store(&self, iova: u64, dword: u32) -> Result<(), DmaError> {
        HostMemory::write(self, iova, &dword.to_le_bytes())
    }

    fn is_connected(&self) -> bool {
        true
    }

    fn lend(&self, segments: &[Segment], _: Loan, access: &mut dyn FnMut(&[VolatileSlice<'_>])) -> bool {
        let slice = |segment: &Segment| self.map.get_slice(GuestAddress(segment.iova), segment.len);
        let slices: Result<Vec<_>, _> = segments.iter().map(slice).collect();
        slices.map(|slices| access(&slices)).is_ok()
    }
}

/// The way to a controller's registers.
pub trait Wire {
    fn read(&self, offset: u64, len: usize) -> u64;
    fn write(&self, offset: u64, len: usize, value: u64);
    /// Lets the controller work, if it does not do so by itself.
    fn progress(&self);
}

#[derive(Clone, Debug)]
pub struct Queue {
    id: u16,
    sq: u64,
    cq: u64,
    size: u32,
    tail: u32,
    head: u32,
    phase: bool,
}

impl Queue {
    pub fn id(&self) -> u16 {
        self.id
    }
}

/// The driver.
pub struct Driver<W> {
    pub wire: W,
    pub ram: Ram,
    next_page: Cell<u64>,
    next_cid: Cell<u16>,
    pub admin: RefCell<Queue>,
    /// Where doorbells and event indices are, if doorbells are kept in memory.
    pub shadow: Cell<Option<(u64, u64)>>,
}

pub const CC_ENABLE: u32 = 0x0046_0001;

const PATIENCE: Duration = Duration::from_secs(20);

impl<W: Wire> Driver<W> {
    /// Starts the controller, as a driver does after a reset.
    pub fn start(wire: W, ram: Ram) -> Driver<W> {
        let admin = RefCell::new(Queue { id: 0, sq: 0, cq: 0, size: 32, tail: 0, head: 0, phase: true });
        let driver = Driver {
            wire,
            ram,
            next_page: Cell::new(BASE),
            next_cid: Cell::new(0),
            admin,
            shadow: Cell::new(None),
        };
        driver.enable();
        driver
    }

    /// A driver of a controller that was started by another one, which knew this.
    pub fn resume(wire: W, ram: Ram, other: &Driver<impl Wire>) -> Driver<W> {
        Driver {
            wire,
            ram,
            next_page: other.next_page.clone(),
            next_cid: other.next_cid.clone(),
            admin: other.admin.clone(),
            shadow: other.shadow.clone(),
        }
    }

    pub fn enable(&self) {
        self.disable();
        self.shadow.set(None);
        let (sq, cq) = (self.pages(1), self.pages(1));
        let size = 32;
        *self.admin.borrow_mut() = Queue { id: 0, sq, cq, size, tail: 0, head: 0, phase: true };
        self.ram.put(cq, &vec![0; PAGE as usize]);
        self.wire.write(0x24, 4, u64::from((size - 1) << 16 | (size - 1)));
        self.wire.write(0x28, 8, sq);
        self.wire.write(0x30, 8, cq);
        self.wire.write(0x14, 4, CC_ENABLE.into());
        self.until("ready", |csts| csts & 1 == 1);
    }

    pub fn disable(&self) {
        self.wire.write(0x14, 4, 0);
        self.until("disabled", |csts| csts & 1 == 0);
    }

    pub fn csts(&self) -> u32 {
        self.wire.read(0x1c, 4) as u32
    }

    pub fn until(&self, what: &str, done: impl Fn(u32) -> bool) {
        let since = Instant::now();
        while !done(self.csts()) {
            self.wire.progress();
            assert!(since.elapsed() < PATIENCE, "the controller is never {what}: CSTS {:#x}", self.csts());
        }
    }

    /// Fresh pages, one behind the other.
    pub fn pages(&self, count: u64) -> u64 {
        let at = self.next_page.get();
        self.next_page.set(at + count * PAGE);
        assert!(self.next_page.get() <= BASE + self.ram.object.len(), "out of memory");
        at
    }

    /// Puts a command into a queue without telling the controller. Returns its identifier.
    pub fn enqueue(&self, queue: &mut Queue, mut command: Command) -> u16 {
        let cid = self.next_cid.get();
        self.next_cid.set(cid.wrapping_add(1));
        command.cid = cid.into();
        self.ram.put(queue.sq + u64::from(queue.tail) * 64, command.as_bytes());
        queue.tail = (queue.tail + 1) % queue.size;
        cid
    }

    pub fn ring(&self, queue: &Queue) {
        self.tell(u64::from(queue.id) * 8, queue.tail);
    }

    /// Changes a doorbell: in memory if doorbells are there, and by the register unless that is not wanted.
    fn tell(&self, offset: u64, value: u32) {
        if let Some((doorbells, event_indices)) = self.shadow.get().filter(|_| offset >= 8) {
            let before = self.ram.swap(doorbells + offset, value);
            let event_index = self.ram.load(event_indices + offset) as u16;
            let (value, before) = (value as u16, before as u16);
            if value.wrapping_sub(event_index).wrapping_sub(1) >= value.wrapping_sub(before) {
                return;
            }
        }
        self.wire.write(0x1000 + offset, 4, value.into());
    }

    /// Keeps doorbells in memory from now on, those of queues that are there already too. The status, if refused.
    pub fn keep_doorbells(&self, queues: &[&Queue]) -> Result<(), u16> {
        let (doorbells, event_indices) = (self.pages(1), self.pages(1));
        for page in [doorbells, event_indices] {
            self.ram.put(page, &[0; PAGE as usize]);
        }
        for queue in queues {
            let offset = u64::from(queue.id) * 8;
            self.ram.swap(doorbells + offset, queue.tail);
            self.ram.swap(doorbells + offset + 4, queue.head);
        }
        let mut command = blank(admin::DOORBELL_BUFFER_CONFIG);
        command.prp1 = doorbells.into();
        command.prp2 = event_indices.into();
        match status(&self.admin(command)) {
            0 => {
                self.shadow.set(Some((doorbells, event_indices)));
                Ok(())
            }
            status => Err(status),
        }
    }

    pub fn submit(&self, queue: &mut Queue, command: Command) -> u16 {
        let cid = self.enqueue(queue, command);
        self.ring(queue);
        cid
    }

    /// The next completion, if it is there; `tell`: the controller may use its entry again.
    pub fn poll(&self, queue: &mut Queue, tell: bool) -> Option<Completion> {
        let at = queue.cq + u64::from(queue.head) * 16;
        if (self.ram.load(at + 12) >> 16 & 1 == 1) != queue.phase {
            return None;
        }
        let completion = Completion::read_from_bytes(&self.ram.get(at, 16)).unwrap();
        queue.head = (queue.head + 1) % queue.size;
        if queue.head == 0 {
            queue.phase = !queue.phase;
        }
        if tell {
            self.tell_head(queue);
        }
        Some(completion)
    }

    pub fn tell_head(&self, queue: &Queue) {
        self.tell(u64::from(queue.id) * 8 + 4, queue.head);
    }

    pub fn wait(&self, queue: &mut Queue) -> Completion {
        let since = Instant::now();
        loop {
            if let Some(completion) = self.poll(queue, true) {
                return completion;
            }
            self.wire.progress();
            assert!(
                since.elapsed() < PATIENCE,
                "no completion on queue {}: CSTS {:#x}",
                queue.id,
                self.csts()
            );
        }
    }

    /// Submits and waits: the completion, whose status is not looked at.
    pub fn run(&self, queue: &mut Queue, command: Command) -> Completion {
        let cid = self.submit(queue, command);
        let completion = self.wait(queue);
        assert_eq!(completion.cid.get(), cid);
        assert_eq!(completion.sqid.get(), queue.id);
        completion
    }

    pub fn admin(&self, command: Command) -> Completion {
        self.run(&mut self.admin.borrow_mut(), command)
    }

    /// A queue pair.
    pub fn create(&self, id: u16, size: u32) -> Queue {
        let (sq, cq) = (
            self.pages((u64::from(size) * 64).div_ceil(PAGE)),
            self.pages((u64::from(size) * 16).div_ceil(PAGE)),
        );
        self.ram.put(cq, &vec![0; size as usize * 16]);
        let shape = (size - 1) << 16 | u32::from(id);
        let mut command = blank(admin::CREATE_IO_CQ);
        command.prp1 = cq.into();
        command.cdw10 = shape.into();
        command.cdw11 = (u32::from(id) << 16 | 0b11).into();
        assert_eq!(status(&self.admin(command)), 0);
        let mut command = blank(admin::CREATE_IO_SQ);
        command.prp1 = sq.into();
        command.cdw10 = shape.into();
        command.cdw11 = (u32::from(id) << 16 | 1).into();
        assert_eq!(status(&self.admin(command)), 0);
        Queue { id, sq, cq, size, tail: 0, head: 0, phase: true }
    }

    /// Another Submission Queue of the same Completion Queue, in place of that of `queue`, which is deleted. Its
    /// doorbell is not that of `queue`.
    pub fn replace(&self, queue: &mut Queue, id: u16) {
        let sq = self.pages((u64::from(queue.size) * 64).div_ceil(PAGE));
        let mut command = blank(admin::CREATE_IO_SQ);
        command.prp1 = sq.into();
        command.cdw10 = ((queue.size - 1) << 16 | u32::from(id)).into();
        command.cdw11 = (u32::from(queue.id) << 16 | 1).into();
        assert_eq!(status(&self.admin(command)), 0);
        let mut command = blank(admin::DELETE_IO_SQ);
        command.cdw10 = u32::from(queue.id).into();
        assert_eq!(status(&self.admin(command)), 0);
        (queue.sq, queue.tail) = (sq, 0);
    }

    pub fn identify(&self, cns: u32, nsid: u32) -> Result<Vec<u8>, u16> {
        let page = self.pages(1);
        let mut command = blank(admin::IDENTIFY);
        command.nsid = nsid.into();
        command.prp1 = page.into();
        command.cdw10 = cns.into();
        match status(&self.admin(command)) {
            0 => Ok(self.ram.get(page, 4096)),
            status => Err(status),
        }
    }
}

/// A command with nothing but its opcode.
pub fn blank(opcode: u8) -> Command {
    Command { opcode, ..Command::new_zeroed() }
}

/// An I/O command on `count` blocks.
pub fn block_command(opcode: u8, slba: u64, count: u32, prp1: u64, prp2: u64) -> Command {
    let mut command = blank(opcode);
    command.nsid = 1.into();
    command.prp1 = prp1.into();
    command.prp2 = prp2.into();
    command.cdw10 = (slba as u32).into();
    command.cdw11 = ((slba >> 32) as u32).into();
    command.cdw12 = (count - 1).into();
    command
}

pub fn read(slba: u64, count: u32, prp1: u64, prp2: u64) -> Command {
    block_command(io::READ, slba, count, prp1, prp2)
}

pub fn write(slba: u64, count: u32, prp1: u64, prp2: u64) -> Command {
    block_command(io::WRITE, slba, count, prp1, prp2)
}

/// Status code type and code, without the other bits.
pub fn status(completion: &Completion) -> u16 {
    completion.status.get() >> 1 & 0x7ff
}

/// Bytes that tell where they belong.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect()
}

impl Queue {
    /// Where commands are.
    pub fn address(&self) -> u64 {
        self.sq
    }

    /// Where completions are.
    pub fn completions(&self) -> u64 {
        self.cq
    }

    /// As if commands were elsewhere.
    pub fn lose(&mut self, sq: u64) {
        self.sq = sq;
    }
}
