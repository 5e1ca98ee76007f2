// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Errors between processes, by cause.
//!
//! The host failed ([`Error::Io`], [`Error::Timeout`]); the peer is gone ([`Error::PeerGone`]); or the peer broke the
//! contract ([`Error::Violation`]): the channel is closed, the receiver goes on, the coordinator decides what becomes
//! of the peer. What a guest does wrong is none of these: device models answer it as hardware does.

use thiserror::Error as ThisError;

use crate::frame::Kind;

/// The call that sends a message, named as in its manual page. A message is sent whole or not at all.
pub(crate) const SEND: &str = "send";

/// Why a call on a channel or on shared memory failed.
#[derive(Debug, ThisError)]
pub enum Error {
    /// The kernel refused a call.
    #[error("{call} failed: {source}")]
    Io {
        /// The call, named as in its manual page.
        call: &'static str,
        /// Its error number.
        source: std::io::Error,
    },
    /// The deadline passed. The request may or may not have been executed.
    #[error("deadline passed while waiting to {waiting_to}")]
    Timeout {
        /// What was waited for.
        waiting_to: &'static str,
    },
    /// The peer closed its end or died. An open request may or may not have been executed: callers of requests that are
    /// not idempotent must handle both.
    #[error("peer of generation {generation} is gone")]
    PeerGone {
        /// The generation of the peer.
        generation: u32,
    },
    /// The peer broke the contract; the channel is closed.
    #[error("peer broke the contract: {0}")]
    Violation(#[from] Violation),
    /// The protocol does not allow the message: it was not sent or, if received, not accepted.
    #[error("not allowed by the protocol: {0}")]
    Refused(&'static str),
}

impl Error {
    /// The host's error, if it is that a message could not be sent: the peer has received nothing, and the channel is
    /// intact. Another process can be the cause: the kernel limits descriptors in flight per user.
    pub fn unsent(&self) -> Option<&std::io::Error> {
        match self {
            Self::Io { call: SEND, source } => Some(source),
            _ => None,
        }
    }

    /// Wraps the error number of `call`.
    pub(crate) fn io(call: &'static str, errno: rustix::io::Errno) -> Self {
        Self::Io { call, source: errno.into() }
    }
}

/// Which rule a peer broke, and where it was noticed.
#[derive(Clone, Debug, PartialEq, Eq, ThisError)]
#[error("{place}: {breach}")]
pub struct Violation {
    /// The channel or the shared structure.
    pub place: &'static str,
    /// The rule.
    pub breach: Breach,
}

impl Violation {
    /// A breach noticed at `place`.
    #[must_use]
    pub const fn new(place: &'static str, breach: Breach) -> Self {
        Self { place, breach }
    }
}

/// The rules a peer can break.
#[derive(Clone, Debug, PartialEq, Eq, ThisError)]
#[non_exhaustive]
pub enum Breach {
    /// Fewer bytes than a frame header.
    #[error("message of {len:#x} bytes is shorter than a header")]
    HeaderShort {
        /// Bytes received.
        len: usize,
    },
    /// Not one of our frames.
    #[error("magic is {magic:#x}")]
    Magic {
        /// The word found.
        magic: u32,
    },
    /// Another protocol than the one this channel is for.
    #[error("protocol {found:#x} on a channel for {expected:#x}")]
    Protocol {
        /// The number found.
        found: u16,
        /// If the channel fails.
        expected: u16,
    },
    /// Another version of the protocol.
    #[error("protocol version {found:#x}, not {expected:#x}")]
    Version {
        /// The version found.
        found: u16,
        /// If the channel fails.
        expected: u16,
    },
    /// A kind of frame that does not exist.
    #[error("frame kind {kind:#x} does not exist")]
    UnknownKind {
        /// The byte found.
        kind: u8,
    },
    /// A kind of frame that this end does not receive, or not at this point.
    #[error("unexpected frame of kind {kind:?}")]
    UnexpectedKind {
        /// The kind found.
        kind: Kind,
    },
    /// A reserved field is not zero.
    #[error("reserved field is {value:#x}")]
    Reserved {
        /// The value found.
        value: u32,
    },
    /// A frame of another generation of the peer.
    #[error("frame of generation {found:#x}, not {expected:#x}")]
    Generation {
        /// The generation found.
        found: u32,
        /// If the channel fails.
        expected: u32,
    },
    /// A body above the cap.
    #[error("body of {len:#x} bytes is above the cap of {max:#x}")]
    BodyLong {
        /// The length the header claims.
        len: u32,
        /// The cap.
        max: u32,
    },
    /// The header's length is not the one received.
    #[error("header announces {claimed:#x} bytes of body, {found:#x} were received")]
    BodyLength {
        /// What the header says.
        claimed: u32,
        /// What the kernel delivered.
        found: usize,
    },
    /// The message was longer than any message may be.
    #[error("message was truncated by the kernel")]
    Truncated,
    /// More descriptors, or other ancillary data, than any message may carry.
    #[error("ancillary data was truncated by the kernel")]
    AncillaryTruncated,
    /// The number of descriptors received is not the one in the header.
    #[error("header announces {claimed} descriptors, {found} were received")]
    FdCount {
        /// What the header says.
        claimed: u8,
        /// How many were received.
        found: usize,
    },
    /// The number of descriptors is not that of this message's type.
    #[error("message carries {found} descriptors, its type has {expected}")]
    FdContract {
        /// What the header says.
        found: u8,
        /// What the message's type says.
        expected: u8,
    },
    /// The body does not decode.
    #[error("body does not decode")]
    Body,
    /// Bytes behind the decoded body.
    #[error("{len:#x} bytes follow the body")]
    TrailingBytes {
        /// How many.
        len: usize,
    },
    /// A reply to a request that was never made, or was answered before.
    #[error("reply to request {request_id:#x}, which is not open")]
    UnknownRequest {
        /// The id found.
        request_id: u64,
    },
    /// More events or late replies than a well-behaved peer produces.
    #[error("peer floods: more than {max} messages are queued")]
    Flood {
        /// The bound.
        max: usize,
    },
    /// The peer's hello is not the expected one.
    #[error("peer says it is {found}, not {expected}")]
    Hello {
        /// What it says.
        found: String,
        /// What it should say.
        expected: String,
    },
    /// A received memory object is not sealed: its owner could shrink it, and an access of ours would fault.
    #[error("memory object has seals {found:#x}, needs {needed:#x}")]
    Seals {
        /// The seals found.
        found: u32,
        /// The seals it must have.
        needed: u32,
    },
    /// A received memory object has another size.
    #[error("memory object has {found:#x} bytes, not {expected:#x}")]
    RegionLength {
        /// The size found.
        found: u64,
        /// The size agreed.
        expected: u64,
    },
    /// A shared structure's header is not what was agreed.
    #[error("shared structure's {field} is {found:#x}")]
    Layout {
        /// Name of the header's field.
        field: &'static str,
        /// Its value.
        found: u64,
    },
    /// A ring index is out of range.
    #[error("ring index {index:#x} is outside {low:#x}..={high:#x}")]
    RingIndex {
        /// The value found.
        index: u64,
        /// The lowest it can be.
        low: u64,
        /// The highest it can be.
        high: u64,
    },
    /// A ring slot holds an invalid request.
    #[error("invalid ring request: {field} is {found:#x}")]
    RingRequest {
        /// Name of the slot's field.
        field: &'static str,
        /// Its value.
        found: u64,
    },
}
