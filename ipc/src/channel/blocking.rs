// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The blocking end of a channel, for processes without an async runtime.
//!
//! Any thread may send; one thread at a time receives. A second receiver is refused rather than queued, so that its
//! deadline does not depend on the first one's. System calls: `sendmsg`, `recvmsg`, `poll` (`ppoll` on arm64), and
//! `shutdown` after a violation.

use core::sync::atomic::{AtomicU64, Ordering};
use std::collections::{BTreeSet, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, TryLockError};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use super::link::{self, Attempt, Link, Outgoing, Received};
use super::{EVENTS_MAX, LATE_MAX};
use crate::deadline::Deadline;
use crate::error::{Breach, Error};
use crate::frame::Kind;
use crate::hello::{Hello, Role};
use crate::protocol::Protocol;
use crate::protocol::control::Control;

/// A message that is no reply.
#[derive(Debug)]
pub enum Incoming<P: Protocol = Control> {
    /// A request: to be answered with [`Channel::reply`] and the same id.
    Request {
        /// The request's id.
        request_id: u64,
        /// The request.
        body: P::Request,
        /// Its descriptors: as many as the body's `fd_count`.
        fds: Vec<OwnedFd>,
    },
    /// A message that is not answered.
    Event {
        /// The event.
        body: P::Event,
        /// Its descriptors: as many as the body's `fd_count`.
        fds: Vec<OwnedFd>,
    },
}

/// A blocking end of a channel that speaks `P`.
pub struct Channel<P: Protocol = Control> {
    socket: OwnedFd,
    link: Link<P>,
    request_id: AtomicU64,
    inbox: Mutex<Inbox<P>>,
}

struct Inbox<P: Protocol> {
    buffer: Box<[u8]>,
    /// Requests and events received while a reply was awaited.
    waiting: VecDeque<Incoming<P>>,
    /// Requests whose deadline has passed. Their replies are dropped.
    late: BTreeSet<u64>,
}

/// A received frame.
enum Arrival<P: Protocol> {
    Incoming(Incoming<P>),
    Reply(u64, P::Reply, Vec<OwnedFd>),
}

impl<P: Protocol> Channel<P> {
    /// An end over `socket`, which identifies itself as `local`. [`Channel::hello`] must be the first call.
    #[must_use]
    pub fn from_fd(socket: OwnedFd, local: Hello) -> Self {
        let inbox = Inbox { buffer: link::buffer(), waiting: VecDeque::new(), late: BTreeSet::new() };
        Self { socket, link: Link::new(local), request_id: AtomicU64::new(1), inbox: Mutex::new(inbox) }
    }

    /// Exchanges hello, and checks that the peer is a process of role `peer`, of the same build and generation. Both
    /// ends call this first.
    ///
    /// # Errors
    /// A violation if the peer's hello differs; a timeout if none comes.
    pub fn hello(&self, peer: Role, deadline: Deadline) -> Result<(), Error> {
        let mut inbox = self.lock()?;
        self.send(&self.link.encode_hello()?, &[], deadline)?;
        let received = self.receive(&mut inbox.buffer, deadline, "receive the peer's hello")?;
        self.link.greet(self.socket(), &received, peer)
    }

    /// Waits for the next request or event.
    ///
    /// # Errors
    /// A timeout if none comes; else the peer is gone or has broken the contract, and the channel is closed.
    pub fn recv(&self, deadline: Deadline) -> Result<Incoming<P>, Error> {
        let mut inbox = self.lock()?;
        if let Some(incoming) = inbox.waiting.pop_front() {
            return Ok(incoming);
        }
        loop {
            if let Arrival::Incoming(incoming) = self.arrival(&mut inbox, None, deadline)? {
                return Ok(incoming);
            }
        }
    }

    /// Answers a request.
    ///
    /// # Errors
    /// `Refused` if the number of descriptors is not that of the message's type; a timeout if the peer does not read.
    pub fn reply<F: AsFd>(
        &self,
        request_id: u64,
        body: &P::Reply,
        fds: &[F],
        deadline: Deadline,
    ) -> Result<(), Error> {
        let message = self.link.encode(Kind::Reply, request_id, body, fds.len())?;
        self.send(&message, &link::borrow(fds), deadline)
    }

    /// Sends an event.
    ///
    /// # Errors
    /// As for [`Channel::reply`].
    pub fn event<F: AsFd>(&self, body: &P::Event, fds: &[F], deadline: Deadline) -> Result<(), Error> {
        let message = self.link.encode(Kind::Event, 0, body, fds.len())?;
        self.send(&message, &link::borrow(fds), deadline)
    }

