// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! BARs with addresses fixed before the guest starts: the guest can size them, but not move them.
//!
//! 64-bit prefetchable BARs go to one area of the guest's address space, all other memory to another, I/O to a third,
//! because the host bridge's windows are made so. An I/O BAR holds an address of the bus: the guest sees it where the
//! host bridge has that. PCI 3.0 section 6.2.5.1.

use ipc::addr::{Gpa, GpaRange};
use ipc::protocol::vfio::BarAreas;
use thiserror::Error;

use crate::saved::{BarV1, StateError};

/// BAR registers of a type 0 header.
pub const BAR_COUNT: usize = 6;

/// Each memory BAR has its pages to itself: a guest may map it into one of its processes, or assign it to a nested
/// guest.
const ALIGN_MIN: u64 = 4096;
/// The smallest I/O BAR that a register can describe.
const IO_ALIGN_MIN: u64 = 4;

const IO: u32 = 1 << 0;
const TYPE_64: u32 = 0b10 << 1;
const TYPE_MASK: u32 = 0b11 << 1;
const PREFETCHABLE: u32 = 1 << 3;
const KIND_BITS: u32 = 0xf;
const IO_KIND_BITS: u32 = 0x3;

/// A BAR as the device describes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offered {
    /// The device's register; its low bits are the kind (I/O, 64-bit, prefetchable).
    pub register: u32,
    /// The region's length; 0 if there is none.
    pub len: u64,
}

/// Why a device's BARs cannot be shown to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BarError {
    /// It does not fit into the rest of its area.
    #[error("BAR {index} of {len:#x} bytes does not fit the slot's area")]
    NoRoom {
        /// Which.
        index: usize,
        /// Its size as the guest would see it.
        len: u64,
    },
    /// A 64-bit BAR in the last register.
    #[error("BAR {index} is 64 bits wide and has no upper half")]
    NoUpperHalf {
        /// Which.
        index: usize,
    },
}

/// A BAR that the guest sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The region behind it, and the register that its low half is in.
    pub index: usize,
    /// Its range; the length is a power of two.
    pub range: GpaRange,
    /// Bytes of the region behind it: fewer, if the region's length is no power of two.
    pub region_len: u64,
    kind: u32,
    /// The register's value without its low bits.
    bus_address: u64,
}

impl Placed {
    /// Whether it is I/O, not memory.
    pub const fn is_io(&self) -> bool {
        self.kind & IO != 0
    }

    fn save(&self) -> BarV1 {
        // What the register holds follows from where it is.
        let Placed { index, range, region_len, kind, bus_address: _ } = *self;
        // Below six.
        let index = u8::try_from(index).unwrap_or(u8::MAX);
        BarV1 { index, kind, start: range.start().0, len: range.len(), region_len }
    }
}

/// All six.
#[derive(Clone, Debug)]
pub struct Bars {
    placed: Vec<Placed>,
    /// Registers that the guest last wrote with all ones: they read as their size mask.
    sizing: [bool; BAR_COUNT],
}

impl Bars {
    /// Places the device's BARs, in order of size so that no space is lost to alignment.
    ///
    /// # Errors
    /// If something does not fit.
    pub fn place(offered: &[Offered; BAR_COUNT], areas: &BarAreas) -> Result<Bars, BarError> {
        let mut wanted = Vec::new();
        let mut upper_half = false;
        for (index, Offered { register, len }) in offered.iter().copied().enumerate() {
            if std::mem::take(&mut upper_half) || len == 0 {
                continue;
            }
            if register & IO != 0 {
                let padded = len.checked_next_power_of_two().unwrap_or(u64::MAX).max(IO_ALIGN_MIN);
                wanted.push((padded, index, len, register & IO_KIND_BITS));
                continue;
            }
            let wide = register & TYPE_MASK == TYPE_64;
            if wide && index + 1 == BAR_COUNT {
                return Err(BarError::NoUpperHalf { index });
            }
            upper_half = wide;
            let padded = len.checked_next_power_of_two().unwrap_or(u64::MAX).max(ALIGN_MIN);
            wanted.push((padded, index, len, register & KIND_BITS));
        }
        wanted.sort_by_key(|(padded, ..)| core::cmp::Reverse(*padded));
        let BarAreas { memory32, memory64, io, io_base } = *areas;
        let [mut next32, mut next64, mut next_io] = [memory32, memory64, io].map(|area| area.start().0);
        let mut placed = Vec::new();
        for (len, index, region_len, kind) in wanted {
            let is_io = kind & IO != 0;
            let high = kind & (TYPE_MASK | PREFETCHABLE) == TYPE_64 | PREFETCHABLE;
            let (area, next) = match (is_io, high) {
                (true, _) => (io, &mut next_io),
                (false, true) => (memory64, &mut next64),
                (false, false) => (memory32, &mut next32),
            };
            let start = next.checked_next_multiple_of(len);
            let range = start.and_then(|start| GpaRange::new(Gpa(start), len));
            let range = range.filter(|range| area.contains_range(*range));
            let range = range.ok_or(BarError::NoRoom { index, len })?;
            *next = range.end().0;
            let from = if is_io { io_base } else { Gpa(0) };
            let bus_address = range.start().checked_offset_from(from);
            let bus_address = bus_address.ok_or(BarError::NoRoom { index, len })?;
            placed.push(Placed { index, range, region_len, kind, bus_address });
        }
        Ok(Bars { placed, sizing: [false; BAR_COUNT] })
    }

