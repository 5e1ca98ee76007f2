// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Stream table entry and level 1 stream table descriptor. IHI 0070 §5.1 and §5.2.
//!
//! Fields of stage 2, of attribute overrides and of extensions later than SMMUv3.1 that our profiles do
//! not advertise are left reserved: they are IGNORED without their feature.

use super::open_enum;
use bitfield_struct::bitfield;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

open_enum! {
    /// STE.Config. Any value with bit 2 clear is abort, without an event.
    StreamConfig: u8 {
        /// Terminate with abort, record nothing.
        Abort = 0b000,
        /// Bypass both stages.
        Bypass = 0b100,
        /// Stage 1 translates.
        Stage1 = 0b101,
        /// Stage 2 translates.
        Stage2 = 0b110,
        /// Both stages translate.
        Nested = 0b111,
    }
}

impl StreamConfig {
    /// One of the eight values with bit 2 clear.
    pub const fn is_abort(self) -> bool {
        self.0 & 0b100 == 0
    }
}

open_enum! {
    /// STE.S1Fmt. 3 behaves as `Linear`.
    ContextTableFormat: u8 {
        /// An array of CDs.
        Linear = 0,
        /// L1CDs to leaf tables of 4 KiB, 64 CDs.
        TwoLevel4K = 1,
        /// L1CDs to leaf tables of 64 KiB, 1024 CDs.
        TwoLevel64K = 2,
    }
}

open_enum! {
    /// STE.S1DSS. 3 behaves as `Terminate`.
    DefaultSubstream: u8 {
        /// A transaction without substream is terminated.
        Terminate = 0,
        /// It bypasses stage 1.
        Bypass = 1,
        /// It uses the CD of substream 0.
        UseSubstream0 = 2,
    }
}

/// Bits 63:0.
#[bitfield(u64)]
#[derive(PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SteQw0 {
    /// The entry is valid.
    pub v: bool,
    /// What the stages do.
    #[bits(3)]
    pub config: StreamConfig,
    /// Format of the CD table.
    #[bits(2)]
    pub s1fmt: ContextTableFormat,
    /// Bits 51:6 of the address of the CD or CD table.
    #[bits(46)]
    pub s1contextptr_51_6: u64,
    #[bits(7)]
    __: u8,
    /// log2 of the number of CDs.
    #[bits(5)]
    pub s1cdmax: u8,
}

/// Bits 127:64.
#[bitfield(u64)]
#[derive(PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SteQw1 {
    /// Transactions without a substream.
    #[bits(2)]
    pub s1dss: DefaultSubstream,
    /// Inner cacheability of CD fetches.
    #[bits(2)]
    pub s1cir: u8,
    /// Outer cacheability of CD fetches.
    #[bits(2)]
    pub s1cor: u8,
    /// Shareability of CD fetches.
    #[bits(2)]
    pub s1csh: u8,
    #[bits(11)]
    __: u16,
    /// Identical events may be merged.
    pub mev: bool,
    #[bits(5)]
    __: u8,
    /// Stage 2 forces write-back.
    pub s2fwb: bool,
    __: bool,
    /// CDs of this stream may not stall.
    pub s1stalld: bool,
    /// ATS.
    #[bits(2)]
    pub eats: u8,
    /// Translation regime.
    #[bits(2)]
    pub strw: u8,
    #[bits(12)]
    __: u16,
    /// Shareability override.
    #[bits(2)]
    pub shcfg: u8,
    #[bits(18)]
    __: u32,
}

/// A stream table entry, 64 bytes.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Ste {
    /// Bits 63:0.
    pub qw0: SteQw0,
    /// Bits 127:64.
    pub qw1: SteQw1,
    /// Stage 2, MPAM and Secure fields: none of our profiles has them.
    pub rest: [u64; 6],
}

/// Bytes of an STE.
pub const STE_LEN: u64 = 64;
const _: () = assert!(size_of::<Ste>() as u64 == STE_LEN);

/// Level 1 stream table descriptor, §5.1.
#[bitfield(u64)]
#[derive(PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct L1Std {
    /// The second level has 2^(span-1) STEs; 0 and 12 to 31 mean none.
    #[bits(5)]
    pub span: u8,
    __: bool,
    /// Bits 51:6 of the address of the second level.
    #[bits(46)]
    pub l2ptr_51_6: u64,
    #[bits(12)]
    __: u16,
}

/// Bytes of an L1STD.
pub const L1STD_LEN: u64 = 8;
const _: () = assert!(size_of::<L1Std>() as u64 == L1STD_LEN);

impl SteQw0 {
    /// S1ContextPtr in place.
    pub const fn s1contextptr(&self) -> u64 {
        self.s1contextptr_51_6() << 6
    }
}

impl L1Std {
    /// L2Ptr in place.
    pub const fn l2ptr(&self) -> u64 {
        self.l2ptr_51_6() << 6
    }
}
