// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest's RAM in two windows, with bytes around them that nobody may touch, and the books to check it by.
//!
//! The memory object is longer than RAM: between the windows and behind them lie pages of a pattern that stands
//! nowhere else. Whoever writes beyond a window changes it, whoever reads beyond one returns it.

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use ipc::addr::{Gpa, StreamId};
use ipc::protocol::ram::{RamLayout, RamRegion};
use ipc::protocol::stage1::Attachment;
use ipc::shm::dirty_log::{self, DirtyLog, OwedMap};
use ipc::shm::guest_memory::{self, GuestMemory};
use ipc::shm::region::Region;
use smmu_arch::{Model, Options};

use dev_vfio::iommu::software::SoftIommu;

/// The guest's name for the device.
pub const STREAM: StreamId = StreamId(8);
/// The only address space in use.
pub const ASID: u16 = 5;
const PAGE: u64 = 4096;
/// The windows: where, how many pages, where in the memory object (in pages).
const WINDOWS: [(u64, u64, u64); 2] = [(0x4000_0000, 24, 0), (0x8000_0000, 8, 28)];
/// Pages of RAM.
pub const PAGES: u64 = 32;
const OBJECT_PAGES: u64 = 40;
/// Never written by anybody else; long enough not to come about by chance.
const PATTERN: [u8; 16] = *b"\xc3no RAM is here\x3c";

/// Where the guest's structures begin: context descriptor, then tables of levels 1 to 3.
const CONTEXT: u64 = 16;
const TABLES: [u64; 3] = [17, 18, 19];

/// The memory, and what it is known to hold.
pub struct Guest {
    object: Region,
    ram: GuestMemory,
    /// The whole object as it was when it was last looked at, with what the guest itself has written since.
    known: Vec<u8>,
    /// Pages that the log has had since then.
    logged: OwedMap,
}

impl Guest {
    /// One whose DMA addresses 0 to 15 pages are mapped to the first pages of RAM; the log is on.
    pub fn new() -> Guest {
        let region =
            |(gpa, pages, at)| RamRegion { gpa: Gpa(gpa), len: pages * PAGE, file_offset: at * PAGE };
        let layout = RamLayout::new(WINDOWS.map(region).to_vec()).unwrap();
        let object = Region::create("fuzz-ram", OBJECT_PAGES * PAGE).unwrap();
        let mut known = Vec::new();
        for page in 0..OBJECT_PAGES {
            let is_ram = WINDOWS.iter().any(|(_, pages, at)| (*at..at + pages).contains(&page));
            known.extend(if is_ram { [0; PATTERN.len()] } else { PATTERN }.repeat(256));
        }
        object.file().write_all_at(&known, 0).unwrap();
        let log = DirtyLog::attach(&DirtyLog::create("fuzz-log", &layout).unwrap(), &layout).unwrap();
        let ram = GuestMemory::new(Arc::new(guest_memory::map(&object, &layout).unwrap()), Arc::new(log));
        ram.log().enable(1);
        let logged = OwedMap::new(&layout);
        let mut guest = Guest { object, ram, known, logged };
        guest.lay_out();
        guest
    }

    fn lay_out(&mut self) {
        self.put_context(CONTEXT, TABLES[0], 0);
        for (table, next) in TABLES.iter().zip(&TABLES[1..]) {
            self.put(*table, 0, gpa(*next) | 3);
        }
        for page in 0..16 {
            self.put(TABLES[2], page, Self::leaf(page));
        }
    }

    /// A page descriptor: valid, AP[1], AF, nG, inner shareable.
    pub fn leaf(page: u64) -> u64 {
        gpa(page) | 3 | 1 << 6 | 3 << 8 | 1 << 10 | 1 << 11
    }

    /// Writes a context descriptor of 39 bits with 4 KiB pages, with bits of its first word flipped.
    pub fn put_context(&mut self, page: u64, table: u64, flipped: u64) {
        let asid = u64::from(ASID) << 48;
        let word0 = 25 | 1 << 30 | 1 << 31 | 2 << 32 | 1 << 41 | 1 << 45 | 1 << 46 | 1 << 47 | asid;
        self.put(page, 0, word0 ^ flipped);
        self.put(page, 1, gpa(table));
    }

    /// Words of a stream table entry that name the context descriptor at `page`, with bits flipped.
    pub fn stage1(page: u64, flipped: [u64; 2]) -> Attachment {
        Attachment::Stage1([(gpa(page) | 0b1011) ^ flipped[0], 0b1101_0100 ^ flipped[1]])
    }

    /// The entry that names what `new` laid out.
    pub fn good_stage1() -> Attachment {
        Self::stage1(CONTEXT, [0, 0])
    }

    /// The memory object, RAM and what is around it.
    #[cfg(test)]
    pub fn object(&self) -> &Region {
        &self.object
    }

    /// Its translation of DMA.
    pub fn iommu(&self) -> SoftIommu {
        let model = Model::new(smmu_arch::model::MODEL_NAME, Options::default()).unwrap();
        SoftIommu::new(model, self.ram.clone(), STREAM)
    }

    /// Writes a word as the guest's CPU does: past the device's log. `page` and `word` count from the start of RAM
    /// and of the page, and wrap.
    pub fn put(&mut self, page: u64, word: u64, value: u64) {
        let at = file_page(page) * PAGE + word % 512 * 8;
        self.object.file().write_all_at(&value.to_le_bytes(), at).unwrap();
        let at = usize::try_from(at).unwrap();
        self.known[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }

    /// The device's log misses what is written from now on.
    #[cfg(test)]
    pub fn log_off(&self) {
        self.ram.log().disable();
    }

    /// Takes what the device's log has, as a round of a migration does.
    pub fn harvest(&mut self) {
        dirty_log::rearm_and_harvest(self.ram.log(), &mut self.logged);
    }

    /// Asserts that what has changed since the last time is in the log, and that nothing but RAM has.
    pub fn check(&mut self) {
        self.harvest();
        let mut now = vec![0; self.known.len()];
        self.object.file().read_exact_at(&mut now, 0).unwrap();
        for (page, (was, is)) in (0..).zip(self.known.chunks(4096).zip(now.chunks(4096))) {
            if was != is {
                let gpa = ram_page(page).expect("what is no RAM was written");
                assert!(self.logged.contains(Gpa(gpa)), "{gpa:#x} was written and not logged");
            }
        }
        self.known = now;
        self.logged.clear_all();
    }

    /// Asserts that bytes the device has read are all out of RAM.
    pub fn assert_is_ram(bytes: &[u8]) {
        // By its rare first byte: most of what is read has none, and this is the loop that a run spends its time in.
        let mut rest = bytes;
        while let Some(at) = rest.iter().position(|byte| *byte == PATTERN[0]) {
            rest = &rest[at..];
            assert!(!rest.starts_with(&PATTERN), "what is no RAM was read");
            rest = &rest[1..];
        }
    }
}

/// The page of the memory object that a page of RAM is.
fn file_page(page: u64) -> u64 {
    let page = page % PAGES;
    let [(_, low, _), (_, _, high)] = WINDOWS;
    if page < low { page } else { high + page - low }
}

/// The guest physical address of a page of RAM.
pub fn gpa(page: u64) -> u64 {
    ram_page(file_page(page)).unwrap_or(0)
}

/// The guest physical address of a page of the memory object, if it is RAM.
fn ram_page(file_page: u64) -> Option<u64> {
    let window = WINDOWS.iter().find(|(_, pages, at)| (*at..at + pages).contains(&file_page));
    window.map(|(gpa, _, at)| gpa + (file_page - at) * PAGE)
}
