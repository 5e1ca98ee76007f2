// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest's driver of the NVMe: admin queue and one pair of I/O queues, no interrupts, one command at a time.
//!
//! Written from NVM Express 1.4, apart from the controller's own types. Where its memory is, in IOVA, is the caller's.

use std::time::Instant;

use crate::monitor::Monitor;
use crate::support::COMMAND;

/// Configuration space of device 0 (ECAM); that of the next is 32 KiB on.
const CONFIG: u64 = 0x3000_0000;
/// The StreamID that the requester id of device 1 makes.
pub const STREAM: u64 = 1 << 3;

/// Registers (section 3.1).
const VS: u64 = 0x08;
const CC: u64 = 0x14;
const CSTS: u64 = 0x1c;
const AQA: u64 = 0x24;
const ASQ: u64 = 0x28;
const ACQ: u64 = 0x30;
const DOORBELLS: u64 = 0x1000;

/// CC: EN, entries of 64 and 16 bytes. CSTS: RDY, CFS.
const CC_ENABLE: u32 = 4 << 20 | 6 << 16 | 1;
const RDY: u32 = 1 << 0;
const CFS: u32 = 1 << 1;

/// What everything of a device that is lost reads as.
pub const LOST: u32 = u32::MAX;

/// Entries of each queue.
const ENTRIES: u32 = 16;

/// Blocks of a page.
pub const PAGE_BLOCKS: u32 = 8;

/// Status codes (section 4.5.1.2): success, and Data Transfer Error.
pub const SUCCESS: u32 = 0x00;
pub const DATA_TRANSFER_ERROR: u32 = 0x04;

/// A page of the controller's, as the guest and as the device address it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub gpa: u64,
    pub iova: u64,
}

/// A submission queue and its completion queue.
struct Pair {
    submission: Place,
    completion: Place,
    tail: u32,
    head: u32,
    phase: u32,
}

impl Pair {
    fn new(submission: Place, completion: Place) -> Self {
        Self { submission, completion, tail: 0, head: 0, phase: 1 }
    }
}

/// The controller.
pub struct Nvme {
    bar: u64,
    /// As configuration space has it, for comparison with what Identify writes.
    pub vendor: u16,
    queues: [Pair; 2],
    command_id: u32,
}

/// A command: opcode, namespace, where its data is, and dwords 10 to 12.
#[derive(Clone, Copy)]
pub struct Command {
    opcode: u32,
    namespace: u32,
    data: u64,
    dwords: [u32; 3],
}

/// Identify Controller: the device writes 4 KiB at `data`.
pub fn identify(data: u64) -> Command {
    Command { opcode: 0x06, namespace: 0, data, dwords: [1, 0, 0] }
}

/// Write of the first block: the device reads it at `data`.
pub fn write_block(data: u64) -> Command {
    Command { opcode: 0x01, namespace: 1, data, dwords: [0, 0, 0] }
}

/// Write of a page's blocks from `block` on, or a read of them: the device reads or writes the page at `data`.
pub fn transfer(reads: bool, data: u64, block: u32) -> Command {
    Command { opcode: 1 + u32::from(reads), namespace: 1, data, dwords: [block, 0, PAGE_BLOCKS - 1] }
}

impl Nvme {
    /// Finds the controller that is device 1 and lets it do DMA; its queues will be at these places.
    pub fn find(m: &mut Monitor, admin: [Place; 2], io: [Place; 2]) -> Self {
        Self::find_device(m, 1, admin, io).unwrap()
    }

    /// The same for another device, if it is there.
    pub fn find_device(m: &mut Monitor, device: u64, admin: [Place; 2], io: [Place; 2]) -> Option<Self> {
        let config = CONFIG + (device << 15);
        m.store32(config + 4, 0b110); // Memory Space, Bus Master
        let [id, low, high] = [0, 0x10, 0x14].map(|offset| m.load32(config + offset));
        if [id, low, high].contains(&LOST) {
            return None;
        }
        let queues = [Pair::new(admin[0], admin[1]), Pair::new(io[0], io[1])];
        let bar = u64::from(low & !0xf) | u64::from(high) << 32;
        Some(Self { bar, vendor: u16::try_from(id & 0xffff).unwrap(), queues, command_id: 0 })
    }

    /// Resets and enables it, and makes the I/O queues.
    pub fn enable(&mut self, m: &mut Monitor) {
        m.store32(self.bar + CC, 0);
        m.poll32(self.bar + CSTS, "CSTS", |status| status == 0);
        for pair in &mut self.queues {
            for offset in (0..ENTRIES * 16).step_by(8) {
                m.store64(pair.completion.gpa + u64::from(offset), 0);
            }
            *pair = Pair::new(pair.submission, pair.completion);
        }
        m.store32(self.bar + AQA, (ENTRIES - 1) << 16 | (ENTRIES - 1));
        m.store64(self.bar + ASQ, self.queues[0].submission.iova);
        m.store64(self.bar + ACQ, self.queues[0].completion.iova);
        m.store32(self.bar + CC, CC_ENABLE);
        m.poll32(self.bar + CSTS, "CSTS", |status| status == RDY);
        let [submission, completion] = [self.queues[1].submission.iova, self.queues[1].completion.iova];
        let sizes = (ENTRIES - 1) << 16 | 1;
        for (opcode, data, dword11) in [(0x05, completion, 1), (0x01, submission, 1 << 16 | 1)] {
            let make = Command { opcode, namespace: 0, data, dwords: [sizes, dword11, 0] };
            assert_eq!(self.run(m, 0, make), SUCCESS, "I/O queue, opcode {opcode:#x}");
        }
    }

