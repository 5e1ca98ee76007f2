// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Bytes and fds through the socket, waiting until a deadline.
//!
//! The socket may be blocking: every call passes `MSG_DONTWAIT`. Received descriptors are owned before anything can
//! fail.

use core::mem::MaybeUninit;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

use super::{ConnectionError, Reassembly};
use crate::deadline::Deadline;
use crate::shm::transcript::{Heard, Received};
use crate::vfio_user::header::HEADER_LEN;
use crate::vfio_user::{FDS_MAX, Malformed};

/// How much is read at once: many small commands, or a part of a large one.
const PIECE_LEN: usize = 64 << 10;

/// The buffers of the reading thread, passed from one to the next.
pub struct Reader {
    pub reassembly: Reassembly,
    piece: Box<[u8]>,
}

impl Reader {
    pub fn new() -> Self {
        Self { reassembly: Reassembly::default(), piece: vec![0; PIECE_LEN].into_boxed_slice() }
    }
}

/// Why sending failed, and whether a part of the message was sent.
pub enum SendFailed {
    /// Nothing was sent.
    Untouched(ConnectionError),
    /// A part of the message was sent.
    Torn(ConnectionError),
}

/// Sends a whole message.
pub fn send(
    socket: BorrowedFd<'_>,
    header: &[u8; HEADER_LEN],
    parts: &[&[u8]],
    fds: &[BorrowedFd<'_>],
    deadline: Deadline,
) -> Result<(), SendFailed> {
    let total = HEADER_LEN + parts.iter().map(|part| part.len()).sum::<usize>();
    let mut sent = 0;
    while sent < total {
        let failed = |error| if sent == 0 { SendFailed::Untouched(error) } else { SendFailed::Torn(error) };
        let mut slices = Vec::with_capacity(parts.len() + 1);
        let mut skip = sent;
        for part in core::iter::once(header.as_slice()).chain(parts.iter().copied()) {
            slices.push(IoSlice::new(part.get(skip..).unwrap_or_default()));
            skip = skip.saturating_sub(part.len());
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if sent == 0 && !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(failed(ConnectionError::Refused("fds that do not fit a message")));
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match rustix::net::sendmsg(socket, &slices, &mut ancillary, flags) {
            Ok(count) => sent += count,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait(socket, PollFlags::OUT, deadline, "send").map_err(failed)?,
            Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => {
                return Err(SendFailed::Torn(ConnectionError::Closed));
            }
            Err(errno) => return Err(SendFailed::Torn(ConnectionError::Io { call: "sendmsg", errno })),
        }
    }
    Ok(())
}

/// Appends a piece of the stream, if one is there. It is kept in `kept`, if that is there, where everything before the
/// position beside it is done with.
pub fn receive(
    socket: BorrowedFd<'_>,
    reader: &mut Reader,
    mut kept: Option<(&mut Heard, u64)>,
) -> Result<bool, ConnectionError> {
    let Reader { reassembly, piece } = reader;
    loop {
        let received = match &mut kept {
            None => receive_piece(socket, piece),
            Some((heard, floor)) => heard.receive(socket, *floor, piece),
        };
        match received {
            Ok(Received { len: 0, .. }) => return Err(ConnectionError::Closed),
            Ok(Received { fds, is_truncated: true, .. }) => {
                return Err(Malformed::new("stream", "ancillary data was truncated", fds.len()).into());
            }
            Ok(Received { len, fds, .. }) => {
                reassembly.push(piece.get(..len).unwrap_or_default(), fds)?;
                return Ok(true);
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(false),
            Err(Errno::CONNRESET | Errno::NOTCONN) => return Err(ConnectionError::Closed),
            Err(Errno::NOBUFS) if kept.is_some() => {
                return Err(
                    Malformed::new("stream", "commands come faster than they are answered", 0_u64).into()
                );
            }
            Err(errno) => return Err(ConnectionError::Io { call: "recvmsg", errno }),
        }
    }
}

/// A piece that is kept nowhere.
fn receive_piece(socket: BorrowedFd<'_>, piece: &mut [u8]) -> Result<Received, Errno> {
    // Room for one fd more than any message has: a surplus is seen, and closed with the vector.
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX + 1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = rustix::net::recvmsg(socket, &mut [IoSliceMut::new(piece)], &mut ancillary, flags)?;
    let is_truncated = received.flags.contains(ReturnFlags::CTRUNC);
    Ok(Received { len: received.bytes, fds: owned(&mut ancillary), is_truncated })
}

/// Waits until there is a piece of the stream.
pub fn wait_readable(socket: BorrowedFd<'_>, deadline: Deadline) -> Result<(), ConnectionError> {
    // A deadline of now: the socket was found empty before.
    if deadline.has_passed() {
        return Err(ConnectionError::Timeout { waiting_to: "receive" });
    }
    wait(socket, PollFlags::IN, deadline, "receive")
}

fn owned(ancillary: &mut RecvAncillaryBuffer<'_>) -> Vec<OwnedFd> {
    let mut fds = Vec::new();
    for part in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = part {
            fds.extend(rights);
        }
    }
    fds
}

pub(super) fn wait(
    socket: BorrowedFd<'_>,
    flags: PollFlags,
    deadline: Deadline,
    waiting_to: &'static str,
) -> Result<(), ConnectionError> {
    let mut polled = [PollFd::from_borrowed_fd(socket, flags)];
    match rustix::event::poll(&mut polled, Some(&deadline.timespec())) {
        Ok(0) => Err(ConnectionError::Timeout { waiting_to }),
        // Readable or failed; the next call finds out.
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(ConnectionError::Io { call: "poll", errno }),
    }
}
