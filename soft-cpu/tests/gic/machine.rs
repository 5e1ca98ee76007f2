// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A GIC with RAM around it, and the accesses that a guest makes, by name.
//!
//! Register offsets and encodings are written out again here, from the manual, so that a wrong constant
//! in the model does not agree with itself.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use soft_cpu::gic::{Gic, GicConfig, OnIrq, TableMemory};

pub const RAM_BASE: u64 = 0x4000_0000;
pub const RAM_LEN: usize = 0x20_0000;

/// Where the test guest keeps its tables.
pub const DEVICE_TABLE: u64 = RAM_BASE;
pub const COLLECTION_TABLE: u64 = RAM_BASE + 0x1_0000;
pub const QUEUE: u64 = RAM_BASE + 0x2_0000;
pub const QUEUE_LEN: u64 = 0x1_0000;
pub const CONFIG_TABLE: u64 = RAM_BASE + 0x3_0000;
pub const PENDING_TABLES: u64 = RAM_BASE + 0x4_0000;
pub const ITTS: u64 = RAM_BASE + 0x14_0000;

const fn icc(crn: u16, crm: u16, op2: u16) -> u16 {
    3 << 14 | crn << 7 | crm << 3 | op2
}
pub const PMR: u16 = icc(4, 6, 0);
pub const IAR0: u16 = icc(12, 8, 0);
pub const EOIR0: u16 = icc(12, 8, 1);
pub const HPPIR0: u16 = icc(12, 8, 2);
pub const BPR0: u16 = icc(12, 8, 3);
pub const AP0R0: u16 = icc(12, 8, 4);
pub const AP1R0: u16 = icc(12, 9, 0);
pub const AP1R1: u16 = icc(12, 9, 1);
pub const DIR: u16 = icc(12, 11, 1);
pub const RPR: u16 = icc(12, 11, 3);
pub const SGI1R: u16 = icc(12, 11, 5);
pub const SGI0R: u16 = icc(12, 11, 7);
pub const IAR1: u16 = icc(12, 12, 0);
pub const EOIR1: u16 = icc(12, 12, 1);
pub const HPPIR1: u16 = icc(12, 12, 2);
pub const BPR1: u16 = icc(12, 12, 3);
pub const CTLR: u16 = icc(12, 12, 4);
pub const SRE: u16 = icc(12, 12, 5);
pub const IGRPEN0: u16 = icc(12, 12, 6);
pub const IGRPEN1: u16 = icc(12, 12, 7);

pub const SPURIOUS: u64 = 1023;
/// A priority between the extremes, as Linux gives to every interrupt.
pub const NORMAL: u64 = 0xa0;

/// Guest RAM that can be taken away, to see what a missing table does.
pub struct Ram {
    bytes: Mutex<Vec<u8>>,
}

impl Ram {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { bytes: Mutex::new(vec![0; RAM_LEN]) })
    }

    fn range(gpa: u64, len: usize) -> Option<std::ops::Range<usize>> {
        let start = usize::try_from(gpa.checked_sub(RAM_BASE)?).ok()?;
        let end = start.checked_add(len)?;
        (end <= RAM_LEN).then_some(start..end)
    }

    pub fn word(&self, gpa: u64) -> u64 {
        let mut bytes = [0; 8];
        assert!(self.read(gpa, &mut bytes));
        u64::from_le_bytes(bytes)
    }

    pub fn contents(&self) -> Vec<u8> {
        self.bytes.lock().unwrap().clone()
    }
}

impl TableMemory for Ram {
    fn read(&self, gpa: u64, buffer: &mut [u8]) -> bool {
        let Some(range) = Self::range(gpa, buffer.len()) else { return false };
        buffer.copy_from_slice(&self.bytes.lock().unwrap()[range]);
        true
    }

    fn write(&self, gpa: u64, bytes: &[u8]) -> bool {
        let Some(range) = Self::range(gpa, bytes.len()) else { return false };
        self.bytes.lock().unwrap()[range].copy_from_slice(bytes);
        true
    }
}

/// A GIC, its RAM, and how often each vCPU was told that its line rose.
pub struct Machine {
    pub gic: Gic,
    pub ram: Arc<Ram>,
    rises: Arc<Vec<AtomicUsize>>,
}

pub fn config(vcpu_count: usize) -> GicConfig {
    GicConfig { vcpu_count, spi_count: 64, its: true }
}

