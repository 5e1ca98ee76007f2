// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What both kinds of channel share: sending and receiving one frame, and the state of the link.
//!
//! Nothing here blocks: a full or empty socket is [`Attempt::WouldBlock`], and the caller waits. Frames are received
//! into one buffer of the largest message's size; no length that a peer sends is used to allocate or to slice. Received
//! descriptors are owned before anything can fail, so none leaks.

use core::marker::PhantomData;
use core::mem::MaybeUninit;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Breach, Error, SEND, Violation};
use crate::frame::{self, BODY_LEN_MAX, FDS_MAX, HEADER_LEN, Header, Kind};
use crate::hello::{Hello, Role};
use crate::protocol::{Message, Protocol};

const MESSAGE_LEN_MAX: usize = HEADER_LEN + BODY_LEN_MAX as usize;

/// A buffer for the largest message.
pub(super) fn buffer() -> Box<[u8]> {
    vec![0; MESSAGE_LEN_MAX].into_boxed_slice()
}

/// The outcome of a call that does not block.
pub(super) enum Attempt<T> {
    Done(T),
    WouldBlock,
}

/// Why a link has ended; returned by every later call.
#[derive(Clone, Debug)]
enum Fate {
    PeerGone,
    Violation(Violation),
}

/// A received message: its length in the buffer, and its descriptors.
pub(super) struct Raw {
    len: usize,
    fds: Vec<OwnedFd>,
}

/// A frame whose header is checked and whose body is not decoded yet.
pub(super) struct Received<'a> {
    pub(super) header: Header,
    pub(super) body: &'a [u8],
    pub(super) fds: Vec<OwnedFd>,
}

/// One end of a socket pair that speaks `P`.
pub(super) struct Link<P> {
    local: Hello,
    fate: OnceLock<Fate>,
    protocol: PhantomData<fn() -> P>,
}

/// An encoded message, header and body in one piece, to be sent again after `WouldBlock`.
pub(super) struct Outgoing(Vec<u8>);

impl<P: Protocol> Link<P> {
    pub(super) fn new(local: Hello) -> Self {
        Self { local, fate: OnceLock::new(), protocol: PhantomData }
    }

    pub(super) fn local(&self) -> &Hello {
        &self.local
    }

    /// The error that every call returns once the link has ended.
    pub(super) fn check_alive(&self) -> Result<(), Error> {
        match self.fate.get() {
            None => Ok(()),
            Some(Fate::PeerGone) => Err(self.gone()),
            Some(Fate::Violation(violation)) => Err(Error::Violation(violation.clone())),
        }
    }

    /// Ends the link because the peer broke the contract.
    pub(super) fn violated(&self, socket: BorrowedFd<'_>, breach: Breach) -> Error {
        self.condemn(socket, Violation::new(P::NAME, breach))
    }

    fn condemn(&self, socket: BorrowedFd<'_>, violation: Violation) -> Error {
        let _ = self.fate.set(Fate::Violation(violation.clone()));
        // Tells the peer that the channel is closed; fails only if the socket is closed already.
        let _ = rustix::net::shutdown(socket, Shutdown::Both);
        Error::Violation(violation)
    }

    fn gone(&self) -> Error {
        let _ = self.fate.set(Fate::PeerGone);
        Error::PeerGone { generation: self.local.generation }
    }

    pub(super) fn encode<T: Message>(
        &self,
        kind: Kind,
        request_id: u64,
        body: &T,
        fds: usize,
    ) -> Result<Outgoing, Error> {
        if fds != usize::from(body.fd_count()) {
            return Err(Error::Refused("the number of descriptors is not that of the message's type"));
        }
        self.encode_body(kind, request_id, body, body.fd_count())
    }

    pub(super) fn encode_hello(&self) -> Result<Outgoing, Error> {
        self.encode_body(Kind::Hello, 0, &self.local, 0)
    }

    fn encode_body<T: Serialize>(
        &self,
        kind: Kind,
        request_id: u64,
        body: &T,
        fd_count: u8,
    ) -> Result<Outgoing, Error> {
        self.check_alive()?;
        let mut frame = postcard::to_extend(body, vec![0; HEADER_LEN])
            .map_err(|_| Error::Refused("the message's body cannot be encoded"))?;
        let body_len = frame.len().checked_sub(HEADER_LEN).and_then(|len| u32::try_from(len).ok());
        let body_len = body_len.filter(|len| *len <= BODY_LEN_MAX);
        let body_len = body_len.ok_or(Error::Refused("the message's body is longer than BODY_LEN_MAX"))?;
        let (protocol, version, generation) = (P::ID, P::VERSION, self.local.generation);
        let header = Header { protocol, version, request_id, generation, kind, fd_count, body_len };
        if let Some(place) = frame.first_chunk_mut() {
            *place = header.to_bytes();
        }
        Ok(Outgoing(frame))
    }

