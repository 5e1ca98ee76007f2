// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The coordinator's end of a channel: concurrent requests and events, on a tokio runtime.
//!
//! A task receives: it passes replies to the requests that wait for them, by request id, and events to a bounded queue.
//! Every method is cancel-safe: the id of a dropped `request` is kept in the table of late requests, so that its reply
//! is dropped when it comes, and not taken for a forged one. The task ends with the link, or when the channel is
//! dropped.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::Interest;
use tokio::net::UnixDatagram;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::timeout_at;

use super::link::{self, Attempt, Link, Outgoing, Received};
use super::{EVENTS_MAX, LATE_MAX};
use crate::deadline::Deadline;
use crate::error::{Breach, Error};
use crate::frame::Kind;
use crate::hello::{Hello, Role};
use crate::protocol::Protocol;
use crate::protocol::control::Control;

type Answer<P> = (<P as Protocol>::Reply, Vec<OwnedFd>);
type Told<P> = (<P as Protocol>::Event, Vec<OwnedFd>);

/// The requesting end of a channel of protocol `P`.
pub struct AsyncChannel<P: Protocol = Control> {
    shared: Arc<Shared<P>>,
    events: tokio::sync::Mutex<mpsc::Receiver<Told<P>>>,
    reader: AbortHandle,
}

struct Shared<P: Protocol> {
    /// A seqpacket socket: tokio's datagram type is used for readiness only, never for its calls.
    socket: UnixDatagram,
    link: Link<P>,
    books: Mutex<Books<P>>,
}

/// The open requests, and the late ones: cancelled or timed out before their reply came.
struct Books<P: Protocol> {
    request_id: u64,
    open: BTreeMap<u64, oneshot::Sender<Answer<P>>>,
    late: BTreeSet<u64>,
    closed: bool,
}

impl<P: Protocol> AsyncChannel<P> {
    /// Exchanges hello over `socket`, an end made by [`super::pair`], as `local`; checks that the peer is a process of
    /// role `peer`, of the same build and generation; and starts to receive. To be called within a runtime.
    ///
    /// # Errors
    /// A violation if the peer's hello differs; a timeout if none comes.
    pub async fn connect(
        socket: OwnedFd,
        local: Hello,
        peer: Role,
        deadline: Deadline,
    ) -> Result<Self, Error> {
        let socket = UnixDatagram::from_std(socket.into())
            .map_err(|source| Error::Io { call: "epoll_ctl", source })?;
        let books = Books { request_id: 1, open: BTreeMap::new(), late: BTreeSet::new(), closed: false };
        let shared = Arc::new(Shared { socket, link: Link::new(local), books: Mutex::new(books) });
        let mut buffer = link::buffer();
        let greeting = async {
            shared.send(&shared.link.encode_hello()?, &[]).await?;
            shared.greet(&mut buffer, peer).await
        };
        match timeout_at(deadline.instant().into(), greeting).await {
            Ok(greeted) => greeted?,
            Err(_) => return Err(Error::Timeout { waiting_to: "receive a process's hello" }),
        }
        let (told, events) = mpsc::channel(EVENTS_MAX);
        let reader = tokio::spawn(read(Arc::clone(&shared), buffer, told)).abort_handle();
        Ok(Self { shared, events: tokio::sync::Mutex::new(events), reader })
    }

    /// Sends a request and waits for its reply. Several requests may be open at once. Cancel-safe.
    ///
    /// # Errors
    /// After a timeout or `PeerGone` the request may have been executed, or not.
    pub async fn request(
        &self,
        body: &P::Request,
        fds: &[OwnedFd],
        deadline: Deadline,
    ) -> Result<(P::Reply, Vec<OwnedFd>), Error> {
        let (request_id, answer) = self.shared.open()?;
        let mut entry = Entry { shared: &self.shared, request_id, sent: false };
        let message = self.shared.link.encode(Kind::Request, request_id, body, fds.len())?;
        let exchange = async {
            self.shared.send(&message, fds).await?;
            entry.sent = true;
            // The sender is dropped only when the link has ended.
            answer.await.map_err(|_| self.shared.ended())
        };
        match timeout_at(deadline.instant().into(), exchange).await {
            Ok(result) => result,
            Err(_) => Err(Error::Timeout { waiting_to: "receive a process's reply" }),
        }
    }

    /// Waits for the next event, without a deadline: the coordinator waits for the process's pidfd at the same time.
    /// Cancel-safe.
    ///
    /// # Errors
    /// Why the link ended, once all events have been returned.
    pub async fn next_event(&self) -> Result<(P::Event, Vec<OwnedFd>), Error> {
        match self.events.lock().await.recv().await {
            Some(told) => Ok(told),
            None => Err(self.shared.ended()),
        }
    }

    /// This end's hello.
    #[must_use]
    pub fn local(&self) -> &Hello {
        self.shared.link.local()
    }
}

impl<P: Protocol> Drop for AsyncChannel<P> {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl<P: Protocol> core::fmt::Debug for AsyncChannel<P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("AsyncChannel").field("local", self.local()).finish_non_exhaustive()
    }
}

