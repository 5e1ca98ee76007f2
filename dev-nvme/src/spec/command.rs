// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Submission Queue entries, NVMe 1.4 section 4.2, and the opcodes that this controller knows (5 and 6).

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// A command, as it stands in a queue.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Command {
    /// What to do.
    pub opcode: u8,
    /// `FUSE` in bits 1:0, `PSDT` in bits 7:6.
    pub flags: u8,
    /// The host's name for it.
    pub cid: U16,
    /// The namespace.
    pub nsid: U32,
    /// Dword 2.
    pub cdw2: U32,
    /// Dword 3.
    pub cdw3: U32,
    /// Metadata pointer: this controller has no metadata.
    pub mptr: U64,
    /// The first PRP entry.
    pub prp1: U64,
    /// The second PRP entry, or a pointer to a list of them.
    pub prp2: U64,
    /// Dword 10.
    pub cdw10: U32,
    /// Dword 11.
    pub cdw11: U32,
    /// Dword 12.
    pub cdw12: U32,
    /// Dword 13.
    pub cdw13: U32,
    /// Dword 14.
    pub cdw14: U32,
    /// Dword 15.
    pub cdw15: U32,
}

/// The length of a command.
pub const COMMAND_LEN: usize = 64;

const _: () = assert!(size_of::<Command>() == COMMAND_LEN);

impl Command {
    /// Whether it is one half of a fused operation, or brings its data by other means than PRPs: neither is offered.
    #[must_use]
    pub const fn uses_what_is_not_offered(&self) -> bool {
        self.flags & 0b1100_0011 != 0
    }

    /// `CDW10` and `CDW11` of an I/O command: the first block.
    #[must_use]
    pub fn slba(&self) -> u64 {
        u64::from(self.cdw11.get()) << 32 | u64::from(self.cdw10.get())
    }

    /// `CDW12` bits 15:0 of an I/O command, 0's based: how many blocks.
    #[must_use]
    pub fn block_count(&self) -> u32 {
        (self.cdw12.get() & 0xffff) + 1
    }

    /// `CDW12` bit 30: the data is on the medium before the command completes.
    #[must_use]
    pub fn force_unit_access(&self) -> bool {
        self.cdw12.get() & 1 << 30 != 0
    }

    /// `CDW12` bit 25 of Write Zeroes: the blocks may be deallocated.
    #[must_use]
    pub fn deallocate(&self) -> bool {
        self.cdw12.get() & 1 << 25 != 0
    }

    /// `CDW11` bit 2 of Dataset Management: the ranges may be deallocated.
    #[must_use]
    pub fn discards(&self) -> bool {
        self.cdw11.get() & 1 << 2 != 0
    }

    /// Whether an I/O command may change what the namespace holds.
    #[must_use]
    pub fn changes_blocks(&self) -> bool {
        match self.opcode {
            io::WRITE | io::WRITE_ZEROES => true,
            io::DATASET_MANAGEMENT => self.discards(),
            _ => false,
        }
    }
}

/// Admin opcodes.
#[expect(missing_docs, reason = "the names are the specification's")]
pub mod admin {
    pub const DELETE_IO_SQ: u8 = 0x00;
    pub const CREATE_IO_SQ: u8 = 0x01;
    pub const GET_LOG_PAGE: u8 = 0x02;
    pub const DELETE_IO_CQ: u8 = 0x04;
    pub const CREATE_IO_CQ: u8 = 0x05;
    pub const IDENTIFY: u8 = 0x06;
    pub const ABORT: u8 = 0x08;
    pub const SET_FEATURES: u8 = 0x09;
    pub const GET_FEATURES: u8 = 0x0a;
    pub const ASYNC_EVENT_REQUEST: u8 = 0x0c;
    pub const DOORBELL_BUFFER_CONFIG: u8 = 0x7c;
}

/// NVM command set opcodes.
#[expect(missing_docs, reason = "the names are the specification's")]
pub mod io {
    pub const FLUSH: u8 = 0x00;
    pub const WRITE: u8 = 0x01;
    pub const READ: u8 = 0x02;
    pub const COMPARE: u8 = 0x05;
    pub const WRITE_ZEROES: u8 = 0x08;
    pub const DATASET_MANAGEMENT: u8 = 0x09;
}

/// A range of a Dataset Management command, section 6.7.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct DatasetRange {
    /// Hints.
    pub attributes: U32,
    /// How many blocks.
    pub block_count: U32,
    /// The first one.
    pub slba: U64,
}

const _: () = assert!(size_of::<DatasetRange>() == 16);

/// The namespace identifier that stands for all of them.
pub const NSID_ALL: u32 = u32::MAX;