    /// Sends one frame, if the socket takes it now. A frame without descriptors is sent by `send`, which cannot carry
    /// any, so that the seccomp profile of a process that passes none need not allow `sendmsg`.
    pub(super) fn send(
        &self,
        socket: BorrowedFd<'_>,
        message: &Outgoing,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Attempt<()>, Error> {
        self.check_alive()?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX as usize))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(Error::Refused("more descriptors than any message may carry"));
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        loop {
            let sent = if fds.is_empty() {
                rustix::net::send(socket, &message.0, flags)
            } else {
                rustix::net::sendmsg(socket, &[IoSlice::new(&message.0)], &mut ancillary, flags)
            };
            return match sent {
                // A seqpacket message is sent whole or not at all.
                Ok(_) => Ok(Attempt::Done(())),
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => Ok(Attempt::WouldBlock),
                // Messages it sent before may still be unread: the link ends when they have been received.
                Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => {
                    Err(Error::PeerGone { generation: self.local.generation })
                }
                Err(errno) => Err(Error::io(SEND, errno)),
            };
        }
    }

    /// Receives one frame into `buffer`, if there is one. The caller passes it to [`Link::check`].
    pub(super) fn receive(&self, socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<Attempt<Raw>, Error> {
        self.check_alive()?;
        let mut fds = Vec::new();
        let message = loop {
            // Room for one descriptor more than any message has, so that a surplus is noticed, and closed.
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX as usize + 1))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
            match rustix::net::recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut ancillary, flags) {
                Ok(message) => {
                    for part in ancillary.drain() {
                        if let RecvAncillaryMessage::ScmRights(rights) = part {
                            fds.extend(rights);
                        }
                    }
                    break message;
                }
                // ECONNRESET is reported once if the peer closed its end with messages unread, even while messages of
                // its own are still to be received.
                Err(Errno::INTR | Errno::CONNRESET) => {}
                Err(Errno::AGAIN) => return Ok(Attempt::WouldBlock),
                Err(Errno::NOTCONN) => return Err(self.gone()),
                Err(errno) => return Err(Error::io("recvmsg", errno)),
            }
        };
        if message.bytes == 0 {
            return Err(self.gone());
        }
        if message.flags.contains(ReturnFlags::TRUNC) {
            return Err(self.violated(socket, Breach::Truncated));
        }
        if message.flags.contains(ReturnFlags::CTRUNC) {
            return Err(self.violated(socket, Breach::AncillaryTruncated));
        }
        Ok(Attempt::Done(Raw { len: message.bytes, fds }))
    }

    /// Checks a frame in `buffer`, but not its body.
    pub(super) fn check<'a>(
        &self,
        socket: BorrowedFd<'_>,
        raw: Raw,
        buffer: &'a [u8],
    ) -> Result<Received<'a>, Error> {
        let bytes = buffer.get(..raw.len).unwrap_or_default();
        match self.check_header(bytes, raw.fds.len()) {
            Ok((header, body)) => Ok(Received { header, body, fds: raw.fds }),
            Err(violation) => Err(self.condemn(socket, violation)),
        }
    }

    fn check_header<'a>(&self, bytes: &'a [u8], fds: usize) -> Result<(Header, &'a [u8]), Violation> {
        let (header, body) = frame::decode(bytes)?;
        let breach = if header.protocol != P::ID {
            Breach::Protocol { found: header.protocol, expected: P::ID }
        } else if header.version != P::VERSION {
            Breach::Version { found: header.version, expected: P::VERSION }
        } else if header.kind != Kind::Hello && header.generation != self.local.generation {
            Breach::Generation { found: header.generation, expected: self.local.generation }
        } else if usize::from(header.fd_count) != fds {
            Breach::FdCount { claimed: header.fd_count, found: fds }
        } else {
            return Ok((header, body));
        };
        Err(Violation::new(P::NAME, breach))
    }

    /// Decodes the body of a frame and checks its number of descriptors.
    pub(super) fn decode<T: Message>(
        &self,
        socket: BorrowedFd<'_>,
        received: Received<'_>,
    ) -> Result<(T, Vec<OwnedFd>), Error> {
        let body: T = self.decode_body(socket, received.body)?;
        if body.fd_count() != received.header.fd_count {
            let (found, expected) = (received.header.fd_count, body.fd_count());
            return Err(self.violated(socket, Breach::FdContract { found, expected }));
        }
        Ok((body, received.fds))
    }

    /// Checks the peer's first frame, its hello.
    pub(super) fn greet(
        &self,
        socket: BorrowedFd<'_>,
        received: &Received<'_>,
        peer: Role,
    ) -> Result<(), Error> {
        if received.header.kind != Kind::Hello || received.header.fd_count != 0 {
            return Err(self.violated(socket, Breach::UnexpectedKind { kind: received.header.kind }));
        }
        let hello: Hello = self.decode_body(socket, received.body)?;
        let expected = Hello { role: peer, ..self.local.clone() };
        hello.check(&expected).map_err(|violation| self.condemn(socket, violation))
    }

    fn decode_body<T: DeserializeOwned>(&self, socket: BorrowedFd<'_>, body: &[u8]) -> Result<T, Error> {
        frame::decode_body(P::NAME, body).map_err(|violation| self.condemn(socket, violation))
    }
}

/// Borrows descriptors in the form that the system call takes.
pub(super) fn borrow<F: AsFd>(fds: &[F]) -> Vec<BorrowedFd<'_>> {
    fds.iter().map(AsFd::as_fd).collect()
}