    /// What a guest reads in register `index`.
    pub fn read(&self, index: usize) -> u32 {
        let sizing = self.sizing.get(index).copied().unwrap_or(false);
        let low = self.placed.iter().find(|bar| bar.index == index);
        let below = index.checked_sub(1);
        let is_wide = |bar: &&Placed| !bar.is_io() && bar.kind & TYPE_64 != 0;
        let high = self.placed.iter().find(|bar| is_wide(bar) && Some(bar.index) == below);
        let value = |bar: &Placed| if sizing { !(bar.range.len() - 1) } else { bar.bus_address };
        match (low, high) {
            (Some(bar), _) => low_half(value(bar)) | bar.kind,
            (None, Some(bar)) => low_half(value(bar) >> 32),
            (None, None) => 0,
        }
    }

    /// The guest writes register `index`: after all ones it reads as its size mask, after anything else as its
    /// address.
    pub fn write(&mut self, index: usize, value: u32) {
        if let Some(sizing) = self.sizing.get_mut(index) {
            *sizing = value | KIND_BITS == u32::MAX;
        }
    }

    /// Ends sizing: every register reads as its address.
    pub fn reset(&mut self) {
        self.sizing = [false; BAR_COUNT];
    }

    /// The BARs, and which registers read as their size mask.
    pub fn save(&self) -> (Vec<BarV1>, u8) {
        let Bars { placed, sizing } = self;
        let mut bars: Vec<BarV1> = placed.iter().map(Placed::save).collect();
        bars.sort_by_key(|bar| bar.index);
        let bits = (0..).zip(sizing).filter(|(_, sizing)| **sizing);
        (bars, bits.fold(0, |all, (bit, _): (u8, _)| all | 1 << bit))
    }

    /// Restores the state of BARs, which must have the same placement as these.
    ///
    /// # Errors
    /// If they have another placement.
    pub fn restore(&mut self, bars: &[BarV1], sizing: u8) -> Result<(), StateError> {
        StateError::unless_equal("its BARs", &bars, &self.save().0.as_slice())?;
        if sizing >> BAR_COUNT != 0 {
            return Err(StateError::Impossible {
                what: "BAR registers that read as their size",
                found: sizing.into(),
            });
        }
        for (bit, register) in (0..).zip(&mut self.sizing) {
            *register = sizing >> bit & 1 != 0;
        }
        Ok(())
    }

    /// The BAR that all of an access is in, and the offset into it.
    pub fn find(&self, gpa: Gpa, len: u64) -> Option<(Placed, u64)> {
        let access = GpaRange::new(gpa, len)?;
        let bar = self.placed.iter().find(|bar| bar.range.contains_range(access))?;
        Some((*bar, gpa.checked_offset_from(bar.range.start())?))
    }

    /// All BARs that the guest sees.
    pub fn iter(&self) -> impl Iterator<Item = &Placed> {
        self.placed.iter()
    }
}

fn low_half(value: u64) -> u32 {
    let [a, b, c, d, ..] = value.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests;
