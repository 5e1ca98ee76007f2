// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Control channels: typed, bounded messages over one seqpacket socket pair.
//!
//! [`Channel`] blocks and is for the small processes; [`AsyncChannel`] (feature `tokio`) is the
//! coordinator's end. Both keep the same rules: greet first; a header is checked before a body is looked at;
//! a body must decode to its last byte; the number of fds is the message's own. A peer that breaks one is a
//! [`Violation`](crate::error::Violation): the socket is shut down, and that is what every later call answers.

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

/// The most requests that may be unanswered after their deadline before nothing more is asked. A peer that
/// far behind is as good as dead; the bound keeps the books small.
pub const LATE_MAX: usize = 64;

/// The most events that may wait to be read. Events are rare (a guest's reset, a seal report): a peer that
/// has sent this many is flooding.
pub const EVENTS_MAX: usize = 64;

/// The two ends of a new channel, close-on-exec and non-blocking: an event loop may watch them. No call on them depends
/// on it, each says for itself that it does not wait.
///
/// # Errors
/// If the kernel has no socket pair to give.
pub fn pair() -> Result<(OwnedFd, OwnedFd), Error> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
        .map_err(|errno| Error::io("socketpair", errno))
}

#[cfg(test)]
mod tests;
