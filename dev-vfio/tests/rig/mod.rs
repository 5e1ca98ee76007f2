// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest's side of the engine: RAM with one context, one 4 KiB-granule table of one leaf, and the commands about it.
#![allow(dead_code, reason = "each test program uses a part of the rig")]

use std::sync::Arc;

use dev_vfio::iommu::HostIommu;
use dev_vfio::iommu::software::SoftIommu;
use ipc::addr::{Gpa, StreamId};
use ipc::protocol::ram::{RamLayout, RamRegion};
use ipc::protocol::stage1::Attachment;
use ipc::shm::dirty_log::DirtyLog;
use ipc::shm::guest_memory::{self, GuestMemory};
use ipc::shm::region::Region;
use smmu_arch::spec::commands::Opcode;
use smmu_arch::{Model, Options};

pub const RAM: u64 = 0x4000_0000;
/// Pages that DMA may be mapped to; the tables lie behind them.
pub const PAGES: u64 = 64;
pub const RAM_LEN: u64 = (PAGES + 8) * 4096;
pub const STREAM: StreamId = StreamId(8);
pub const ASID: u16 = 5;

const TABLES: u64 = RAM + PAGES * 4096;
const CONTEXT: u64 = TABLES;
const LEVEL1: u64 = TABLES + 0x1000;
const LEVEL2: u64 = TABLES + 0x2000;
const LEVEL3: u64 = TABLES + 0x3000;

pub struct Rig {
    pub iommu: SoftIommu,
    pub ram: GuestMemory,
    pub layout: RamLayout,
}

impl Rig {
    pub fn new() -> Rig {
        let layout = RamLayout::new(vec![RamRegion { gpa: Gpa(RAM), len: RAM_LEN, file_offset: 0 }]).unwrap();
        let memory = Region::create("ram", RAM_LEN).unwrap();
        let log = DirtyLog::create("log", &layout).unwrap();
        let log = Arc::new(DirtyLog::attach(&log, &layout).unwrap());
        let ram = GuestMemory::new(Arc::new(guest_memory::map(&memory, &layout).unwrap()), log);
        let options = Options { ssidsize: 0, ..Options::default() };
        let model = Model::new(smmu_arch::model::MODEL_NAME, options).unwrap();
        let iommu = SoftIommu::new(model, ram.clone(), STREAM);
        let rig = Rig { iommu, ram, layout };
        // T0SZ 25: 39 bits, three levels; EPD1, V, IPS 40 bits, AA64, R, A, ASET.
        let cd0 =
            25 | 1 << 30 | 1 << 31 | 2 << 32 | 1 << 41 | 1 << 45 | 1 << 46 | 1 << 47 | u64::from(ASID) << 48;
        rig.word(CONTEXT, cd0);
        rig.word(CONTEXT + 8, LEVEL1);
        rig.word(LEVEL1, LEVEL2 | 3);
        rig.word(LEVEL2, LEVEL3 | 3);
        rig
    }

    /// Writes a word as the guest's CPU does: past the device's log.
    fn word(&self, address: u64, value: u64) {
        let log = self.ram.log();
        let enabled = log.is_enabled();
        log.disable();
        self.ram.write(Gpa(address), &value.to_le_bytes()).unwrap();
        if enabled {
            log.enable(log.epoch());
        }
    }

    pub fn stage1(&self) -> Attachment {
        Attachment::Stage1([CONTEXT | 0b1011, 0b1101_0100])
    }

    pub fn attach_stage1(&mut self) {
        self.iommu.attach(STREAM, self.stage1()).unwrap();
    }

    /// Maps a page of IOVA to a page of RAM.
    pub fn map(&self, page: u64, to: u64, writable: bool) {
        let read_only = if writable { 0 } else { 1 << 7 };
        // Valid page, AP[1] unprivileged, AF, nG, inner shareable.
        self.word(LEVEL3 + page * 8, (RAM + to * 4096) | 3 | 1 << 6 | read_only | 3 << 8 | 1 << 10 | 1 << 11);
    }

    pub fn clear_access_flag(&self, page: u64) {
        let mut bytes = [0; 8];
        self.ram.read(Gpa(LEVEL3 + page * 8), &mut bytes).unwrap();
        self.word(LEVEL3 + page * 8, u64::from_le_bytes(bytes) & !(1 << 10));
    }

    /// Makes the first entry of the root table lead to that table again, with attributes of a page.
    pub fn loop_tables(&self, attributes: u64) {
        self.word(LEVEL1, LEVEL1 | 3 | attributes);
    }

    /// The page of RAM that the root table is.
    pub fn root_page(&self) -> u64 {
        (LEVEL1 - RAM) / 4096
    }

    pub fn break_context(&self) {
        self.word(CONTEXT, 0);
    }

    pub fn ram_at(&self, page: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.ram.read(Gpa(RAM + page * 4096), &mut bytes).unwrap();
        bytes
    }

    pub fn ram_byte(&self, offset: u64) -> u8 {
        let mut byte = [0];
        self.ram.read(Gpa(RAM + offset), &mut byte).unwrap();
        byte[0]
    }
}

pub fn command(opcode: Opcode) -> [u64; 2] {
    [u64::from(opcode.0), 0]
}

pub fn tlbi_asid(asid: u16) -> [u64; 2] {
    [u64::from(Opcode::TlbiNhAsid.0) | u64::from(asid) << 48, 0]
}

pub fn tlbi_va(asid: u16, va: u64) -> [u64; 2] {
    [u64::from(Opcode::TlbiNhVa.0) | u64::from(asid) << 48, va & !0xfff | 1]
}

pub fn cfgi_cd_all(stream: u32) -> [u64; 2] {
    [u64::from(Opcode::CfgiCdAll.0) | u64::from(stream) << 32, 0]
}
