// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Translation look-aside buffers: from a virtual page to host memory in one compare.
//!
//! There are eight banks, each for one ASID, so a context switch changes bank instead of flushing. A bank has, for
//! EL0 and EL1 each, a direct-mapped table of data pages and one of code pages, in units of 4 KiB. A data entry has
//! separate tags for reading and writing: the write tag is set by the first store, which marks the page in the dirty
//! log. The compare includes the low address bits, so only aligned accesses hit; the others take the slow path of
//! `access.rs`. Flushing more than asked is always allowed, and is done where it is cheaper.

#![expect(unsafe_code, reason = "entries are host pointers into guest memory")]
// UNSAFETY: partner of `ram.rs`. Invariant: an entry's tag is valid only if `host + page` is the start of a page
// of `self.ram` (with the write tag: a writable one), which lives as long as `self`.

use crate::ram::{GuestRam, PAGE_LEN, Page, ReadSpot, WriteSpot};

const BANKS: usize = 8;
const TABLES: usize = BANKS * 2;
const DATA_LEN: usize = 1024;
const CODE_LEN: usize = 256;
/// A tag no look-up asks for: bit 11 is neither page number nor alignment.
const INVALID: u64 = 0x800;

/// Names a table: bank and exception level. Always less than `TABLES`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Table(usize);

/// What the walk found out about a page besides its address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Traits {
    /// Valid for every ASID.
    pub global: bool,
    /// Device memory: unaligned access faults.
    pub device: bool,
    /// log2 of the bytes the descriptor maps.
    pub block_log2: u8,
}

impl Table {
    /// The exception level whose rights the table holds.
    pub(crate) fn level(self) -> u8 {
        (self.0 & 1) as u8
    }
}

#[derive(Clone, Copy)]
#[repr(C, align(32))]
struct DataEntry {
    read: u64,
    write: u64,
    /// Host address minus virtual address.
    host: *mut u8,
    traits: Traits,
}

#[derive(Clone, Copy)]
struct CodeEntry {
    tag: u64,
    page: u32,
    traits: Traits,
}

/// The largest granule: what one descriptor of the last level maps at most.
const GRANULE_LOG2_MAX: u8 = 16;

/// Virtual blocks of which there are pages, without false negatives: those from descriptors larger than any granule.
#[derive(Clone, Copy)]
struct BigBlocks {
    filter: [u64; 16],
    /// Bit n: there is a block of 2^n bytes.
    sizes: u64,
}

#[derive(Clone, Copy)]
struct Bank {
    asid: Option<u16>,
    /// Empty its tables before the next use.
    stale: bool,
    used: u64,
    /// log2 of the largest page, by which one invalidation forgets: pages are entered in pieces of 4 KiB.
    page_log2: u8,
    big: BigBlocks,
}

/// All the TLBs of one CPU.
pub(crate) struct Tlb {
    ram: GuestRam,
    data: Box<[DataEntry; TABLES * DATA_LEN]>,
    code: Box<[CodeEntry; TABLES * CODE_LEN]>,
    banks: [Bank; BANKS],
    current: usize,
    /// The table of the current bank and level, first entry.
    table: Table,
    uses: u64,
}

// SAFETY: the pointers lead into `ram`, which is shared memory usable from any thread.
unsafe impl Send for Tlb {}

const NO_TRAITS: Traits = Traits { global: false, device: false, block_log2: 12 };
const NO_DATA: DataEntry =
    DataEntry { read: INVALID, write: INVALID, host: std::ptr::null_mut(), traits: NO_TRAITS };
const NO_BLOCKS: BigBlocks = BigBlocks { filter: [0; 16], sizes: 0 };
const NO_CODE: CodeEntry = CodeEntry { tag: INVALID, page: 0, traits: NO_TRAITS };

impl Tlb {
    pub(crate) fn new(ram: GuestRam) -> Tlb {
        let empty = Bank { asid: None, stale: false, used: 0, page_log2: 12, big: NO_BLOCKS };
        Tlb {
            ram,
            data: boxed(NO_DATA),
            code: boxed(NO_CODE),
            banks: [empty; BANKS],
            current: 0,
            table: Table(1),
            uses: 0,
        }
    }

    pub(crate) fn ram(&self) -> &GuestRam {
        &self.ram
    }

    /// The table in use for `el` in the current address space.
    pub(crate) fn table_for(&self, el: u8) -> Table {
        Table(self.current * 2 + usize::from(el & 1))
    }

    /// The table in use for the current level.
    #[inline(always)]
    pub(crate) fn table(&self) -> Table {
        self.table
    }

    /// Follows a change of exception level.
    pub(crate) fn set_level(&mut self, el: u8) {
        self.table = self.table_for(el);
    }

    /// Follows a change of ASID; `el` is the current level.
    pub(crate) fn set_asid(&mut self, asid: u16, el: u8) {
        self.uses += 1;
        let found = self.banks.iter().position(|bank| bank.asid == Some(asid));
        let index = found.unwrap_or_else(|| {
            let oldest = (0..BANKS).min_by_key(|&i| self.banks[i].used).unwrap_or(0);
            self.banks[oldest].stale |= self.banks[oldest].asid.is_some();
            self.banks[oldest].asid = Some(asid);
            oldest
        });
        if self.banks[index].stale {
            self.empty_bank(index);
        }
        self.banks[index].used = self.uses;
        self.current = index;
        self.set_level(el);
    }

