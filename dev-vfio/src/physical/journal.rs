// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the next life of this process needs to go on with the host's objects as they are: their ids, what the device is
//! attached to, and whether an access to it was begun. Words in the journal of its checkpoint, behind the keeper's.
//!
//! The coordinator keeps the files, so that device, page tables and their attachment outlive this process; what is
//! lost is which is which. While the attachment is exchanged the journal says so: what is found then is what the kernel
//! refuses to destroy. To the next life the words are as untrusted as any peer's; but they can name objects of this one
//! context only, which whoever wrote them could use as well.

use ipc::error::Error;
use ipc::shm::journal::Journal;
use ipc::shm::region::Region;

use super::sys::iommufd::ObjectId;

/// The keeper's words are before these.
const FIRST: usize = 1024;
/// Stored last: all of the others are there. Its value is the layout's number.
const LAYOUT: u64 = 1;

const WHOLE: usize = FIRST;
const DEVICE_IOAS: usize = FIRST + 1;
const PARENT_VIOMMU: usize = FIRST + 2;
const VDEVICE_QUEUE: usize = FIRST + 3;
const ABORT_BYPASS: usize = FIRST + 4;
/// Bit 0: the parent logs writes.
const PARENT_FLAGS: usize = FIRST + 5;
/// A kind, and the table's id above it.
const ATTACHED: usize = FIRST + 6;
/// The stream table entry of that table: two words.
const ENTRY: usize = FIRST + 7;
/// 1: objects come and go, and what the four words above say is not reliable.
const EXCHANGE: usize = FIRST + 9;
/// An access to a BAR that was begun and is in the ring: [`IS_ACCESS`], the region, the offset.
const ACCESS: usize = FIRST + 10;

const IS_ACCESS: u64 = 1 << 63;
const REGION_SHIFT: u32 = 56;

const OF_SOFTWARE: u64 = 1;
const OF_ABORT: u64 = 2;
const OF_BYPASS: u64 = 3;
const OF_STAGE1: u64 = 4;

/// The ids of what is made once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Made {
    /// As it is bound.
    pub device: ObjectId,
    /// Guest RAM.
    pub ioas: ObjectId,
    /// Stage 2.
    pub parent: ObjectId,
    /// Whether that logs writes.
    pub parent_logs: bool,
    /// The guest's SMMU.
    pub viommu: ObjectId,
    /// What stands for the device in that.
    pub vdevice: ObjectId,
    /// The queue of its events.
    pub queue: ObjectId,
    /// The page table that aborts.
    pub abort: ObjectId,
    /// The page table of stage 2 alone.
    pub bypass: ObjectId,
}

/// What a device is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attached {
    /// Nothing passes.
    Abort,
    /// Stage 2 alone.
    Bypass,
    /// This page table, of these words of the guest's stream table entry.
    Stage1 {
        /// Its id.
        table: ObjectId,
        /// Words 0 and 1.
        words: [u64; 2],
    },
}

/// What the life before has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// A device in software, attached to an empty address space.
    Software,
    /// One behind the host's SMMU.
    Nested {
        /// Its objects.
        made: Made,
        /// What it is attached to; `None`: it was just being attached to something else.
        attached: Option<Attached>,
    },
}

/// The words of one device.
#[derive(Clone, Debug)]
pub struct HostJournal(Journal);

impl HostJournal {
    /// In this checkpoint's memory object.
    ///
    /// # Errors
    /// If it has another size.
    pub fn new(checkpoint: &Region) -> Result<Self, Error> {
        Journal::attach(checkpoint).map(Self)
    }

