// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest's driver of the vSMMUv3: one stream, one context, one page of translations in each granule.
//!
//! Written from the manual (IHI 0070; section numbers beside the values) and apart from the product's own types, so
//! that the two cannot be wrong together.

use crate::monitor::Monitor;

/// Register page 0 of the machine's SMMU, and the registers used (§6.2).
const SMMU: u64 = 0x0905_0000;
const CR0: u64 = SMMU + 0x20;
const CR0ACK: u64 = SMMU + 0x24;
const CR1: u64 = SMMU + 0x28;
const CR2: u64 = SMMU + 0x2c;
const GERROR: u64 = SMMU + 0x60;
const STRTAB_BASE: u64 = SMMU + 0x80;
const STRTAB_BASE_CFG: u64 = SMMU + 0x88;
const CMDQ_BASE: u64 = SMMU + 0x90;
const CMDQ_PROD: u64 = SMMU + 0x98;
const CMDQ_CONS: u64 = SMMU + 0x9c;
const EVENTQ_BASE: u64 = SMMU + 0xa0;
const EVENTQ_PROD: u64 = SMMU + 0x1_00a8;
const EVENTQ_CONS: u64 = SMMU + 0x1_00ac;

/// CR0 (§6.3.9): SMMUEN, EVENTQEN, CMDQEN. CR1: inner shareable write-back for queues and tables. CR2.RECINVSID.
const ENABLED: u32 = 1 << 0 | 1 << 2 | 1 << 3;
const CACHEABLE: u32 = 0b11_01_01 << 6 | 0b11_01_01;
const RECINVSID: u32 = 1 << 1;

/// Where this driver keeps what: in RAM that the image, the device tree and the initramfs leave alone.
const AREA: u64 = 0x4200_0000;
const STREAM_TABLE: u64 = AREA;
const CONTEXT: u64 = AREA + 0x1000;
const COMMANDS: u64 = AREA + 0x2000;
const EVENTS: u64 = AREA + 0x4000;
/// Translation tables, 64 KiB apart; the first level is the first.
const TABLES: u64 = AREA + 0x10_0000;
const TABLE_SPACING: u64 = 0x1_0000;

/// log2 of the entries of the stream table and the queues.
const STREAMS_LOG2: u32 = 5;
const COMMANDS_LOG2: u32 = 8;
const EVENTS_LOG2: u32 = 7;

/// Bits of an input address: three levels at most, and a first table within 4 KiB in all granules. (QEMU 10's SMMU
/// aligns the first table once more after stage 2 has moved it: a larger one is not where it is looked for.)
const INPUT_BITS: u32 = 38;
const ASID: u64 = 0x5a;

/// No RAM and no device is there.
pub const NOWHERE: u64 = 0xf0_0000_0000;

/// A stage 1 leaf descriptor of a page (Arm ARM D8.3): valid, AttrIndx 0, inner shareable, AF, not global; AP allows
/// unprivileged reads and writes.
pub const READ_WRITE: u64 = 0b11 | 1 << 6 | 0b11 << 8 | ACCESSED | 1 << 11;
pub const READ_ONLY: u64 = READ_WRITE | 1 << 7;
pub const ACCESSED: u64 = 1 << 10;

/// Event types (§7.3).
pub const C_BAD_STREAMID: u64 = 0x02;
pub const F_STE_FETCH: u64 = 0x03;
pub const C_BAD_STE: u64 = 0x04;
pub const F_CD_FETCH: u64 = 0x09;
pub const C_BAD_CD: u64 = 0x0a;
pub const F_WALK_EABT: u64 = 0x0b;
pub const F_TRANSLATION: u64 = 0x10;
pub const F_ADDR_SIZE: u64 = 0x11;
pub const F_ACCESS: u64 = 0x12;
pub const F_PERMISSION: u64 = 0x13;

/// CLASS (§7.3.13): the walk itself, or the input address.
pub const CLASS_TTD: u64 = 1;
pub const CLASS_IN: u64 = 2;

/// An Event record, as its four doublewords (§7.3).
pub type Record = [u64; 4];

/// What a record must be: bits 7:0 type, 63:32 StreamID; 99 RnW, 105:104 CLASS, all else of ours 0.
pub fn record(kind: u64, stream: u64, access: Option<(bool, u64)>, input: u64, fetch: u64) -> Record {
    let how = access.map_or(0, |(read, class)| u64::from(read) << 35 | class << 40);
    [kind | stream << 32, how, input, fetch]
}