fn counting(vcpu_count: usize) -> (Arc<Vec<AtomicUsize>>, OnIrq) {
    let rises: Arc<Vec<AtomicUsize>> = Arc::new((0..vcpu_count).map(|_| AtomicUsize::new(0)).collect());
    let counted = Arc::clone(&rises);
    (rises, Box::new(move |vcpu| _ = counted[vcpu].fetch_add(1, Ordering::Relaxed)))
}

impl Machine {
    /// At reset.
    pub fn new(vcpu_count: usize) -> Self {
        Self::with(config(vcpu_count))
    }

    pub fn with(config: GicConfig) -> Self {
        let (ram, (rises, on_irq)) = (Ram::new(), counting(config.vcpu_count));
        let gic = Gic::new(config, ram.clone(), on_irq).unwrap();
        Self { gic, ram, rises }
    }

    /// Everything enabled and unmasked: all interrupts in group 1 at [`NORMAL`] priority, none enabled one by
    /// one.
    pub fn booted(vcpu_count: usize) -> Self {
        let machine = Self::new(vcpu_count);
        machine.boot();
        machine
    }

    pub fn boot(&self) {
        self.gic.dist_write(0, 4, 0b10);
        let words = self.gic.dist_read(4, 4) & 0x1f;
        for word in 1..=words {
            self.gic.dist_write(0x80 + 4 * word, 4, 0xffff_ffff);
        }
        for intid in 32..32 * (words + 1) {
            self.gic.dist_write(0x400 + intid, 1, NORMAL);
        }
        for vcpu in 0..self.vcpu_count() {
            self.set_redist(vcpu, 0x14, 0);
            self.set_redist(vcpu, 0x1_0080, 0xffff_ffff);
            for word in 0..8 {
                self.set_redist(vcpu, 0x1_0400 + 4 * word, 0xa0a0_a0a0);
            }
            self.set_icc(vcpu, PMR, 0xf0);
            self.set_icc(vcpu, IGRPEN1, 1);
        }
    }

    /// LPIs and the ITS on: flat tables, collection n at vCPU n, every LPI enabled at [`NORMAL`] priority.
    pub fn with_lpis(vcpu_count: usize) -> Self {
        let machine = Self::booted(vcpu_count);
        assert!(machine.ram.write(CONFIG_TABLE, &[0xa1; 0xe000]));
        for vcpu in 0..vcpu_count {
            machine.set_redist_qw(vcpu, 0x70, CONFIG_TABLE | 0xf);
            machine.set_redist_qw(vcpu, 0x78, Self::pending_table(vcpu));
            machine.set_redist(vcpu, 0, 1);
        }
        machine.gic.its_write(0x100, 8, 1 << 63 | DEVICE_TABLE | 0xf);
        machine.gic.its_write(0x108, 8, 1 << 63 | COLLECTION_TABLE);
        machine.gic.its_write(0x80, 8, 1 << 63 | QUEUE | (QUEUE_LEN / 0x1000 - 1));
        machine.gic.its_write(0, 4, 1);
        for vcpu in 0..vcpu_count as u64 {
            machine.mapc(vcpu, vcpu);
        }
        machine
    }

    pub fn pending_table(vcpu: usize) -> u64 {
        PENDING_TABLES + vcpu as u64 * 0x1_0000
    }

    /// The machine at the other end of a migration, with a copy of RAM.
    pub fn migrated(&self) -> Self {
        let ram = Ram::new();
        assert!(ram.write(RAM_BASE, &self.ram.contents()));
        let (rises, on_irq) = counting(self.vcpu_count());
        let gic = Gic::restore(
            self.gic.config(),
            ram.clone(),
            on_irq,
            &self.gic.save(),
            self.gic.save_its().as_ref(),
        );
        Self { gic: gic.unwrap(), ram, rises }
    }

    pub fn vcpu_count(&self) -> usize {
        self.gic.config().vcpu_count
    }

    pub fn line(&self, vcpu: usize) -> bool {
        self.gic.irq_line(vcpu).load(Ordering::Acquire)
    }

    pub fn rises(&self, vcpu: usize) -> usize {
        self.rises[vcpu].load(Ordering::Relaxed)
    }

    pub fn dist(&self, offset: u64) -> u64 {
        self.gic.dist_read(offset, 4)
    }

