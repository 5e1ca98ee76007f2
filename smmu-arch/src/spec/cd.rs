// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Context descriptor and level 1 context descriptor. IHI 0070 §5.3 and §5.4.

use super::id::AddressSize;
use super::open_enum;
use bitfield_struct::bitfield;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

open_enum! {
    /// CD.TG0: granule of the tables under TTB0.
    Tg0: u8 {
        /// 4 KiB.
        Granule4K = 0,
        /// 64 KiB.
        Granule64K = 1,
        /// 16 KiB.
        Granule16K = 2,
    }
}

open_enum! {
    /// CD.TG1: granule of the tables under TTB1. Not encoded as TG0.
    Tg1: u8 {
        /// 16 KiB.
        Granule16K = 1,
        /// 4 KiB.
        Granule4K = 2,
        /// 64 KiB.
        Granule64K = 3,
    }
}

/// Bits 63:0.
#[bitfield(u64)]
#[derive(PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct CdQw0 {
    /// 64 minus the address bits TTB0 covers.
    #[bits(6)]
    pub t0sz: u8,
    /// Granule of TTB0.
    #[bits(2)]
    pub tg0: Tg0,
    /// Inner cacheability of walks.
    #[bits(2)]
    pub ir0: u8,
    /// Outer cacheability of walks.
    #[bits(2)]
    pub or0: u8,
    /// Shareability of walks.
    #[bits(2)]
    pub sh0: u8,
    /// TTB0 is disabled.
    pub epd0: bool,
    /// Tables are big-endian.
    pub endi: bool,
    /// 64 minus the address bits TTB1 covers.
    #[bits(6)]
    pub t1sz: u8,
    /// Granule of TTB1.
    #[bits(2)]
    pub tg1: Tg1,
    /// Inner cacheability of walks.
    #[bits(2)]
    pub ir1: u8,
    /// Outer cacheability of walks.
    #[bits(2)]
    pub or1: u8,
    /// Shareability of walks.
    #[bits(2)]
    pub sh1: u8,
    /// TTB1 is disabled.
    pub epd1: bool,
    /// The descriptor is valid.
    pub v: bool,
    /// Intermediate address size.
    #[bits(3)]
    pub ips: AddressSize,
    /// Access flag faults are off.
    pub affd: bool,
    /// Writable is never executable.
    pub wxn: bool,
    /// AArch32 only.
    pub uwxn: bool,
    /// Top byte ignored under TTB0.
    pub tbi0: bool,
    /// Top byte ignored under TTB1.
    pub tbi1: bool,
    /// Privileged access never.
    pub pan: bool,
    /// VMSAv8-64 tables.
    pub aa64: bool,
    /// Hardware update of dirty state.
    pub hd: bool,
    /// Hardware update of the access flag.
    pub ha: bool,
    /// Faults stall.
    pub s: bool,
    /// Faults are recorded.
    pub r: bool,
    /// Terminated transactions abort.
    pub a: bool,
    /// The ASID is outside broadcast maintenance.
    pub aset: bool,
    /// Address space.
    #[bits(16)]
    pub asid: u16,
}

/// Bits 127:64 (TTB0) or 191:128 (TTB1).
#[bitfield(u64)]
#[derive(PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct CdTtb {
    /// Secure only.
    pub nscfg: bool,
    /// Hierarchical attributes disabled.
    pub had: bool,
    #[bits(2)]
    __: u8,
    /// Bits 51:4 of the table's address.
    #[bits(48)]
    pub ttb_51_4: u64,
    #[bits(12)]
    __: u16,
}

/// A context descriptor, 64 bytes.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Cd {
    /// Bits 63:0.
    pub qw0: CdQw0,
    /// TTB0.
    pub ttb0: CdTtb,
    /// TTB1.
    pub ttb1: CdTtb,
    /// Memory attributes by index.
    pub mair: u64,
    /// AMAIR, MPAM and later fields.
    pub rest: [u64; 4],
}

/// Bytes of a CD.
pub const CD_LEN: u64 = 64;
const _: () = assert!(size_of::<Cd>() as u64 == CD_LEN);

/// Level 1 context descriptor, §5.3.
#[bitfield(u64)]
#[derive(PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct L1Cd {
    /// The pointer is valid.
    pub v: bool,
    #[bits(11)]
    __: u16,
    /// Bits 51:12 of the address of the leaf table.
    #[bits(40)]
    pub l2ptr_51_12: u64,
    #[bits(12)]
    __: u16,
}

/// Bytes of an L1CD.
pub const L1CD_LEN: u64 = 8;
const _: () = assert!(size_of::<L1Cd>() as u64 == L1CD_LEN);

impl CdTtb {
    /// The address field in place.
    pub const fn ttb(&self) -> u64 {
        self.ttb_51_4() << 4
    }
}

impl L1Cd {
    /// L2Ptr in place.
    pub const fn l2ptr(&self) -> u64 {
        self.l2ptr_51_12() << 12
    }
}
