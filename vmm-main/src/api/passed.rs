// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Descriptors that come along with a request: the files of an identity, which no other process reads than the one that
//! they are for.
//!
//! A client sends them with an empty line ahead of its request (`SCM_RIGHTS`), which HTTP lets it send. Here the first
//! bytes of a connection are looked at without being read, and that line is taken: what serves HTTP knows nothing of
//! it, and its own reading closes what comes later.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// The most that come with a request: an identity. The kernel closes what is more.
pub const PASSED_MAX: usize = 3;
/// An empty line.
const AHEAD: [u8; 2] = *b"\r\n";

/// What came along with a connection's request.
#[derive(Debug, Clone, Default)]
pub struct Passed(Arc<Mutex<Vec<OwnedFd>>>);

impl Passed {
    /// Waits for the first bytes of a request, at most so long, and takes what came with them.
    pub async fn of(stream: &UnixStream, span: Duration) -> Self {
        let look = || {
            let (mut ahead, mut space) =
                ([0; AHEAD.len()], [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PASSED_MAX))]);
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::PEEK | RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
            recvmsg(stream.as_fd(), &mut [IoSliceMut::new(&mut ahead)], &mut ancillary, flags)?;
            let rights = ancillary.drain().filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(rights) => Some(rights),
                _ => None,
            });
            let passed: Vec<OwnedFd> = rights.flatten().collect();
            if !passed.is_empty() && ahead == AHEAD {
                // A read ends where descriptors do, and the runtime takes a short one for the end of what is there.
                let (into, none) = (&mut [IoSliceMut::new(&mut ahead)], &mut RecvAncillaryBuffer::default());
                recvmsg(stream.as_fd(), into, none, RecvFlags::DONTWAIT)?;
            }
            Ok(passed)
        };
        // Whoever says nothing, or is gone, is noticed by whoever serves it.
        let passed = timeout(span, stream.async_io(Interest::READABLE, look)).await;
        Self(Arc::new(Mutex::new(passed.ok().and_then(Result::ok).unwrap_or_default())))
    }

    /// Takes all of it.
    pub fn take(&self) -> Vec<OwnedFd> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Sends these ahead of a request.
///
/// # Errors
/// If the connection is gone, or there are more than [`PASSED_MAX`].
pub async fn pass(stream: &UnixStream, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let send = || {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PASSED_MAX))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let fits =
            descriptors.len() <= PASSED_MAX && ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
        if !fits {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors for a request"));
        }
        let sent = sendmsg(stream.as_fd(), &[IoSlice::new(&AHEAD)], &mut ancillary, SendFlags::NOSIGNAL)?;
        // There is room in the buffer of a new connection.
        if sent == AHEAD.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    };
    stream.async_io(Interest::WRITABLE, send).await
}
