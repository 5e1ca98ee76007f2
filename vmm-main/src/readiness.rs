// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Waiting, on the async runtime, for descriptors that the runtime has no type of its own for: pidfds and
//! seqpacket sockets.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers `fd` with the runtime that this is called in.
#[expect(
    deprecated,
    reason = "the runtime's newer constructor is unsafe because a type might change its number; an `OwnedFd` never does"
)]
pub fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, interest)
}
