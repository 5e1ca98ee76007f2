// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Stage 1 translation table descriptors, VMSAv8-64. IHI 0070 §3.4 defers to DDI 0487 section D8.3.
//!
//! One 64-bit word is read as a table or as a block/page descriptor, by its type bits and its level.

use bitfield_struct::bitfield;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A table descriptor: bits 1:0 are 3 above the last level.
#[bitfield(u64)]
#[derive(PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct TableDescriptor {
    /// The descriptor is valid.
    pub valid: bool,
    /// Table rather than block.
    pub table: bool,
    #[bits(10)]
    __: u16,
    /// Bits 47:12 of the address of the next table; low ones beyond the granule are RES0.
    #[bits(36)]
    pub address_47_12: u64,
    #[bits(11)]
    __: u16,
    /// Privileged execute never below.
    pub pxn_table: bool,
    /// Unprivileged execute never below.
    pub uxn_table: bool,
    /// APTable[0]: no unprivileged access below.
    pub ap_table_no_unprivileged: bool,
    /// APTable[1]: no write below.
    pub ap_table_read_only: bool,
    /// Secure only.
    pub ns_table: bool,
}

/// A block or page descriptor.
#[bitfield(u64)]
#[derive(PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct LeafDescriptor {
    /// The descriptor is valid.
    pub valid: bool,
    /// 1 for a page (last level), 0 for a block (above it).
    pub page: bool,
    /// Index into MAIR.
    #[bits(3)]
    pub attr_index: u8,
    /// Secure only.
    pub ns: bool,
    /// AP[1]: unprivileged access.
    pub ap_unprivileged: bool,
    /// AP[2]: read-only.
    pub ap_read_only: bool,
    /// Shareability.
    #[bits(2)]
    pub sh: u8,
    /// Access flag.
    pub af: bool,
    /// Not global: tagged with the ASID.
    pub ng: bool,
    /// Bits 47:12 of the output address; low ones beyond the block are RES0.
    #[bits(36)]
    pub address_47_12: u64,
    #[bits(3)]
    __: u8,
    /// Dirty bit modifier.
    pub dbm: bool,
    /// Contiguous hint.
    pub contiguous: bool,
    /// Privileged execute never.
    pub pxn: bool,
    /// Unprivileged execute never.
    pub uxn: bool,
    #[bits(9)]
    __: u16,
}

/// Bytes of a descriptor.
pub const DESCRIPTOR_LEN: u64 = 8;
const _: () = assert!(size_of::<TableDescriptor>() as u64 == DESCRIPTOR_LEN);
const _: () = assert!(size_of::<LeafDescriptor>() as u64 == DESCRIPTOR_LEN);

impl TableDescriptor {
    /// The address field in place.
    pub const fn address(&self) -> u64 {
        self.address_47_12() << 12
    }
}

impl LeafDescriptor {
    /// The address field in place.
    pub const fn address(&self) -> u64 {
        self.address_47_12() << 12
    }
}