    pub fn set_dist(&self, offset: u64, value: u64) {
        self.gic.dist_write(offset, 4, value);
    }

    pub fn redist(&self, vcpu: usize, offset: u64) -> u64 {
        self.gic.redist_read(vcpu as u64 * 0x2_0000 + offset, 4)
    }

    pub fn set_redist(&self, vcpu: usize, offset: u64, value: u64) {
        self.gic.redist_write(vcpu as u64 * 0x2_0000 + offset, 4, value);
    }

    pub fn redist_qw(&self, vcpu: usize, offset: u64) -> u64 {
        self.gic.redist_read(vcpu as u64 * 0x2_0000 + offset, 8)
    }

    pub fn set_redist_qw(&self, vcpu: usize, offset: u64, value: u64) {
        self.gic.redist_write(vcpu as u64 * 0x2_0000 + offset, 8, value);
    }

    pub fn icc(&self, vcpu: usize, register: u16) -> u64 {
        self.gic.icc_read(vcpu, register).unwrap()
    }

    pub fn set_icc(&self, vcpu: usize, register: u16, value: u64) {
        assert!(self.gic.icc_write(vcpu, register, value));
    }

    pub fn ack(&self, vcpu: usize) -> u64 {
        self.icc(vcpu, IAR1)
    }

    pub fn eoi(&self, vcpu: usize, intid: u64) {
        self.set_icc(vcpu, EOIR1, intid);
    }

    /// Takes and ends everything that is signalled to a vCPU, at most `limit` interrupts.
    pub fn drain(&self, vcpu: usize, limit: usize) -> Vec<u64> {
        let mut taken = Vec::new();
        while self.line(vcpu) && taken.len() < limit {
            let intid = self.ack(vcpu);
            self.eoi(vcpu, intid);
            taken.push(intid);
        }
        taken
    }

    /// Enables an SPI and makes it edge-triggered or level-sensitive.
    pub fn enable_spi(&self, intid: u64, edge: bool) {
        let (register, shift) = (0xc00 + intid / 16 * 4, intid % 16 * 2);
        let others = self.dist(register) & !(0b11 << shift);
        self.set_dist(register, others | (u64::from(edge) << (shift + 1)));
        self.set_dist(0x100 + intid / 32 * 4, 1 << (intid % 32));
    }

    pub fn set_priority(&self, intid: u64, priority: u64) {
        self.gic.dist_write(0x400 + intid, 1, priority);
    }

    pub fn enable_private(&self, vcpu: usize, intid: u64) {
        self.set_redist(vcpu, 0x1_0100, 1 << intid);
    }

    pub fn set_lpi_config(&self, intid: u64, byte: u8) {
        assert!(self.ram.write(CONFIG_TABLE + intid - 8192, &[byte]));
    }

    /// Puts a command into the queue without telling the ITS.
    pub fn enqueue(&self, at: u64, qw: [u64; 4]) -> u64 {
        for (index, word) in qw.into_iter().enumerate() {
            assert!(self.ram.write(QUEUE + at + index as u64 * 8, &word.to_le_bytes()));
        }
        (at + 32) % QUEUE_LEN
    }

    /// Queues a command, tells the ITS and waits for it as a guest does.
    pub fn command(&self, qw: [u64; 4]) {
        let next = self.enqueue(self.gic.its_read(0x88, 8), qw);
        self.gic.its_write(0x88, 8, next);
        assert_eq!(self.gic.its_read(0x90, 8), next, "the ITS did not reach the end of its queue");
    }

    pub fn mapd(&self, device: u64, event_bits: u64, itt: u64) {
        self.command([device << 32 | 0x08, event_bits - 1, 1 << 63 | itt, 0]);
    }

    pub fn mapc(&self, collection: u64, vcpu: u64) {
        self.command([0x09, 0, 1 << 63 | vcpu << 16 | collection, 0]);
    }

    pub fn mapti(&self, device: u64, event: u64, intid: u64, collection: u64) {
        self.command([device << 32 | 0x0a, intid << 32 | event, collection, 0]);
    }

    pub fn movi(&self, device: u64, event: u64, collection: u64) {
        self.command([device << 32 | 0x01, event, collection, 0]);
    }

    pub fn inv(&self, device: u64, event: u64) {
        self.command([device << 32 | 0x0c, event, 0, 0]);
    }

    pub fn command_errors(&self) -> u64 {
        self.gic.counters().its.command_errors
    }
}
