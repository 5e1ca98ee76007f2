// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the child says through its pipe between clone and exec: eight bytes, one record.
//!
//! A pipe writes so few bytes at once or not at all. The parent decodes; an unknown step is `Step::Unknown`, because
//! the child is the caller's own code and need not be distrusted yet, only survived.

use super::Step;

/// Bytes in a record: step, kind, two of padding, a 32-bit value.
pub(super) const RECORD_LEN: usize = 8;

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum RecordKind {
    /// The step failed with this errno.
    Errno = 1,
    /// A seccomp filter of the caller refused this call.
    Denied = 2,
    /// All is done but exec.
    AboutToExec = 3,
}

/// What the child sends through the pipe before exec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) step: Step,
    pub(super) kind: RecordKind,
    pub(super) value: i32,
}

impl Record {
    pub(super) fn encode(self) -> [u8; RECORD_LEN] {
        let [a, b, c, d] = self.value.to_ne_bytes();
        [self.step as u8, self.kind as u8, 0, 0, a, b, c, d]
    }

    pub(super) fn decode(bytes: [u8; RECORD_LEN]) -> Record {
        let [step, kind, _, _, a, b, c, d] = bytes;
        let kind = match kind {
            2 => RecordKind::Denied,
            3 => RecordKind::AboutToExec,
            _ => RecordKind::Errno,
        };
        Record { step: Step::from_number(step), kind, value: i32::from_ne_bytes([a, b, c, d]) }
    }
}

/// The record of a call that the caller's own filter refused; written by the SIGSYS handler, which does not know
/// the step.
pub(crate) fn denied_record(syscall: i32) -> [u8; RECORD_LEN] {
    Record { step: Step::Unknown, kind: RecordKind::Denied, value: syscall }.encode()
}
