// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The stage 1 table walk, VMSAv8-64, EL1&0 regime. IHI 0070 §3.4; DDI 0487 D8.2 to D8.4.
//!
//! At most four fetches, one per level. The half is chosen by address bit 55 and the input range checked
//! before anything is fetched. Faults come in the order of the architecture: translation, address size,
//! access flag, permission. A `Leaf` holds what a TLB keeps: permissions already combined with those of
//! the tables above, so that a hit and a walk decide alike (`Leaf::permits`).

use super::context::{Context, Half};
use super::{Fault, Translation};
use crate::memory::{Memory, fetch};
use crate::model::Granule;
use crate::spec::descriptor::{DESCRIPTOR_LEN, LeafDescriptor, TableDescriptor};
use crate::spec::events::{EventRecord, InputAccess, Requester};

/// The level of pages.
const LAST_LEVEL: u32 = 3;

/// A translation found, valid for every address of its page or block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leaf {
    /// Output address of the first byte.
    pub output: u64,
    /// log2 of the bytes it covers.
    pub bits: u32,
    /// Level it was found at.
    pub level: u8,
    /// Granule of the tables.
    pub granule: Granule,
    /// Not tagged with the ASID.
    pub global: bool,
    /// Unprivileged data accesses are allowed.
    pub unprivileged: bool,
    /// No writes.
    pub read_only: bool,
    /// No unprivileged instruction fetches.
    pub uxn: bool,
    /// No privileged instruction fetches.
    pub pxn: bool,
}

/// Why an address has no translation, or not for this access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WalkFault {
    /// Out of the input range, walk disabled, or no valid descriptor.
    Translation,
    /// An address in a descriptor is too large.
    AddressSize,
    /// The access flag is clear.
    AccessFlag,
    /// The access is not permitted.
    Permission,
    /// Fetching the descriptor at this address aborted.
    Abort(u64),
}

impl WalkFault {
    /// What the transaction is terminated with. Only faults of the translation itself obey CD.R.
    pub fn fault(self, context: &Context, requester: Requester, access: InputAccess) -> Fault {
        let event = match self {
            WalkFault::Abort(address) => {
                return Fault::recorded(EventRecord::f_walk_eabt(requester, access, address));
            }
            WalkFault::Translation => EventRecord::f_translation(requester, access),
            WalkFault::AddressSize => EventRecord::f_addr_size(requester, access),
            WalkFault::AccessFlag => EventRecord::f_access(requester, access),
            WalkFault::Permission => EventRecord::f_permission(requester, access),
        };
        Fault { event: context.record.then_some(event) }
    }
}

impl Leaf {
    /// Whether the access is permitted (DDI 0487 D8.4, EL1&0; PAN concerns data, WXN instructions).
    pub fn permits(&self, context: &Context, access: InputAccess) -> bool {
        let unprivileged_write = self.unprivileged && !self.read_only;
        let pan_forbids = context.pan && self.unprivileged;
        match (access.read, access.instruction, access.privileged) {
            (true, false, true) => !pan_forbids,
            (true, false, false) => self.unprivileged,
            // What unprivileged code may write, privileged code never executes.
            (true, true, true) => {
                let wxn_forbids = context.wxn && !self.read_only;
                !(self.pxn || unprivileged_write || wxn_forbids)
            }
            (true, true, false) => {
                let wxn_forbids = context.wxn && unprivileged_write;
                !(self.uxn || wxn_forbids)
            }
            // A write is data whatever it claims (§13.1.2).
            (false, _, true) => !(self.read_only || pan_forbids),
            (false, _, false) => unprivileged_write,
        }
    }

    /// Where an address of this page or block goes.
    pub fn translate(&self, address: u64) -> Translation {
        let offset = address & ((1 << self.bits) - 1);
        Translation { address: self.output | offset, span: (1 << self.bits) - offset }
    }
}