    /// Sends a request and waits for its reply. Requests and events that come before are kept for [`Channel::recv`].
    ///
    /// # Errors
    /// After a timeout or `PeerGone` the request may have been executed, or not.
    pub fn request<F: AsFd>(
        &self,
        body: &P::Request,
        fds: &[F],
        deadline: Deadline,
    ) -> Result<(P::Reply, Vec<OwnedFd>), Error> {
        let mut inbox = self.lock()?;
        if inbox.late.len() >= LATE_MAX {
            return Err(Error::Refused("a request to a peer that has left too many unanswered"));
        }
        let request_id = self.request_id.fetch_add(1, Ordering::Relaxed);
        let message = self.link.encode(Kind::Request, request_id, body, fds.len())?;
        self.send(&message, &link::borrow(fds), deadline)?;
        loop {
            match self.arrival(&mut inbox, Some(request_id), deadline) {
                Ok(Arrival::Reply(id, reply, fds)) if id == request_id => return Ok((reply, fds)),
                // Late: already removed from `late`.
                Ok(Arrival::Reply(..)) => {}
                Ok(Arrival::Incoming(incoming)) => {
                    if inbox.waiting.len() >= EVENTS_MAX {
                        return Err(self.link.violated(self.socket(), Breach::Flood { max: EVENTS_MAX }));
                    }
                    inbox.waiting.push_back(incoming);
                }
                Err(error) => {
                    if matches!(error, Error::Timeout { .. }) {
                        inbox.late.insert(request_id);
                    }
                    return Err(error);
                }
            }
        }
    }

    /// Whether nobody is at the other side any more: what was sent before may be unread.
    #[must_use]
    pub fn is_left(&self) -> bool {
        let mut polled = [PollFd::new(&self.socket, PollFlags::empty())];
        let looked = rustix::event::poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
        let [polled] = polled;
        looked.is_ok() && polled.revents().intersects(PollFlags::HUP | PollFlags::ERR)
    }

    /// This end's hello.
    #[must_use]
    pub fn local(&self) -> &Hello {
        self.link.local()
    }

    /// Waits for one frame. `open` is the request whose reply is awaited.
    fn arrival(
        &self,
        inbox: &mut Inbox<P>,
        open: Option<u64>,
        deadline: Deadline,
    ) -> Result<Arrival<P>, Error> {
        let socket = self.socket();
        let received = self.receive(&mut inbox.buffer, deadline, "receive a message")?;
        let request_id = received.header.request_id;
        match received.header.kind {
            Kind::Request => {
                let (body, fds) = self.link.decode(socket, received)?;
                Ok(Arrival::Incoming(Incoming::Request { request_id, body, fds }))
            }
            Kind::Event => {
                let (body, fds) = self.link.decode(socket, received)?;
                Ok(Arrival::Incoming(Incoming::Event { body, fds }))
            }
            Kind::Reply if open == Some(request_id) || inbox.late.remove(&request_id) => {
                let (body, fds) = self.link.decode(socket, received)?;
                Ok(Arrival::Reply(request_id, body, fds))
            }
            Kind::Reply => Err(self.link.violated(socket, Breach::UnknownRequest { request_id })),
            Kind::Hello => Err(self.link.violated(socket, Breach::UnexpectedKind { kind: Kind::Hello })),
        }
    }

    fn receive<'a>(
        &self,
        buffer: &'a mut [u8],
        deadline: Deadline,
        waiting_to: &'static str,
    ) -> Result<Received<'a>, Error> {
        loop {
            match self.link.receive(self.socket(), buffer)? {
                Attempt::Done(raw) => return self.link.check(self.socket(), raw, buffer),
                Attempt::WouldBlock => self.wait(PollFlags::IN, deadline, waiting_to)?,
            }
        }
    }

    fn send(&self, message: &Outgoing, fds: &[BorrowedFd<'_>], deadline: Deadline) -> Result<(), Error> {
        loop {
            match self.link.send(self.socket(), message, fds)? {
                Attempt::Done(()) => return Ok(()),
                Attempt::WouldBlock => self.wait(PollFlags::OUT, deadline, "send a message")?,
            }
        }
    }

    fn wait(&self, what: PollFlags, deadline: Deadline, waiting_to: &'static str) -> Result<(), Error> {
        let mut fds = [PollFd::new(&self.socket, what)];
        match rustix::event::poll(&mut fds, Some(&deadline.timespec())) {
            Ok(0) => Err(Error::Timeout { waiting_to }),
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(Error::io("poll", errno)),
        }
    }

    fn lock(&self) -> Result<MutexGuard<'_, Inbox<P>>, Error> {
        match self.inbox.try_lock() {
            Ok(inbox) => Ok(inbox),
            Err(TryLockError::Poisoned(poisoned)) => Ok(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => Err(Error::Refused("a second reader of one channel")),
        }
    }

    fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl<P: Protocol> AsFd for Channel<P> {
    /// For a caller that polls several fds and then calls [`Channel::recv`].
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl<P: Protocol> core::fmt::Debug for Channel<P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Channel").field("local", self.link.local()).finish_non_exhaustive()
    }
}
