// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The table walk (Arm ARM D5.2-D5.4): granules of 4, 16 and 64 KiB, hierarchical permissions, access flag.
//!
//! Tables live in RAM; a walk that leaves RAM is an external abort on the walk. The access flag and dirty state
//! are managed by software (no FEAT_HAFDBS), so a walk never writes.

use super::regime::{Half, PHYSICAL_BITS};
use super::{Access, Fault, Regime};
use crate::cpu::Cpu;
use crate::ram::GuestRam;
use crate::tlb::Traits;

/// A translation granule.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) enum Granule {
    #[default]
    K4,
    K16,
    K64,
}

impl Granule {
    pub(crate) fn from_tg0(field: u64) -> Granule {
        match field & 3 {
            1 => Granule::K64,
            2 => Granule::K16,
            _ => Granule::K4,
        }
    }

    pub(crate) fn from_tg1(field: u64) -> Granule {
        match field & 3 {
            1 => Granule::K16,
            3 => Granule::K64,
            _ => Granule::K4,
        }
    }

    /// log2 of the page length.
    const fn page_log2(self) -> u32 {
        match self {
            Granule::K4 => 12,
            Granule::K16 => 14,
            Granule::K64 => 16,
        }
    }

    /// Address bits resolved by one full table.
    const fn stride(self) -> u32 {
        self.page_log2() - 3
    }

    /// The first level at which a descriptor may map a block.
    const fn first_block_level(self) -> u32 {
        match self {
            Granule::K4 => 1,
            Granule::K16 | Granule::K64 => 2,
        }
    }
}

/// A successful translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Found {
    pub pa: u64,
    pub traits: Traits,
    /// The memory attribute byte, as in MAIR_EL1.
    pub attributes: u8,
    /// Shareability as the descriptor has it.
    pub shareability: u8,
}

impl Cpu {
    /// Translates `va` for an access with the rights of `el`.
    pub(crate) fn translate(&self, va: u64, access: Access, el: u8) -> Result<Found, Fault> {
        self.regime.translate(self.tlb.ram(), va, access, el)
    }
}

/// Permissions gathered on the way down; bits can only be taken away.
#[derive(Clone, Copy, Default)]
struct Limits {
    read_only: bool,
    no_el0: bool,
    uxn: bool,
    pxn: bool,
}

impl Regime {
    /// Translates `va` with the tables in `ram`.
    pub(crate) fn translate(&self, ram: &GuestRam, va: u64, access: Access, el: u8) -> Result<Found, Fault> {
        let is_high = va >> 55 & 1 == 1;
        let half = if is_high { &self.high } else { &self.low };
        // With the tag replaced by the sign, the bits above the input size must all be the sign.
        let address = if half.top_byte_ignored { ((va << 8) as i64 >> 8) as u64 } else { va };
        if !self.enabled {
            return flat(address, access);
        }
        let size = half.size_offset;
        if !(16..=39).contains(&size) || half.walk_disabled {
            return Err(Fault::Translation(0));
        }
        let input_bits = 64 - size;
        let above = (address as i64) >> input_bits;
        if above != if is_high { -1 } else { 0 } {
            return Err(Fault::Translation(0));
        }
        self.walk(ram, half, address, input_bits, access, el)
    }