/// The half an address belongs to, if it is in the range of an enabled one (§3.4.1).
///
/// # Errors
/// A translation fault if it is in no half, or the half's walks are disabled (EPDx).
pub fn half(context: &Context, address: u64) -> Result<&Half, WalkFault> {
    let upper = address >> 55 & 1 == 1;
    let [lower_half, upper_half] = &context.halves;
    let half = if upper { upper_half } else { lower_half };
    let half = half.as_ref().ok_or(WalkFault::Translation)?;
    let significant = if half.top_byte_ignored { (address << 8) >> 8 } else { address };
    let ones = if half.top_byte_ignored { u64::MAX >> 8 } else { u64::MAX } >> half.input_bits;
    let above = significant >> half.input_bits;
    if above == if upper { ones } else { 0 } { Ok(half) } else { Err(WalkFault::Translation) }
}

/// log2 of the bytes that one entry of the first table covers.
pub(super) fn first_shift(granule: Granule, input_bits: u32) -> u32 {
    let stride = granule.bits() - 3;
    granule.bits() + (input_bits - granule.bits() - 1) / stride * stride
}

/// Walks the tables for an address of `half`. The access flag is checked, permissions are not.
///
/// # Errors
/// The first fault on the way, in the order of the architecture.
pub fn walk(
    memory: &(impl Memory + ?Sized),
    context: &Context,
    half: &Half,
    address: u64,
) -> Result<Leaf, WalkFault> {
    let in_range = |address: u64| address >> context.effective_ips == 0;
    let input = address & ((1 << half.input_bits) - 1);
    let page_bits = half.granule.bits();
    let stride = page_bits - 3;
    let mut shift = first_shift(half.granule, half.input_bits);
    let mut table = half.table;
    let mut index = input >> shift;
    let mut above = Hierarchy::default();
    // The shift falls by a stride each turn and ends at the page size: at most four turns.
    loop {
        let level = LAST_LEVEL - (shift - page_bits) / stride;
        let position = table + index * DESCRIPTOR_LEN;
        let word: u64 = fetch(memory, position).map_err(|_| WalkFault::Abort(position))?;
        let descriptor = TableDescriptor::from_bits(word);
        if !descriptor.valid() {
            return Err(WalkFault::Translation);
        }
        if !descriptor.table() || level == LAST_LEVEL {
            return leaf(context, half, LeafDescriptor::from_bits(word), shift, level, above);
        }
        table = super::stream::align_down(descriptor.address(), 1 << page_bits);
        if !in_range(table) {
            return Err(WalkFault::AddressSize);
        }
        if !half.hierarchy_ignored {
            above.add(descriptor);
        }
        shift -= stride;
        index = input >> shift & ((1 << stride) - 1);
    }
}

/// What the tables above a leaf take away from it.
#[derive(Clone, Copy, Default)]
struct Hierarchy {
    no_unprivileged: bool,
    read_only: bool,
    uxn: bool,
    pxn: bool,
}

impl Hierarchy {
    fn add(&mut self, table: TableDescriptor) {
        self.no_unprivileged |= table.ap_table_no_unprivileged();
        self.read_only |= table.ap_table_read_only();
        self.uxn |= table.uxn_table();
        self.pxn |= table.pxn_table();
    }
}

fn leaf(
    context: &Context,
    half: &Half,
    descriptor: LeafDescriptor,
    shift: u32,
    level: u32,
    above: Hierarchy,
) -> Result<Leaf, WalkFault> {
    let block_allowed = match half.granule {
        Granule::Size4K => level == 1 || level == 2,
        Granule::Size16K | Granule::Size64K => level == 2,
    };
    if descriptor.page() != (level == LAST_LEVEL) || !(descriptor.page() || block_allowed) {
        return Err(WalkFault::Translation);
    }
    let output = super::stream::align_down(descriptor.address(), 1 << shift);
    if output >> context.effective_ips != 0 {
        return Err(WalkFault::AddressSize);
    }
    if !descriptor.af() && !context.affd {
        return Err(WalkFault::AccessFlag);
    }
    Ok(Leaf {
        output,
        bits: shift,
        level: u8::try_from(level).unwrap_or(u8::MAX),
        granule: half.granule,
        global: !descriptor.ng(),
        unprivileged: descriptor.ap_unprivileged() && !above.no_unprivileged,
        read_only: descriptor.ap_read_only() || above.read_only,
        uxn: descriptor.uxn() || above.uxn,
        pxn: descriptor.pxn() || above.pxn,
    })
}
