// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Widths of a register access: which parts of a 64-bit register a 32- or 64-bit access touches.
//!
//! An access that the architecture does not allow (wrong size, not aligned) is an `Err(Refused)`;
//! the frame then reads as zero, ignores the write and counts it (IHI 0069 §12.1.3 leaves the choice).

/// The access has a size or an alignment that the register does not support.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

/// One guest access within a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Byte offset in the frame.
    pub offset: u64,
    /// Bytes: 1, 2, 4 or 8.
    pub size: u8,
}

impl Access {
    /// An access of a legal size at a multiple of it.
    pub fn new(offset: u64, size: u8) -> Result<Self, Refused> {
        let aligned = matches!(size, 1 | 2 | 4 | 8) && offset.is_multiple_of(u64::from(size));
        if aligned { Ok(Self { offset, size }) } else { Err(Refused) }
    }

    /// Refuses everything but a 32-bit access.
    pub fn only_word(self) -> Result<(), Refused> {
        if self.size == 4 { Ok(()) } else { Err(Refused) }
    }

    /// Offset of the 64-bit register that this access falls into.
    pub fn qw_offset(self) -> u64 {
        self.offset & !7
    }

    /// What the access reads of the 64-bit register around it.
    pub fn read_qw(self, register: u64) -> Result<u64, Refused> {
        match (self.offset & 7, self.size) {
            (_, 8) => Ok(register),
            (0, 4) => Ok(register & 0xffff_ffff),
            (4, 4) => Ok(register >> 32),
            _ => Err(Refused),
        }
    }

    /// The 64-bit register after the access has written `value` to its part of it.
    pub fn merge_qw(self, register: u64, value: u64) -> Result<u64, Refused> {
        match (self.offset & 7, self.size) {
            (_, 8) => Ok(value),
            (0, 4) => Ok((register & !0xffff_ffff) | (value & 0xffff_ffff)),
            (4, 4) => Ok((register & 0xffff_ffff) | (value << 32)),
            _ => Err(Refused),
        }
    }
}
