// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where things are in the guest whose tables change: memory, the sets of tables, the few addresses that are used.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use smmu_arch::memory::{Abort, Memory};

/// log2 of the granule, bits of input address, TG0, TG1.
pub const SETS: [(u32, u32, u64, u64); 3] = [(12, 48, 0, 2), (14, 47, 2, 1), (16, 42, 1, 3)];
pub const SET_NAMES: [&str; 3] = ["4K", "16K", "64K"];

/// The set of each context; its ASID is its index and 1.
pub const CONTEXT_SETS: [usize; 4] = [0, 1, 2, 0];

/// Words where something was put; all else is zero.
#[derive(Default)]
pub struct Ram {
    words: RefCell<HashMap<u64, u64>>,
    pub reads: Cell<u32>,
}

impl Ram {
    pub fn put(&self, address: u64, word: u64) {
        self.words.borrow_mut().insert(address, word);
    }

    pub fn get(&self, address: u64) -> u64 {
        self.words.borrow().get(&address).copied().unwrap_or(0)
    }
}

impl Memory for Ram {
    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Abort> {
        self.reads.set(self.reads.get() + 1);
        for (at, chunk) in (address..).step_by(8).zip(bytes.chunks_mut(8)) {
            chunk.copy_from_slice(&self.get(at).to_le_bytes());
        }
        Ok(())
    }
}

/// The first address of a set's part of the input space. Each set has its own, since global entries match every ASID.
pub fn origin(set: usize, high: bool) -> u64 {
    let base = (set as u64 + 1) << 36;
    if high { !0 << SETS[set].1 | base } else { base }
}

/// One of few addresses, so that things meet: some neighbouring pages in some neighbouring blocks.
pub fn address(set: usize, place: u64, high: bool) -> u64 {
    let (granule, ..) = SETS[set];
    let block = granule + (granule - 3);
    origin(set, high) + (((place >> 8) % 2) << block) + ((place % 3) << granule)
}

/// log2 of the bytes that a descriptor of a level covers.
pub fn coverage(set: usize, level: u32) -> u32 {
    let (granule, ..) = SETS[set];
    granule + (3 - level) * (granule - 3)
}

pub fn root(set: usize, high: bool) -> u64 {
    0x10_0000 * (1 + set as u64 * 2 + u64::from(high))
}
