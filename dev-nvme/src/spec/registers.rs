// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Controller registers, NVMe 1.4 section 3.1: where they are, and their bits.

use bitfield_struct::bitfield;

/// A register by its name. The doorbells are found by [`Doorbell::at`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the specification's")]
pub enum Register {
    Cap,
    Vs,
    Cc,
    Csts,
    Aqa,
    Asq,
    Acq,
}

impl Register {
    /// The register that the dword at `offset` belongs to, and which half of it.
    #[must_use]
    pub const fn at(offset: u64) -> Option<(Self, Half)> {
        Some(match offset {
            0x00 => (Self::Cap, Half::Low),
            0x04 => (Self::Cap, Half::High),
            0x08 => (Self::Vs, Half::Low),
            0x14 => (Self::Cc, Half::Low),
            0x1c => (Self::Csts, Half::Low),
            0x24 => (Self::Aqa, Half::Low),
            0x28 => (Self::Asq, Half::Low),
            0x2c => (Self::Asq, Half::High),
            0x30 => (Self::Acq, Half::Low),
            0x34 => (Self::Acq, Half::High),
            _ => return None,
        })
    }
}

/// Which dword of a 64-bit register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// Bits 31:0.
    Low,
    /// Bits 63:32.
    High,
}

/// Where the doorbells begin.
pub const DOORBELLS: u64 = 0x1000;

/// A doorbell, section 3.1.24 and following, with `CAP.DSTRD` 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doorbell {
    /// `SQyTDBL`: a Submission Queue's tail.
    SubmissionTail(u16),
    /// `CQyHDBL`: a Completion Queue's head.
    CompletionHead(u16),
}

impl Doorbell {
    /// The doorbell at `offset` of the register space.
    #[must_use]
    pub fn at(offset: u64) -> Option<Self> {
        let index = offset.checked_sub(DOORBELLS)?;
        let queue = u16::try_from(index / 8).ok()?;
        match index % 8 {
            0 => Some(Self::SubmissionTail(queue)),
            4 => Some(Self::CompletionHead(queue)),
            _ => None,
        }
    }

    /// Where it is, from the first doorbell on: the same in the register space and in the host's memory.
    #[must_use]
    pub const fn offset(self) -> u64 {
        match self {
            Self::SubmissionTail(queue) => queue as u64 * 8,
            Self::CompletionHead(queue) => queue as u64 * 8 + 4,
        }
    }
}

/// `CAP`: controller capabilities.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Cap {
    pub mqes: u16,
    pub cqr: bool,
    #[bits(2)]
    pub ams: u8,
    #[bits(5)]
    __: u8,
    pub to: u8,
    #[bits(4)]
    pub dstrd: u8,
    pub nssrs: bool,
    pub css: u8,
    pub bps: bool,
    #[bits(2)]
    __: u8,
    #[bits(4)]
    pub mpsmin: u8,
    #[bits(4)]
    pub mpsmax: u8,
    __: u8,
}

/// `VS`: 1.4.0.
pub const VERSION: u32 = 0x0001_0400;

/// `CC`: controller configuration.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Cc {
    pub en: bool,
    #[bits(3)]
    __: u8,
    #[bits(3)]
    pub css: u8,
    #[bits(4)]
    pub mps: u8,
    #[bits(3)]
    pub ams: u8,
    #[bits(2)]
    pub shn: u8,
    #[bits(4)]
    pub iosqes: u8,
    #[bits(4)]
    pub iocqes: u8,
    __: u8,
}

/// `CSTS`: controller status.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Csts {
    pub rdy: bool,
    pub cfs: bool,
    #[bits(2)]
    pub shst: u8,
    pub nssro: bool,
    pub pp: bool,
    #[bits(26)]
    __: u32,
}

/// `CSTS.SHST`: shutdown is going on.
pub const SHST_OCCURRING: u8 = 1;
/// `CSTS.SHST`: shutdown is complete.
pub const SHST_COMPLETE: u8 = 2;

/// `AQA`: sizes of the admin queues, 0's based.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Aqa {
    #[bits(12)]
    pub asqs: u16,
    #[bits(4)]
    __: u8,
    #[bits(12)]
    pub acqs: u16,
    #[bits(4)]
    __: u8,
}
