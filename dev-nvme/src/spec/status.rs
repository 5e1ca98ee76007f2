// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Status of a command, NVMe 1.4 section 4.6.1.

/// A status: Status Code Type and Status Code, with the `DNR` bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(u16);

/// "Do not retry": the same command would fail again.
const DNR: u16 = 1 << 14;

impl Status {
    /// Done.
    pub const SUCCESS: Self = Self(0);
    /// No such command.
    pub const INVALID_OPCODE: Self = Self::generic(0x01);
    /// A field has a value that is not defined or not offered.
    pub const INVALID_FIELD: Self = Self::generic(0x02);
    /// The command's data could not be moved.
    pub const DATA_TRANSFER_ERROR: Self = Self(0x04);
    /// The controller itself failed.
    pub const INTERNAL_ERROR: Self = Self(0x06);
    /// An Abort command ended it.
    pub const ABORT_REQUESTED: Self = Self(0x07);
    /// No such namespace.
    pub const INVALID_NAMESPACE: Self = Self::generic(0x0b);
    /// It cannot come now.
    pub const COMMAND_SEQUENCE_ERROR: Self = Self::generic(0x0c);
    /// A PRP entry is not aligned as it must be.
    pub const PRP_OFFSET_INVALID: Self = Self::generic(0x13);
    /// The namespace takes no writes.
    pub const NAMESPACE_WRITE_PROTECTED: Self = Self::generic(0x20);
    /// Beyond the namespace's last block.
    pub const LBA_OUT_OF_RANGE: Self = Self::generic(0x80);
    /// The image has no room left on its file system.
    pub const CAPACITY_EXCEEDED: Self = Self(0x81);

    /// The Completion Queue does not exist.
    pub const COMPLETION_QUEUE_INVALID: Self = Self::specific(0x00);
    /// The queue identifier cannot be, or is taken, or is not there.
    pub const INVALID_QUEUE_ID: Self = Self::specific(0x01);
    /// The queue's size cannot be.
    pub const INVALID_QUEUE_SIZE: Self = Self::specific(0x02);
    /// Too many Asynchronous Event Requests.
    pub const ASYNC_LIMIT: Self = Self::specific(0x05);
    /// No such interrupt vector.
    pub const INVALID_VECTOR: Self = Self::specific(0x08);
    /// No such log page.
    pub const INVALID_LOG_PAGE: Self = Self::specific(0x09);
    /// A Submission Queue still uses it.
    pub const INVALID_QUEUE_DELETION: Self = Self::specific(0x0c);
    /// The feature cannot be saved.
    pub const FEATURE_NOT_SAVEABLE: Self = Self::specific(0x0d);

    /// The image could not be written.
    pub const WRITE_FAULT: Self = Self::media(0x80);
    /// The image could not be read.
    pub const UNRECOVERED_READ_ERROR: Self = Self::media(0x81);
    /// Not the same data.
    pub const COMPARE_FAILURE: Self = Self::media(0x85);

    const fn generic(code: u16) -> Self {
        Self(code | DNR)
    }

    const fn specific(code: u16) -> Self {
        Self(0x100 | code | DNR)
    }

    const fn media(code: u16) -> Self {
        Self(0x200 | code)
    }

    /// The status as it was saved.
    #[must_use]
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits & 0x7fff)
    }

    /// Bits 15:1 of the completion's status field, from bit 0 on.
    #[must_use]
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// The completion's status field, with the phase tag.
    #[must_use]
    pub const fn with_phase(self, phase: bool) -> u16 {
        (self.0 << 1) | phase as u16
    }

    /// Whether it is success.
    #[must_use]
    pub const fn is_success(self) -> bool {
        self.0 == 0
    }
}