    /// Where the controller fetches its next admin command.
    pub fn next_fetch(&self) -> u64 {
        self.queues[0].submission.iova + u64::from(self.queues[0].tail) * 64
    }

    /// Hands a command over, and no more: its identifier.
    pub fn submit(&mut self, m: &mut Monitor, queue: usize, command: Command) -> u32 {
        let Command { opcode, namespace, data, dwords } = command;
        // FFFFh is no identifier of a command.
        self.command_id = (self.command_id + 1) % 0xffff;
        let pair = &mut self.queues[queue];
        let at = pair.submission.gpa + u64::from(pair.tail) * 64;
        let [dword10, dword11, dword12] = dwords.map(u64::from);
        let first = u64::from(opcode | self.command_id << 16) | u64::from(namespace) << 32;
        let entry = [first, 0, 0, data, 0, dword10 | dword11 << 32, dword12, 0];
        for (index, word) in entry.into_iter().enumerate() {
            m.store64(at + 8 * index as u64, word);
        }
        pair.tail = (pair.tail + 1) % ENTRIES;
        m.store32(self.bar + DOORBELLS + 8 * queue as u64, pair.tail);
        self.command_id
    }

    /// The commands that are complete by now, with their status codes.
    pub fn completions(&mut self, m: &mut Monitor, queue: usize) -> Vec<(u32, u32)> {
        let pair = &mut self.queues[queue];
        let mut complete = Vec::new();
        loop {
            let last = m.load32(pair.completion.gpa + u64::from(pair.head) * 16 + 12);
            if last >> 16 & 1 != pair.phase {
                break;
            }
            complete.push((last & 0xffff, last >> 17 & 0xff));
            pair.head = (pair.head + 1) % ENTRIES;
            pair.phase ^= u32::from(pair.head == 0);
        }
        if !complete.is_empty() {
            m.store32(self.bar + DOORBELLS + 8 * queue as u64 + 4, pair.head);
        }
        complete
    }

    /// Runs a command to its end and returns its status code.
    pub fn run(&mut self, m: &mut Monitor, queue: usize, command: Command) -> u32 {
        self.submit(m, queue, command);
        let pair = &mut self.queues[queue];
        let at = pair.completion.gpa + u64::from(pair.head) * 16;
        let phase = pair.phase;
        let last = m.poll32(at + 12, "a completion", |dword| dword >> 16 & 1 == phase);
        assert_eq!(last & 0xffff, self.command_id, "the completion is another command's");
        pair.head = (pair.head + 1) % ENTRIES;
        pair.phase ^= u32::from(pair.head == 0);
        m.store32(self.bar + DOORBELLS + 8 * queue as u64 + 4, pair.head);
        last >> 17 & 0xff
    }

    /// VS, the controller's version (section 3.1.2): it never changes, and its server alone answers for it.
    pub fn version(&self, m: &mut Monitor) -> u32 {
        m.load32(self.bar + VS)
    }

    /// Whether the controller, which may be lost at any moment, does an Identify from a reset on.
    pub fn identifies(&mut self, m: &mut Monitor, data: u64) -> bool {
        let pair = &mut self.queues[0];
        for offset in (0..ENTRIES * 16).step_by(8) {
            m.store64(pair.completion.gpa + u64::from(offset), 0);
        }
        *pair = Pair::new(pair.submission, pair.completion);
        m.store32(self.bar + CC, 0);
        if m.poll32(self.bar + CSTS, "CSTS", |status| status == 0 || status == LOST) == LOST {
            return false;
        }
        m.store32(self.bar + AQA, (ENTRIES - 1) << 16 | (ENTRIES - 1));
        m.store64(self.bar + ASQ, self.queues[0].submission.iova);
        m.store64(self.bar + ACQ, self.queues[0].completion.iova);
        m.store32(self.bar + CC, CC_ENABLE);
        if m.poll32(self.bar + CSTS, "CSTS", |status| status != 0) != RDY {
            return false;
        }
        self.submit(m, 0, identify(data));
        // Phase bit of the first completion, or a device that is not there any more.
        let completion = self.queues[0].completion.gpa + 12;
        let until = Instant::now() + COMMAND;
        while m.load32(completion) >> 16 & 1 == 0 {
            assert!(Instant::now() < until, "the device neither answers nor is lost");
            if m.load32(self.bar + CSTS) != RDY {
                return false;
            }
        }
        true
    }

    /// Waits until the controller says that it cannot go on.
    pub fn wait_fatal(&self, m: &mut Monitor) {
        m.poll32(self.bar + CSTS, "CSTS", |status| status & CFS != 0);
    }
}