impl<P: Protocol> Shared<P> {
    fn books(&self) -> MutexGuard<'_, Books<P>> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> Result<(u64, oneshot::Receiver<Answer<P>>), Error> {
        let mut books = self.books();
        if books.closed {
            return Err(self.ended());
        }
        if books.late.len() >= LATE_MAX {
            return Err(Error::Refused("a request to a process that has left too many unanswered"));
        }
        let request_id = books.request_id;
        books.request_id = request_id.wrapping_add(1);
        let (sender, answer) = oneshot::channel();
        books.open.insert(request_id, sender);
        Ok((request_id, answer))
    }

    /// Why the link ended. The receiving task records the reason before it closes the tables, unless the host failed.
    fn ended(&self) -> Error {
        match self.link.check_alive() {
            Err(error) => error,
            Ok(()) => Error::PeerGone { generation: self.link.local().generation },
        }
    }

    async fn send(&self, message: &Outgoing, fds: &[OwnedFd]) -> Result<(), Error> {
        let fds = link::borrow(fds);
        loop {
            let ready = self.socket.writable().await;
            ready.map_err(|source| Error::Io { call: "epoll_wait to send", source })?;
            let attempt = || self.link.send(self.socket.as_fd(), message, &fds);
            if let Attempt::Done(()) = self.attempt(Interest::WRITABLE, attempt)? {
                return Ok(());
            }
        }
    }

    /// Receives one frame.
    async fn receive<'a>(&self, buffer: &'a mut [u8]) -> Result<Received<'a>, Error> {
        loop {
            let ready = self.socket.readable().await;
            ready.map_err(|source| Error::Io { call: "epoll_wait to receive", source })?;
            let attempt = || self.link.receive(self.socket.as_fd(), buffer);
            if let Attempt::Done(frame) = self.attempt(Interest::READABLE, attempt)? {
                return self.link.check(self.socket.as_fd(), frame, buffer);
            }
        }
    }

    /// Makes a call on the socket, and clears tokio's readiness if it would block.
    fn attempt<T>(
        &self,
        interest: Interest,
        mut attempt: impl FnMut() -> Result<Attempt<T>, Error>,
    ) -> Result<Attempt<T>, Error> {
        let mut outcome = Ok(Attempt::WouldBlock);
        let _ = self.socket.try_io(interest, || {
            outcome = attempt();
            match outcome {
                Ok(Attempt::WouldBlock) => Err(std::io::ErrorKind::WouldBlock.into()),
                Ok(Attempt::Done(_)) | Err(_) => Ok(()),
            }
        });
        outcome
    }

    async fn greet(&self, buffer: &mut [u8], peer: Role) -> Result<(), Error> {
        let received = self.receive(buffer).await?;
        self.link.greet(self.socket.as_fd(), &received, peer)
    }

    /// Receives and dispatches frames until the link ends.
    async fn sort(&self, buffer: &mut [u8], told: &mpsc::Sender<Told<P>>) -> Result<(), Error> {
        loop {
            let received = self.receive(buffer).await?;
            let socket = self.socket.as_fd();
            match received.header.kind {
                Kind::Reply => {
                    let request_id = received.header.request_id;
                    let mut books = self.books();
                    let waiting = books.open.remove(&request_id);
                    if waiting.is_none() && !books.late.remove(&request_id) {
                        return Err(self.link.violated(socket, Breach::UnknownRequest { request_id }));
                    }
                    drop(books);
                    let answer = self.link.decode(socket, received)?;
                    // If no one waits any more, the reply is dropped, and its descriptors closed.
                    if let Some(waiting) = waiting {
                        drop(waiting.send(answer));
                    }
                }
                Kind::Event => {
                    let event = self.link.decode(socket, received)?;
                    if told.try_send(event).is_err() {
                        return Err(self.link.violated(socket, Breach::Flood { max: EVENTS_MAX }));
                    }
                }
                kind @ (Kind::Hello | Kind::Request) => {
                    return Err(self.link.violated(socket, Breach::UnexpectedKind { kind }));
                }
            }
        }
    }
}

async fn read<P: Protocol>(shared: Arc<Shared<P>>, mut buffer: Box<[u8]>, told: mpsc::Sender<Told<P>>) {
    // The reason is recorded in the link, and returned by every later call.
    let _ = shared.sort(&mut buffer, &told).await;
    let mut books = shared.books();
    books.closed = true;
    books.open.clear();
}

/// Removes a request from the open ones when its caller stops waiting: answered, timed out, or cancelled.
struct Entry<'a, P: Protocol> {
    shared: &'a Shared<P>,
    request_id: u64,
    sent: bool,
}

impl<P: Protocol> Drop for Entry<'_, P> {
    fn drop(&mut self) {
        let mut books = self.shared.books();
        if books.open.remove(&self.request_id).is_some() && self.sent {
            books.late.insert(self.request_id);
        }
    }
}