/// A page size of stage 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granule {
    K4,
    K16,
    K64,
}

impl Granule {
    pub fn page_log2(self) -> u32 {
        match self {
            Self::K4 => 12,
            Self::K16 => 14,
            Self::K64 => 16,
        }
    }

    /// CD.TG0 (§5.4).
    fn tg0(self) -> u64 {
        match self {
            Self::K4 => 0,
            Self::K64 => 1,
            Self::K16 => 2,
        }
    }

    /// Levels of tables that resolve [`INPUT_BITS`].
    fn levels(self) -> u32 {
        (INPUT_BITS - self.page_log2()).div_ceil(self.page_log2() - 3)
    }

    /// The descriptor's place for `iova` in the table of `level`, counted from the first one used.
    fn slot(self, level: u32, iova: u64) -> u64 {
        let stride = self.page_log2() - 3;
        let shift = self.page_log2() + stride * (self.levels() - 1 - level);
        let bits = if level == 0 { INPUT_BITS - shift } else { stride };
        TABLES + TABLE_SPACING * u64::from(level) + (iova >> shift & ((1 << bits) - 1)) * 8
    }
}

/// The SMMU, its one stream translated by tables of `granule`.
pub struct Smmu {
    pub granule: Granule,
    /// Of the device.
    pub stream: u64,
    produced: u32,
    consumed: u32,
}

impl Smmu {
    /// Sets everything up and enables it.
    pub fn enable(m: &mut Monitor, granule: Granule, stream: u64) -> Self {
        m.store32(CR1, CACHEABLE);
        m.store32(CR2, RECINVSID);
        m.store64(STRTAB_BASE, STREAM_TABLE | 1 << 62);
        m.store32(STRTAB_BASE_CFG, STREAMS_LOG2);
        m.store64(CMDQ_BASE, COMMANDS | 1 << 62 | u64::from(COMMANDS_LOG2));
        m.store64(EVENTQ_BASE, EVENTS | 1 << 62 | u64::from(EVENTS_LOG2));
        for queue in [CMDQ_PROD, CMDQ_CONS, EVENTQ_PROD, EVENTQ_CONS] {
            m.store32(queue, 0);
        }
        let mut smmu = Self { granule, stream, produced: 0, consumed: 0 };
        smmu.put_context(m, smmu.context());
        smmu.put_stream(m, smmu.entry());
        m.store32(CR0, ENABLED);
        m.poll32(CR0ACK, "CR0ACK", |value| value == ENABLED);
        smmu.command(m, [0x04, 31]); // CMD_CFGI_ALL (§4.3.2)
        smmu.command(m, [0x30, 0]); // CMD_TLBI_NSNH_ALL (§4.4.4)
        smmu.sync(m);
        smmu
    }

    /// The good stream table entry's first doublewords (§5.2): V, stage 1 translates, one CD; write-back walks.
    pub fn entry(&self) -> [u64; 2] {
        [1 | 0b101 << 1 | CONTEXT, 0b11_01_01 << 2]
    }

    /// The good context descriptor's doublewords (§5.4).
    pub fn context(&self) -> [u64; 4] {
        let t0sz = u64::from(64 - INPUT_BITS);
        let walks = 0b11_01_01 << 8;
        let (epd1, v, ips40, aa64, r, a) = (1 << 30, 1 << 31, 0b010 << 32, 1 << 41, 1 << 45, 1 << 46);
        let word = t0sz | self.granule.tg0() << 6 | walks | epd1 | v | ips40 | aa64 | r | a | ASID << 48;
        [word, TABLES, 0, 0xff]
    }

    /// Writes the stream's entry; [`Self::renew_stream`] makes the SMMU see it.
    pub fn put_stream(&self, m: &mut Monitor, words: [u64; 2]) {
        let at = STREAM_TABLE + 64 * self.stream;
        m.store64(at + 8, words[1]);
        m.store64(at, words[0]);
    }

    /// Writes the context descriptor; [`Self::renew_context`] makes the SMMU see it.
    pub fn put_context(&self, m: &mut Monitor, words: [u64; 4]) {
        for (index, word) in words.into_iter().enumerate().rev() {
            m.store64(CONTEXT + 8 * index as u64, word);
        }
    }