    /// The place of an aligned access if it may be read without further ado.
    #[inline(always)]
    pub(crate) fn read<const LOG2: usize>(&self, table: Table, va: u64) -> Option<ReadSpot<'_, LOG2>> {
        let entry = self.entry(table, va);
        if entry.read != va & (!(PAGE_LEN - 1) | ((1 << LOG2) - 1)) {
            return None;
        }
        // SAFETY: the tag is valid and equal to the page, so the sum is an address in that page; the compare
        // included the low bits of `va`, which are thus zero.
        Some(unsafe { ReadSpot::new(entry.host.wrapping_add(va as usize)) })
    }

    /// The place of an aligned access if it may be written without further ado.
    #[inline(always)]
    pub(crate) fn write<const LOG2: usize>(&self, table: Table, va: u64) -> Option<WriteSpot<'_, LOG2>> {
        let entry = self.entry(table, va);
        if entry.write != va & (!(PAGE_LEN - 1) | ((1 << LOG2) - 1)) {
            return None;
        }
        // SAFETY: as in `read`, and a valid write tag means a writable page.
        Some(unsafe { WriteSpot::new(entry.host.wrapping_add(va as usize)) })
    }

    /// The places of two adjacent values in one page, the first aligned.
    #[inline(always)]
    pub(crate) fn read_pair<const LOG2: usize>(
        &self,
        table: Table,
        va: u64,
    ) -> Option<(ReadSpot<'_, LOG2>, ReadSpot<'_, LOG2>)> {
        let entry = self.entry(table, va);
        if entry.read != va & (!(PAGE_LEN - 1) | ((1 << LOG2) - 1)) || crosses_page::<LOG2>(va) {
            return None;
        }
        let host = entry.host.wrapping_add(va as usize);
        // SAFETY: as in `read`.
        let first = unsafe { ReadSpot::new(host) };
        // SAFETY: as in `read`; the second value ends in the same page.
        let second = unsafe { ReadSpot::new(host.wrapping_add(1 << LOG2)) };
        Some((first, second))
    }

    /// The places of two adjacent values in one page, the first aligned, that may be written.
    #[inline(always)]
    pub(crate) fn write_pair<const LOG2: usize>(
        &self,
        table: Table,
        va: u64,
    ) -> Option<(WriteSpot<'_, LOG2>, WriteSpot<'_, LOG2>)> {
        let entry = self.entry(table, va);
        if entry.write != va & (!(PAGE_LEN - 1) | ((1 << LOG2) - 1)) || crosses_page::<LOG2>(va) {
            return None;
        }
        let host = entry.host.wrapping_add(va as usize);
        // SAFETY: as in `write`.
        let first = unsafe { WriteSpot::new(host) };
        // SAFETY: as in `write`; the second value ends in the same page.
        let second = unsafe { WriteSpot::new(host.wrapping_add(1 << LOG2)) };
        Some((first, second))
    }

    /// Whether a present entry for `va` is device memory.
    pub(crate) fn is_device(&self, table: Table, va: u64) -> bool {
        self.entry(table, va).traits.device
    }

    /// Enters the page of `gpa` for the page of `va`; false if `gpa` is not RAM, or is read-only and `write`.
    pub(crate) fn fill(&mut self, table: Table, va: u64, gpa: u64, write: bool, traits: Traits) -> bool {
        let Some(Page { host, writable }) = self.ram.page(gpa) else { return false };
        if write && !writable {
            return false;
        }
        let page = va & !(PAGE_LEN - 1);
        self.note_big(table, va, traits);
        let slot = data_slot(table, va);
        let old = self.data[slot];
        let host = host.wrapping_sub(page as usize);
        // A write tag already there stays only if it leads to the same place.
        let keep = old.write == page && old.host == host;
        let write = if write || keep { page } else { INVALID };
        self.data[slot] = DataEntry { read: page, write, host, traits };
        true
    }

    /// Forgets the data entry of the page of `va`.
    pub(crate) fn forget(&mut self, table: Table, va: u64) {
        self.data[data_slot(table, va)] = NO_DATA;
    }

    /// The code page entered for the page of `va`.
    pub(crate) fn code(&self, table: Table, va: u64) -> Option<u32> {
        let entry = &self.code[code_slot(table, va)];
        (entry.tag == va & !(PAGE_LEN - 1)).then_some(entry.page)
    }

    /// Enters a code page for the page of `va`.
    pub(crate) fn fill_code(&mut self, table: Table, va: u64, page: u32, traits: Traits) {
        self.note_big(table, va, traits);
        self.code[code_slot(table, va)] = CodeEntry { tag: va & !(PAGE_LEN - 1), page, traits };
    }

    /// Forgets everything. The tables of address spaces not in use are emptied when they are next used.
    pub(crate) fn flush_all(&mut self) {
        for bank in &mut self.banks {
            bank.stale = bank.asid.is_some();
        }
        self.empty_bank(self.current);
    }

    /// Forgets the code entries, because the code cache was emptied.
    pub(crate) fn flush_code(&mut self) {
        self.code.fill(NO_CODE);
    }

    /// Forgets what is not global in one address space.
    pub(crate) fn flush_asid(&mut self, asid: u16) {
        for index in 0..BANKS {
            if self.banks[index].asid == Some(asid) {
                if index == self.current {
                    self.sweep(index, |_, traits| !traits.global);
                } else {
                    self.banks[index].stale = true;
                }
            }
        }
    }

    /// Forgets one page in every address space.
    pub(crate) fn flush_page(&mut self, va: u64) {
        for index in 0..BANKS {
            if self.banks[index].stale || (self.banks[index].asid.is_none() && index != self.current) {
                continue;
            }
            if self.banks[index].big.may_contain(va) {
                self.sweep(index, |page, traits| untagged(page ^ va) >> traits.block_log2 == 0);
                continue;
            }
            let page_len = 1 << self.banks[index].page_log2;
            let first = va & !(page_len - 1);
            for piece in (first..=first | (page_len - 1)).step_by(PAGE_LEN as usize) {
                for table in [Table(index * 2), Table(index * 2 + 1)] {
                    self.data[data_slot(table, piece)] = NO_DATA;
                    self.code[code_slot(table, piece)] = NO_CODE;
                }
            }
        }
    }

    #[inline(always)]
    fn entry(&self, table: Table, va: u64) -> &DataEntry {
        &self.data[data_slot(table, va)]
    }

    fn note_big(&mut self, table: Table, va: u64, traits: Traits) {
        let bank = &mut self.banks[table.0 / 2 % BANKS];
        if traits.block_log2 > GRANULE_LOG2_MAX {
            bank.big.insert(va, traits.block_log2);
        } else {
            bank.page_log2 = bank.page_log2.max(traits.block_log2);
        }
    }

    fn empty_bank(&mut self, index: usize) {
        self.sweep(index, |_, _| true);
        self.banks[index].stale = false;
        self.banks[index].page_log2 = NO_TRAITS.block_log2;
        self.banks[index].big = NO_BLOCKS;
    }

    fn sweep(&mut self, bank: usize, doomed: impl Fn(u64, Traits) -> bool) {
        for entry in &mut self.data[bank * 2 * DATA_LEN..][..2 * DATA_LEN] {
            if entry.read != INVALID && doomed(entry.read, entry.traits) {
                *entry = NO_DATA;
            }
        }
        for entry in &mut self.code[bank * 2 * CODE_LEN..][..2 * CODE_LEN] {
            if entry.tag != INVALID && doomed(entry.tag, entry.traits) {
                *entry = NO_CODE;
            }
        }
    }
}

