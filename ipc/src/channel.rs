// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Control channels: typed, bounded messages over one seqpacket socket pair.
//!
//! [`Channel`] blocks and is for processes of a few threads; [`AsyncChannel`] (feature `tokio`) is the coordinator's
//! end. Both enforce the same rules: each end says hello first; the header is checked before the body is decoded; a
//! body must decode to its last byte; the number of descriptors is that of the message's type. A peer that breaks a
//! rule commits a [`Violation`](crate::error::Violation): the socket is shut down, and every later call returns it.

mod blocking;
mod link;
#[cfg(feature = "tokio")]
mod tokio_end;

pub use blocking::{Channel, Incoming};
#[cfg(feature = "tokio")]
pub use tokio_end::AsyncChannel;

use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::error::Error;

/// The most requests whose deadline has passed and whose reply may still come. Above it no request is sent: the peer
/// does not answer, and the table of late requests stays bounded.
pub const LATE_MAX: usize = 64;

/// The most events that may be queued. Events are rare (a guest's reset, a seal report): a peer that sends more is
/// flooding, which is a violation.
pub const EVENTS_MAX: usize = 64;

/// The two ends of a new channel, close-on-exec, and non-blocking for event loops. Calls on them pass `MSG_DONTWAIT`
/// and do not rely on the flag, which the peer could clear.
///
/// # Errors
/// If the socket pair cannot be created.
pub fn pair() -> Result<(OwnedFd, OwnedFd), Error> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
        .map_err(|errno| Error::io("socketpair", errno))
}

#[cfg(test)]
mod tests;
