// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Registers that say where tables and queues lie, and the queue pointers. IHI 0070 §6.3.21 to §6.3.36.
//!
//! Address fields are those of SMMUv3.1: bits 51 and below. Bits above IDR5.OAS are the register file's
//! to clear.

use super::open_enum;
use bitfield_struct::bitfield;

/// Largest queue of the architecture, as log2 of its entries (§6.3.2 CMDQS, EVENTQS).
pub const QUEUE_LOG2_SIZE_MAX: u32 = 19;

open_enum! {
    /// STRTAB_BASE_CFG.FMT. Other values behave as `Linear` (§6.3.25).
    StreamTableFormat: u8 {
        /// An array of STEs.
        Linear = 0,
        /// An array of L1STDs.
        TwoLevel = 1,
    }
}

/// §6.3.24
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct StrtabBase {
    #[bits(6)]
    __: u8,
    /// Bits 51:6 of the address.
    #[bits(46)]
    pub addr_51_6: u64,
    #[bits(10)]
    __: u16,
    /// Read-allocate hint.
    pub ra: bool,
    __: bool,
}

impl StrtabBase {
    /// The address field in place.
    pub const fn addr(&self) -> u64 {
        self.addr_51_6() << 6
    }
}

/// §6.3.25
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct StrtabBaseCfg {
    /// log2 of the number of StreamIDs the table covers.
    #[bits(6)]
    pub log2size: u8,
    /// StreamID bits the second level resolves.
    #[bits(5)]
    pub split: u8,
    #[bits(5)]
    __: u8,
    /// Format of the table.
    #[bits(2)]
    pub fmt: StreamTableFormat,
    #[bits(14)]
    __: u16,
}

/// CMDQ_BASE (§6.3.26), EVENTQ_BASE (§6.3.29), PRIQ_BASE (§6.3.33).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct QueueBase {
    /// log2 of the number of entries.
    #[bits(5)]
    pub log2size: u8,
    /// Bits 51:5 of the address.
    #[bits(47)]
    pub addr_51_5: u64,
    #[bits(10)]
    __: u16,
    /// Allocate hint.
    pub hint: bool,
    __: bool,
}

impl QueueBase {
    /// The address field in place.
    pub const fn addr(&self) -> u64 {
        self.addr_51_5() << 5
    }
}

/// §6.3.27
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct CmdqProd {
    /// Write index and its wrap flag.
    #[bits(20)]
    pub wr: u32,
    #[bits(12)]
    __: u16,
}

open_enum! {
    /// CMDQ_CONS.ERR (§7.1).
    CommandError: u8 {
        /// CERROR_NONE.
        None = 0,
        /// CERROR_ILL: the command is illegal.
        Ill = 1,
        /// CERROR_ABT: fetching the command aborted.
        Abt = 2,
        /// CERROR_ATC_INV_SYNC: a CMD_SYNC found an ATS invalidation timed out.
        AtcInvSync = 3,
    }
}

/// §6.3.28
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct CmdqCons {
    /// Read index and its wrap flag.
    #[bits(20)]
    pub rd: u32,
    #[bits(4)]
    __: u8,
    /// Why the command at `rd` could not be consumed.
    #[bits(7)]
    pub err: CommandError,
    __: bool,
}

/// EVENTQ_PROD, page 1.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct EventqProd {
    /// Write index and its wrap flag.
    #[bits(20)]
    pub wr: u32,
    #[bits(11)]
    __: u16,
    /// Toggled when a record was lost to a full queue (§7.4).
    pub ovflg: bool,
}

/// EVENTQ_CONS, page 1.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct EventqCons {
    /// Read index and its wrap flag.
    #[bits(20)]
    pub rd: u32,
    #[bits(11)]
    __: u16,
    /// The value of OVFLG that software has seen (§7.4).
    pub ovackflg: bool,
}