    /// CMD_CFGI_STE (§4.3.1) and CMD_SYNC.
    pub fn renew_stream(&mut self, m: &mut Monitor) {
        self.command(m, [0x03 | self.stream << 32, 1]);
        self.sync(m);
    }

    /// CMD_CFGI_CD (§4.3.4), the ASID's translations (CMD_TLBI_NH_ASID, §4.4.2) and CMD_SYNC.
    pub fn renew_context(&mut self, m: &mut Monitor) {
        self.command(m, [0x05 | self.stream << 32, 1]);
        self.command(m, [0x11 | ASID << 48, 0]);
        self.sync(m);
    }

    /// Writes the leaf descriptor of a page and the tables above it, then forgets what was cached of the page
    /// (CMD_TLBI_NH_VA, §4.4.2).
    pub fn map(&mut self, m: &mut Monitor, iova: u64, leaf: u64) {
        let last = self.granule.levels() - 1;
        for level in 0..last {
            let next = TABLES + TABLE_SPACING * u64::from(level + 1);
            m.store64(self.granule.slot(level, iova), next | 0b11);
        }
        m.store64(self.granule.slot(last, iova), leaf);
        self.command(m, [0x12 | ASID << 48, iova & !0xfff | 1]);
        self.sync(m);
    }

    /// Where a walk for `iova` begins if TTB0 is `table`.
    pub fn first_fetch(&self, table: u64, iova: u64) -> u64 {
        table + (self.granule.slot(0, iova) - TABLES)
    }

    /// A stream table at `base` of 2^`log2` entries: the SMMU is disabled meanwhile, as §6.3.24 asks.
    pub fn move_streams(&mut self, m: &mut Monitor, base: u64, log2: u32) {
        m.store32(CR0, ENABLED & !1);
        m.poll32(CR0ACK, "CR0ACK", |value| value == ENABLED & !1);
        m.store64(STRTAB_BASE, base | 1 << 62);
        m.store32(STRTAB_BASE_CFG, log2);
        m.store32(CR0, ENABLED);
        m.poll32(CR0ACK, "CR0ACK", |value| value == ENABLED);
        self.command(m, [0x04, 31]);
        self.sync(m);
    }

    /// The stream table as it was first.
    pub fn restore_streams(&mut self, m: &mut Monitor) {
        self.move_streams(m, STREAM_TABLE, STREAMS_LOG2);
    }

    fn command(&mut self, m: &mut Monitor, words: [u64; 2]) {
        let index = u64::from(self.produced & ((1 << COMMANDS_LOG2) - 1));
        m.store64(COMMANDS + 16 * index, words[0]);
        m.store64(COMMANDS + 16 * index + 8, words[1]);
        self.produced = (self.produced + 1) & ((2 << COMMANDS_LOG2) - 1);
    }

    /// CMD_SYNC (§4.7.3) without a signal; returns when it and all before were consumed without an error.
    fn sync(&mut self, m: &mut Monitor) {
        self.command(m, [0x46, 0]);
        m.store32(CMDQ_PROD, self.produced);
        // CMDQ_CONS.ERR is in the upper half: an error would never be equal.
        m.poll32(CMDQ_CONS, "CMDQ_CONS", |value| value == self.produced);
        assert_eq!(m.load32(GERROR), 0, "the SMMU has a global error");
    }

    /// The records that are in the Event queue now; they are taken out.
    pub fn events(&mut self, m: &mut Monitor) -> Vec<Record> {
        let mut records = Vec::new();
        let produced = m.load32(EVENTQ_PROD);
        while self.consumed != produced {
            assert!(records.len() < 1 << EVENTS_LOG2, "the Event queue has overflowed: {produced:#x}");
            let at = EVENTS + 32 * u64::from(self.consumed & ((1 << EVENTS_LOG2) - 1));
            records.push([0, 8, 16, 24].map(|offset| m.load64(at + offset)));
            self.consumed = (self.consumed + 1) & ((2 << EVENTS_LOG2) - 1);
        }
        m.store32(EVENTQ_CONS, self.consumed);
        records
    }

    /// Waits for a record and returns all that come with it.
    pub fn wait_events(&mut self, m: &mut Monitor) -> Vec<Record> {
        let consumed = self.consumed;
        m.poll32(EVENTQ_PROD, "EVENTQ_PROD", |produced| produced != consumed);
        self.events(m)
    }
}
