// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! LPIs of one redistributor: what is pending, and the configuration of what is pending (IHI 0069 §5.1).
//!
//! An LPI has no active state. Its configuration byte lives in guest memory; the architecture lets a
//! redistributor cache it until an invalidation. The cache here holds exactly the pending LPIs: the byte
//! is read when an LPI becomes pending, and again at INV or INVALL. So a lookup of the best pending
//! LPI reads no guest memory and scans nothing.
//! Invariant: `ready` holds the key of an LPI exactly when it is pending and its cached byte enables it.

use std::collections::BTreeSet;

use super::TableMemory;
use super::bank::Candidate;
use super::priority;
use super::spec::field::low8;
use super::spec::{INTID_BITS, LPI_END, LPI_FIRST, low32, redist};

const LPI_COUNT: usize = (LPI_END - LPI_FIRST) as usize;
/// 64-bit words of the pending bitmap.
const WORD_COUNT: usize = LPI_COUNT / 64;
/// Bytes of the pending table that describe LPIs; what comes before (INTIDs below 8192) is not used.
const PENDING_OFFSET: u64 = LPI_FIRST as u64 / 8;

/// The LPI configuration table, as GICR_PROPBASER describes it.
#[derive(Clone, Copy, Debug)]
pub struct ConfigTable {
    address: u64,
    /// One past the last LPI that the table has.
    end: u32,
}

impl ConfigTable {
    /// From the register. IDbits beyond the model's are cut; below 14 bits there are no LPIs.
    pub fn new(propbaser: u64) -> Self {
        let bits = redist::propbaser_id_bits(propbaser).min(u64::from(INTID_BITS));
        Self { address: redist::propbaser_address(propbaser), end: 1 << bits }
    }

    /// True if there is such an LPI.
    pub fn covers(self, intid: u32) -> bool {
        (LPI_FIRST..self.end).contains(&intid)
    }

    /// One configuration byte; memory that cannot be read disables the LPI.
    fn read(self, intid: u32, memory: &dyn TableMemory) -> u8 {
        let mut byte = [0];
        let read = memory.read(self.address + u64::from(intid - LPI_FIRST), &mut byte);
        if read { byte[0] } else { 0 }
    }
}

/// Index of an LPI in the tables below, if it is one.
fn index_of(intid: u32) -> Option<usize> {
    (LPI_FIRST..LPI_END).contains(&intid).then(|| (intid - LPI_FIRST) as usize)
}

/// The key that sorts LPIs by priority, then by INTID.
fn key_of(config: u8, intid: u32) -> u32 {
    (u32::from(priority_of(config)) << INTID_BITS) | intid
}

fn priority_of(config: u8) -> u8 {
    priority::sanitise(u64::from(config) & redist::LPI_CONFIG_PRIORITY.mask())
}

fn is_enabled(config: u8) -> bool {
    redist::LPI_CONFIG_ENABLE.is_set(config.into())
}

/// Pending LPIs.
pub struct PendingLpis {
    bits: Vec<u64>,
    /// Cached configuration, meaningful for pending LPIs only.
    config: Vec<u8>,
    ready: BTreeSet<u32>,
}

impl PendingLpis {
    /// Nothing pending.
    pub fn new() -> Self {
        Self { bits: vec![0; WORD_COUNT], config: vec![0; LPI_COUNT], ready: BTreeSet::new() }
    }

    /// The most urgent enabled LPI.
    pub fn best(&self) -> Option<Candidate> {
        let key = *self.ready.first()?;
        Some(Candidate { priority: low8(u64::from(key >> INTID_BITS)), intid: key & (LPI_END - 1) })
    }

    /// True if the LPI is pending.
    pub fn is_pending(&self, intid: u32) -> bool {
        index_of(intid)
            .and_then(|index| self.bits.get(index / 64).map(|word| word & (1 << (index % 64)) != 0))
            .unwrap_or(false)
    }

    /// Makes an LPI pending, or reads its configuration again if it is already.
    pub fn set(&mut self, intid: u32, table: ConfigTable, memory: &dyn TableMemory) {
        if !table.covers(intid) {
            return;
        }
        let Some(index) = index_of(intid) else { return };
        if self.is_pending(intid) {
            return;
        }
        if let Some(word) = self.bits.get_mut(index / 64) {
            *word |= 1 << (index % 64);
        }
        self.cache(intid, table.read(intid, memory));
    }