    fn walk(
        &self,
        ram: &GuestRam,
        half: &Half,
        va: u64,
        input_bits: u32,
        access: Access,
        el: u8,
    ) -> Result<Found, Fault> {
        let (page_log2, stride) = (half.granule.page_log2(), half.granule.stride());
        let levels = (input_bits - page_log2).div_ceil(stride);
        let mut level = 4 - levels;
        // The first table resolves what the others leave over.
        let mut index_bits = input_bits - page_log2 - stride * (levels - 1);
        let mut table = half.table & !((8 << index_bits) - 1) & !0x3f;
        if self.too_big(table) {
            return Err(Fault::AddressSize(0));
        }
        let mut limits = Limits::default();
        loop {
            let shift = page_log2 + stride * (3 - level);
            let index = va >> shift & ((1 << index_bits) - 1);
            let place = table + index * 8;
            let descriptor = match ram.read::<3>(place) {
                Some(descriptor) if ram.is_ram(place) => descriptor,
                _ => return Err(Fault::ExternalOnWalk(level as u8)),
            };
            let fault_level = level as u8;
            match (descriptor & 3, level) {
                (3, 0..=2) => {
                    let next = descriptor & 0x0000_ffff_ffff_ffff & !((1 << page_log2) - 1);
                    if self.too_big(next) {
                        return Err(Fault::AddressSize(fault_level));
                    }
                    limits.read_only |= descriptor >> 62 & 1 == 1;
                    limits.no_el0 |= descriptor >> 61 & 1 == 1;
                    limits.uxn |= descriptor >> 60 & 1 == 1;
                    limits.pxn |= descriptor >> 59 & 1 == 1;
                    table = next;
                    level += 1;
                    index_bits = stride;
                }
                (3, 3) => return self.leaf(descriptor, va, shift, level, limits, access, el),
                (1, _) if level < 3 && level >= half.granule.first_block_level() => {
                    return self.leaf(descriptor, va, shift, level, limits, access, el);
                }
                _ => return Err(Fault::Translation(fault_level)),
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one call site; a struct would only rename the locals")]
    fn leaf(
        &self,
        descriptor: u64,
        va: u64,
        shift: u32,
        level: u32,
        limits: Limits,
        access: Access,
        el: u8,
    ) -> Result<Found, Fault> {
        let offset_mask = (1u64 << shift) - 1;
        let output = descriptor & 0x0000_ffff_ffff_ffff & !offset_mask;
        let fault_level = level as u8;
        if self.too_big(output) {
            return Err(Fault::AddressSize(fault_level));
        }
        if descriptor >> 10 & 1 == 0 {
            return Err(Fault::AccessFlag(fault_level));
        }
        if !self.permits(descriptor, limits, access, el) {
            return Err(Fault::Permission(fault_level));
        }
        let attributes = (self.mair >> (8 * (descriptor >> 2 & 7))) as u8;
        Ok(Found {
            pa: output | va & offset_mask,
            traits: Traits {
                global: descriptor >> 11 & 1 == 0,
                device: attributes & 0xf0 == 0,
                block_log2: shift as u8,
            },
            attributes,
            shareability: (descriptor >> 8 & 3) as u8,
        })
    }

    fn permits(&self, descriptor: u64, limits: Limits, access: Access, el: u8) -> bool {
        let read_only = limits.read_only || descriptor >> 7 & 1 == 1;
        let el0 = !limits.no_el0 && descriptor >> 6 & 1 == 1;
        let uxn = limits.uxn || descriptor >> 54 & 1 == 1;
        let pxn = limits.pxn || descriptor >> 53 & 1 == 1;
        let el0_writes = el0 && !read_only;
        match (access, el) {
            (Access::Read | Access::Maintain, 0) => el0,
            (Access::Read | Access::Maintain, _) => true,
            (Access::Write, 0) => el0_writes,
            (Access::Write, _) => !read_only,
            (Access::Execute, 0) => !(uxn || self.write_implies_no_execute && el0_writes),
            // What EL0 may write, EL1 may never execute.
            (Access::Execute, _) => !(pxn || el0_writes || self.write_implies_no_execute && !read_only),
        }
    }

    fn too_big(&self, address: u64) -> bool {
        address >> self.output_bits != 0
    }
}

/// With translation off: the identity, device memory for data.
fn flat(va: u64, access: Access) -> Result<Found, Fault> {
    if va >> PHYSICAL_BITS != 0 {
        return Err(Fault::AddressSize(0));
    }
    let device = access != Access::Execute;
    let attributes = if device { 0x00 } else { 0xaa };
    let traits = Traits { global: true, device, block_log2: 12 };
    Ok(Found { pa: va, traits, attributes, shareability: 2 })
}
