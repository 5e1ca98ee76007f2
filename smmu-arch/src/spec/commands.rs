// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Commands: 16-byte entries of the Command queue. IHI 0070 chapter 4.
//!
//! A `Command` is the entry as fetched; the views below name the fields of one family each. Reserved
//! fields are ignored (§4.1.5 leaves it to the implementation).

use super::open_enum;
use bitfield_struct::bitfield;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

open_enum! {
    /// §4.1.1. Opcodes of the Secure and Realm queues are left out: they are unknown on this one.
    Opcode: u8 {
        /// §4.2.1
        PrefetchConfig = 0x01,
        /// §4.2.2
        PrefetchAddr = 0x02,
        /// §4.3.1
        CfgiSte = 0x03,
        /// §4.3.2; with Range 31, CMD_CFGI_ALL
        CfgiSteRange = 0x04,
        /// §4.3.3
        CfgiCd = 0x05,
        /// §4.3.4
        CfgiCdAll = 0x06,
        /// §4.3.5
        CfgiVmsPidm = 0x07,
        /// §4.4.2.1
        TlbiNhAll = 0x10,
        /// §4.4.2.2
        TlbiNhAsid = 0x11,
        /// §4.4.2.4
        TlbiNhVa = 0x12,
        /// §4.4.2.3
        TlbiNhVaa = 0x13,
        /// §4.4.2.5
        TlbiEl3All = 0x18,
        /// §4.4.2.6
        TlbiEl3Va = 0x1a,
        /// §4.4.2.7
        TlbiEl2All = 0x20,
        /// §4.4.2.10
        TlbiEl2Asid = 0x21,
        /// §4.4.2.8
        TlbiEl2Va = 0x22,
        /// §4.4.2.9
        TlbiEl2Vaa = 0x23,
        /// §4.4.3.2
        TlbiS12Vmall = 0x28,
        /// §4.4.3.1
        TlbiS2Ipa = 0x2a,
        /// §4.4.4.1
        TlbiNsnhAll = 0x30,
        /// §4.5.1
        AtcInv = 0x40,
        /// §4.5.2
        PriResp = 0x41,
        /// §4.7.1
        Resume = 0x44,
        /// §4.7.2
        StallTerm = 0x45,
        /// §4.7.3
        Sync = 0x46,
        /// §4.6.1
        DptiAll = 0x70,
        /// §4.6.2
        DptiPa = 0x73,
    }
}

open_enum! {
    /// CMD_SYNC's ComplSignal (§4.7.3); 3 is ILLEGAL.
    ComplSignal: u8 {
        /// Nothing more.
        None = 0,
        /// An interrupt.
        Irq = 1,
        /// An event to the PEs, if IDR0.SEV.
        Sev = 2,
    }
}

/// Bits 63:0, as the commands that name a stream have them.
#[bitfield(u64)]
#[derive(PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct StreamQw0 {
    /// Which command.
    #[bits(8)]
    pub opcode: Opcode,
    #[bits(2)]
    __: u8,
    /// The stream is a Secure one.
    pub ssec: bool,
    /// The SubstreamID is valid.
    pub ssv: bool,
    /// SubstreamID.
    #[bits(20)]
    pub substream_id: u32,
    /// StreamID.
    #[bits(32)]
    pub stream_id: u32,
}

/// Bits 63:0 of CMD_TLBI_*.
#[bitfield(u64)]
#[derive(PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct TlbiQw0 {
    /// Which command.
    #[bits(8)]
    pub opcode: Opcode,
    #[bits(4)]
    __: u8,
    /// Granule multiplier, less one.
    #[bits(5)]
    pub num: u8,
    #[bits(3)]
    __: u8,
    /// log2 of the granule multiplier's unit.
    #[bits(5)]
    pub scale: u8,
    #[bits(7)]
    __: u8,
    /// VMID; RES0 without stage 2.
    #[bits(16)]
    pub vmid: u16,
    /// ASID.
    #[bits(16)]
    pub asid: u16,
}

open_enum! {
    /// TG of a CMD_TLBI_* (§4.4.1.1).
    InvalidationGranule: u8 {
        /// Any granule; no range, no level hint.
        Any = 0,
        /// 4 KiB.
        Granule4K = 1,
        /// 16 KiB.
        Granule16K = 2,
        /// 64 KiB.
        Granule64K = 3,
    }
}

/// Bits 127:64 of CMD_TLBI_*.
#[bitfield(u64)]
#[derive(PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct TlbiQw1 {
    /// Only last-level entries.
    pub leaf: bool,
    #[bits(7)]
    __: u8,
    /// Level of the last-level entries, or 0 for any.
    #[bits(2)]
    pub ttl: u8,
    /// Granule.
    #[bits(2)]
    pub tg: InvalidationGranule,
    /// Address bits 63:12.
    #[bits(52)]
    pub address_63_12: u64,
}

/// Bits 127:64 of CMD_CFGI_STE_RANGE, and of CMD_CFGI_STE and CMD_CFGI_CD, where bit 0 is Leaf.
#[bitfield(u64)]
#[derive(PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct CfgiQw1 {
    /// 2^(range+1) streams.
    #[bits(5)]
    pub range: u8,
    #[bits(59)]
    __: u64,
}

/// Bits 63:0 of CMD_SYNC.
#[bitfield(u64)]
#[derive(PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SyncQw0 {
    /// Which command.
    #[bits(8)]
    pub opcode: Opcode,
    #[bits(4)]
    __: u8,
    /// Completion signal.
    #[bits(2)]
    pub cs: ComplSignal,
    #[bits(8)]
    __: u8,
    /// Shareability of the MSI write.
    #[bits(2)]
    pub msh: u8,
    /// Memory type of the MSI write.
    #[bits(4)]
    pub msi_attr: u8,
    #[bits(4)]
    __: u8,
    /// Value of the MSI write.
    #[bits(32)]
    pub msi_data: u32,
}

/// An entry of the Command queue, 16 bytes.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Command {
    /// Bits 63:0.
    pub qw0: u64,
    /// Bits 127:64.
    pub qw1: u64,
}

/// Bytes of a command.
pub const COMMAND_LEN: u64 = 16;
const _: () = assert!(size_of::<Command>() as u64 == COMMAND_LEN);

impl Command {
    /// Which command.
    pub const fn opcode(&self) -> Opcode {
        StreamQw0::from_bits(self.qw0).opcode()
    }

    /// Bits 63:0 as a command about a stream.
    pub const fn stream_qw0(&self) -> StreamQw0 {
        StreamQw0::from_bits(self.qw0)
    }

    /// Bits 63:0 as a TLB invalidation.
    pub const fn tlbi_qw0(&self) -> TlbiQw0 {
        TlbiQw0::from_bits(self.qw0)
    }

    /// Bits 127:64 as a TLB invalidation.
    pub const fn tlbi_qw1(&self) -> TlbiQw1 {
        TlbiQw1::from_bits(self.qw1)
    }

    /// Bits 127:64 as a configuration invalidation.
    pub const fn cfgi_qw1(&self) -> CfgiQw1 {
        CfgiQw1::from_bits(self.qw1)
    }

    /// Bits 63:0 as CMD_SYNC.
    pub const fn sync_qw0(&self) -> SyncQw0 {
        SyncQw0::from_bits(self.qw0)
    }
}