    fn cache(&mut self, intid: u32, fresh: u8) {
        let Some(cached) = index_of(intid).and_then(|index| self.config.get_mut(index)) else { return };
        self.ready.remove(&key_of(*cached, intid));
        *cached = fresh;
        if is_enabled(fresh) {
            self.ready.insert(key_of(fresh, intid));
        }
    }

    /// Ends pending. True if it was.
    pub fn clear(&mut self, intid: u32) -> bool {
        if !self.is_pending(intid) {
            return false;
        }
        let Some(index) = index_of(intid) else { return false };
        if let Some(word) = self.bits.get_mut(index / 64) {
            *word &= !(1 << (index % 64));
        }
        if let Some(config) = self.config.get(index) {
            self.ready.remove(&key_of(*config, intid));
        }
        true
    }

    /// INV: reads the configuration of one LPI again.
    pub fn invalidate(&mut self, intid: u32, table: ConfigTable, memory: &dyn TableMemory) {
        if self.is_pending(intid) && table.covers(intid) {
            self.cache(intid, table.read(intid, memory));
        }
    }

    /// INVALL: reads the configuration of all pending LPIs again, 64 at a time.
    pub fn invalidate_all(&mut self, table: ConfigTable, memory: &dyn TableMemory) {
        for index in 0..WORD_COUNT {
            let pending = self.bits.get(index).copied().unwrap_or(0);
            if pending == 0 {
                continue;
            }
            let mut fresh = [0; 64];
            if !memory.read(table.address + index as u64 * 64, &mut fresh) {
                fresh = [0; 64];
            }
            let first = first_intid_of(index);
            for (intid, byte) in (first..).zip(fresh) {
                if pending & (1 << (intid - first)) != 0 {
                    self.cache(intid, byte);
                }
            }
        }
    }

    /// All pending LPIs as (word index, bits), the words that are zero left out.
    pub fn words(&self) -> impl Iterator<Item = (usize, u64)> {
        self.bits.iter().copied().enumerate().filter(|(_, bits)| *bits != 0)
    }

    /// Adds pending LPIs, whose configuration is then read. Words out of range, and LPIs that the table does
    /// not have, are left out.
    pub fn add_words(
        &mut self,
        words: impl IntoIterator<Item = (usize, u64)>,
        table: ConfigTable,
        memory: &dyn TableMemory,
    ) {
        for (index, mut bits) in words {
            while index < WORD_COUNT && bits != 0 {
                self.set(first_intid_of(index) + bits.trailing_zeros(), table, memory);
                bits &= bits - 1;
            }
        }
    }

    /// Removes and returns all pending LPIs.
    pub fn take_words(&mut self) -> Vec<(usize, u64)> {
        let taken = self.words().collect();
        self.bits.fill(0);
        self.ready.clear();
        taken
    }

    /// Reads the pending table in guest memory, as EnableLPIs goes to one.
    pub fn load(&mut self, address: u64, table: ConfigTable, memory: &dyn TableMemory) {
        for index in 0..WORD_COUNT {
            let mut bytes = [0; 8];
            if first_intid_of(index) < table.end && memory.read(word_address(address, index), &mut bytes) {
                self.add_words([(index, u64::from_le_bytes(bytes))], table, memory);
            }
        }
    }

    /// Writes the pending table in guest memory and forgets everything, as EnableLPIs goes to zero.
    pub fn store(&mut self, address: u64, table: ConfigTable, memory: &dyn TableMemory) {
        for (index, bits) in self.bits.iter().enumerate() {
            if first_intid_of(index) < table.end {
                // A table outside memory loses what is pending, as a bus error would.
                memory.write(word_address(address, index), &bits.to_le_bytes());
            }
        }
        self.take_words();
    }
}

/// The LPI of bit 0 of a word.
fn first_intid_of(index: usize) -> u32 {
    LPI_FIRST + low32(index as u64) * 64
}

fn word_address(table: u64, index: usize) -> u64 {
    table + PENDING_OFFSET + index as u64 * 8
}
