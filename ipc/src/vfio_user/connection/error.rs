// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Why a call on a connection failed: whether it has ended with that, or the next call may be made.

use thiserror::Error;

use crate::vfio_user::Malformed;
use crate::vfio_user::header::Command;

/// Why a call on a connection failed.
#[derive(Clone, Debug, Error)]
pub enum ConnectionError {
    /// The kernel refused a call; the connection is closed.
    #[error("vfio-user {call} failed: {errno}")]
    Io {
        /// The call, named as in its manual page.
        call: &'static str,
        /// Its error number.
        errno: rustix::io::Errno,
    },
    /// The deadline passed. A request may or may not have been executed.
    #[error("vfio-user: deadline passed while waiting to {waiting_to}")]
    Timeout {
        /// What was waited for.
        waiting_to: &'static str,
    },
    /// The peer closed the connection, or this end did.
    #[error("the vfio-user connection is closed")]
    Closed,
    /// The peer broke the framing; the connection is closed.
    #[error("the vfio-user peer broke the protocol: {0}")]
    Violation(Malformed),
    /// The peer answered that the request failed; the connection lives.
    #[error("the vfio-user peer failed {command:?} with error number {errno}")]
    Remote {
        /// What was asked.
        command: Command,
        /// Its error number; 0 if it gave none.
        errno: u32,
    },
    /// Nothing was sent: the protocol does not allow the message.
    #[error("vfio-user message not sent: {0}")]
    Refused(&'static str),
}

impl From<Malformed> for ConnectionError {
    fn from(malformed: Malformed) -> Self {
        Self::Violation(malformed)
    }
}