impl BigBlocks {
    fn place(va: u64, log2: u32) -> (usize, u64) {
        let block = (untagged(va) >> log2) ^ u64::from(log2) << 56;
        let hash = block.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54;
        ((hash >> 6) as usize & 15, 1 << (hash & 63))
    }

    fn insert(&mut self, va: u64, log2: u8) {
        let (word, mask) = BigBlocks::place(va, u32::from(log2));
        self.filter[word] |= mask;
        self.sizes |= 1 << log2;
    }

    /// Whether `va` lies in a block of any size that there is: seldom more than two sizes to look at.
    fn may_contain(&self, va: u64) -> bool {
        let mut sizes = self.sizes;
        while sizes != 0 {
            let (word, mask) = BigBlocks::place(va, sizes.trailing_zeros());
            if self.filter[word] & mask != 0 {
                return true;
            }
            sizes &= sizes - 1;
        }
        false
    }
}

/// Whether the second of two adjacent values from aligned `va` lies in the next page.
#[inline(always)]
fn crosses_page<const LOG2: usize>(va: u64) -> bool {
    va & (PAGE_LEN - 1) == PAGE_LEN - (1 << LOG2)
}

/// Without the top byte, which may be a tag that translation ignores.
fn untagged(va: u64) -> u64 {
    va & 0x00ff_ffff_ffff_ffff
}

// The mask bounds both: a check of the product would stand before every access.
#[inline(always)]
fn data_slot(table: Table, va: u64) -> usize {
    (table.0.wrapping_mul(DATA_LEN) | ((va >> 12) as usize & (DATA_LEN - 1))) & (TABLES * DATA_LEN - 1)
}

#[inline(always)]
fn code_slot(table: Table, va: u64) -> usize {
    (table.0.wrapping_mul(CODE_LEN) | ((va >> 12) as usize & (CODE_LEN - 1))) & (TABLES * CODE_LEN - 1)
}

/// A boxed array, made without passing over the stack.
fn boxed<T: Copy, const N: usize>(value: T) -> Box<[T; N]> {
    match vec![value; N].into_boxed_slice().try_into() {
        Ok(array) => array,
        Err(_) => unreachable!("the vector has N elements"),
    }
}
