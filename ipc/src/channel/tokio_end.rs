// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The coordinator's end of a channel: requests and events at once, on a tokio runtime.
//!
//! A task owns the reading half: it hands replies to whoever asked, by request id, and events to a bounded
//! queue. Every method is cancel-safe: a dropped `request` leaves its id in the book of late ones, so that
//! its answer is dropped when it comes, and is not mistaken for a forged one. The task ends with the link, or
//! when the channel is dropped.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::timeout_at;

use super::link::{self, Attempt, Link, Outgoing};
use super::{EVENTS_MAX, LATE_MAX};
use crate::deadline::Deadline;
use crate::error::{Breach, Error};
use crate::frame::Kind;
use crate::hello::{Hello, Role};
use crate::protocol::Protocol;
use crate::protocol::control::Control;

type Answer<P> = (<P as Protocol>::Reply, Vec<OwnedFd>);
type Told<P> = (<P as Protocol>::Event, Vec<OwnedFd>);

/// The asking end of a channel that speaks `P`.
pub struct AsyncChannel<P: Protocol = Control> {
    shared: Arc<Shared<P>>,
    events: tokio::sync::Mutex<mpsc::Receiver<Told<P>>>,
    reader: AbortHandle,
}

struct Shared<P: Protocol> {
    socket: AsyncFd<OwnedFd>,
    link: Link<P>,
    books: Mutex<Books<P>>,
}

/// Which requests are open, and which were given up before their answer came.
struct Books<P: Protocol> {
    request_id: u64,
    open: BTreeMap<u64, oneshot::Sender<Answer<P>>>,
    late: BTreeSet<u64>,
    closed: bool,
}

impl<P: Protocol> AsyncChannel<P> {
    /// Greets over `socket` as `local`, checks that the peer is a `peer` of the same build and generation,
    /// and starts to read. To be called within a runtime.
    ///
    /// # Errors
    /// A violation if the peer is someone else; a timeout if it says nothing.
    pub async fn connect(
        socket: OwnedFd,
        local: Hello,
        peer: Role,
        deadline: Deadline,
    ) -> Result<Self, Error> {
        // Epoll readiness is edge-like: the descriptor must not block even if a wake-up was stale.
        rustix::io::ioctl_fionbio(&socket, true).map_err(|errno| Error::io("ioctl(FIONBIO)", errno))?;
        let socket = AsyncFd::register_with_interest(socket, Interest::READABLE | Interest::WRITABLE)
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
            Err(_) => return Err(Error::Timeout { waiting_to: "be greeted by a process" }),
        }
        let (told, events) = mpsc::channel(EVENTS_MAX);
        let reader = tokio::spawn(read(Arc::clone(&shared), buffer, told)).abort_handle();
        Ok(Self { shared, events: tokio::sync::Mutex::new(events), reader })
    }

    /// Asks, and waits for the answer. Several may be open at once. Cancel-safe.
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
            Err(_) => Err(Error::Timeout { waiting_to: "be answered by a process" }),
        }
    }

    /// Waits for what the peer tells next. Cancel-safe. The caller brings its own deadline, if it wants one:
    /// this is what a supervisor waits on beside the process' pidfd.
    ///
    /// # Errors
    /// Once all events were read: why the link ended.
    pub async fn next_event(&self) -> Result<(P::Event, Vec<OwnedFd>), Error> {
        match self.events.lock().await.recv().await {
            Some(told) => Ok(told),
            None => Err(self.shared.ended()),
        }
    }

    /// What this end says about itself.
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
            return Err(Error::Refused("a request to a process that left too many unanswered"));
        }
        let request_id = books.request_id;
        books.request_id = request_id.wrapping_add(1);
        let (sender, answer) = oneshot::channel();
        books.open.insert(request_id, sender);
        Ok((request_id, answer))
    }

    /// Why the link ended. The reader records a fate before it closes the books, unless the host failed.
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
            let mut ready = ready.map_err(|source| Error::Io { call: "epoll_wait to send", source })?;
            match self.link.send(self.socket.get_ref().as_fd(), message, &fds)? {
                Attempt::Done(()) => return Ok(()),
                Attempt::WouldBlock => ready.clear_ready(),
            }
        }
    }

    async fn greet(&self, buffer: &mut [u8], peer: Role) -> Result<(), Error> {
        loop {
            let ready = self.socket.readable().await;
            let mut ready = ready.map_err(|source| Error::Io { call: "epoll_wait to be greeted", source })?;
            let socket = self.socket.get_ref().as_fd();
            match self.link.receive(socket, buffer)? {
                Attempt::Done(received) => return self.link.greet(socket, &received, peer),
                Attempt::WouldBlock => ready.clear_ready(),
            }
        }
    }

    /// Receives frames and sorts them until the link ends.
    async fn sort(&self, buffer: &mut [u8], told: &mpsc::Sender<Told<P>>) -> Result<(), Error> {
        loop {
            let ready = self.socket.readable().await;
            let mut ready = ready.map_err(|source| Error::Io { call: "epoll_wait to receive", source })?;
            let socket = self.socket.get_ref().as_fd();
            let received = match self.link.receive(socket, buffer)? {
                Attempt::Done(received) => received,
                Attempt::WouldBlock => {
                    ready.clear_ready();
                    continue;
                }
            };
            match received.header.kind {
                Kind::Reply => {
                    let request_id = received.header.request_id;
                    let answer = self.link.decode(socket, received)?;
                    let mut books = self.books();
                    match books.open.remove(&request_id) {
                        // If nobody waits any more, the answer is dropped, and its fds with it.
                        Some(waiting) => drop(waiting.send(answer)),
                        None if books.late.remove(&request_id) => {}
                        None => {
                            return Err(self.link.violated(socket, Breach::UnknownRequest { request_id }));
                        }
                    }
                }
                Kind::Event => {
                    let event = self.link.decode(socket, received)?;
                    match told.try_send(event) {
                        Ok(()) => {}
                        Err(_) => {
                            return Err(self.link.violated(socket, Breach::Flood { max: EVENTS_MAX }));
                        }
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
    // Whatever ended the link is recorded in it, and answered to everyone who asks.
    let _ = shared.sort(&mut buffer, &told).await;
    let mut books = shared.books();
    books.closed = true;
    books.open.clear();
}

/// Takes a request out of the open ones when its caller stops waiting, however that comes about.
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