    /// What the life before has left, if there was one that had got so far.
    pub fn left(&self) -> Option<Left> {
        if self.0.load(WHOLE) != LAYOUT {
            return None;
        }
        let attached = self.0.load(ATTACHED);
        if attached & u64::from(u32::MAX) == OF_SOFTWARE {
            return Some(Left::Software);
        }
        let ([device, ioas], [parent, viommu]) = (self.pair(DEVICE_IOAS), self.pair(PARENT_VIOMMU));
        let ([vdevice, queue], [abort, bypass]) = (self.pair(VDEVICE_QUEUE), self.pair(ABORT_BYPASS));
        let parent_logs = self.0.load(PARENT_FLAGS) & 1 != 0;
        let made = Made { device, ioas, parent, parent_logs, viommu, vdevice, queue, abort, bypass };
        let [kind, table] = halves(attached);
        let words = [self.0.load(ENTRY), self.0.load(ENTRY + 1)];
        let attached = match u64::from(kind) {
            _ if self.0.load(EXCHANGE) != 0 => None,
            OF_ABORT => Some(Attached::Abort),
            OF_BYPASS => Some(Attached::Bypass),
            OF_STAGE1 => Some(Attached::Stage1 { table: ObjectId(table), words }),
            _ => None,
        };
        Some(Left::Nested { made, attached })
    }

    /// A device in software is attached.
    pub fn keep_software(&self) {
        self.0.store(ATTACHED, OF_SOFTWARE);
        self.0.store(WHOLE, LAYOUT);
    }

    /// All is made and the device attached to abort; or the queue was made anew.
    pub fn keep_made(&self, made: &Made) {
        let Made { device, ioas, parent, parent_logs, viommu, vdevice, queue, abort, bypass } = *made;
        for (word, pair) in [
            (DEVICE_IOAS, [device, ioas]),
            (PARENT_VIOMMU, [parent, viommu]),
            (VDEVICE_QUEUE, [vdevice, queue]),
            (ABORT_BYPASS, [abort, bypass]),
        ] {
            let [low, high] = pair.map(|id| u64::from(id.0));
            self.0.store(word, low | high << 32);
        }
        self.0.store(PARENT_FLAGS, u64::from(parent_logs));
        if self.0.load(WHOLE) != LAYOUT {
            self.0.store(ATTACHED, OF_ABORT);
            self.0.store(WHOLE, LAYOUT);
        }
    }

    /// What was made is undone: there is nothing to go on with.
    pub fn forget(&self) {
        self.0.store(WHOLE, 0);
    }

    /// From now on objects come and go, until [`Self::keep_attached`].
    pub fn begin_exchange(&self) {
        self.0.store(EXCHANGE, 1);
    }

    /// The device is attached to this, and nothing else is left over.
    pub fn keep_attached(&self, attached: Attached) {
        let (kind, table, words) = match attached {
            Attached::Abort => (OF_ABORT, 0, [0; 2]),
            Attached::Bypass => (OF_BYPASS, 0, [0; 2]),
            Attached::Stage1 { table, words } => (OF_STAGE1, table.0, words),
        };
        let [first, second] = words;
        self.0.store(ATTACHED, kind | u64::from(table) << 32);
        self.0.store(ENTRY, first);
        self.0.store(ENTRY + 1, second);
        self.0.store(EXCHANGE, 0);
    }

    /// An access to a BAR follows. If this process dies before [`Self::end_access`], it is not known whether it was
    /// done, and the ring would have it done again.
    pub fn begin_access(&self, region: u32, offset: u64) {
        let place = u64::from(region & 0x7f) << REGION_SHIFT | offset & ((1 << REGION_SHIFT) - 1);
        self.0.store(ACCESS, IS_ACCESS | place);
    }

    /// It was done, and is out of the ring.
    pub fn end_access(&self) {
        self.0.store(ACCESS, 0);
    }

    /// The region and offset of an access that was begun, and perhaps done, but not answered.
    pub fn begun(&self) -> Option<(u64, u64)> {
        let word = self.0.load(ACCESS);
        let place = word & !IS_ACCESS;
        (word & IS_ACCESS != 0).then_some((place >> REGION_SHIFT, place & ((1 << REGION_SHIFT) - 1)))
    }

    fn pair(&self, word: usize) -> [ObjectId; 2] {
        halves(self.0.load(word)).map(ObjectId)
    }
}

fn halves(word: u64) -> [u32; 2] {
    let low = word & u64::from(u32::MAX);
    [low, word >> 32].map(|half| u32::try_from(half).unwrap_or(0))
}

#[cfg(test)]
mod tests;
