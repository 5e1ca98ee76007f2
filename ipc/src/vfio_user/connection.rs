// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One end of a vfio-user connection, for client and server alike: any thread may send requests, reply and receive.
//!
//! Both ends send commands over one stream: while a client's request is open the server may send DMA commands. A
//! waiting thread becomes the reader if there is none, dispatches each message to the thread that waits for it, and
//! passes the role on. So the connection needs no thread, and no waiting thread delays another's reply. Commands
//! wait in a bounded queue until they are received.
//!
//! Every wait has a deadline. A peer that breaks the framing, floods, or replies to a request that was never made loses
//! the connection ([`ConnectionError::Violation`]), which every open and later call returns. Requests whose deadline
//! has passed are remembered, so that a late reply is not taken for a forged one.
//!
//! A connection may be kept for the next life of a process that dies (`kept`).

mod error;
mod kept;
mod reassembly;
mod routing;
mod socket;

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::deadline::Deadline;
use crate::shm::transcript::{Heard, Marks, Said};
use crate::vfio_user::header::{Command, Header, Kind};
use crate::vfio_user::{FDS_MAX, Malformed};

pub use error::ConnectionError;
pub use reassembly::{Message, Reassembly};
use routing::{POSTED_ID, State};

/// The most requests that may be open at once at one end, including those whose deadline has passed without a reply.
pub const OPEN_MAX: usize = 256;

/// A command of the peer, to be answered with [`Connection::reply`] or [`Connection::fail`].
#[derive(Debug)]
pub struct Incoming {
    header: Header,
    /// Where in the stream it ends.
    end: u64,
    /// Its encoded body.
    pub body: Vec<u8>,
    /// Its descriptors.
    pub fds: Vec<OwnedFd>,
}

impl Incoming {
    /// Which command its header names.
    #[must_use]
    pub const fn command(&self) -> Command {
        self.header.command
    }

    /// Whether the peer waits for a reply.
    #[must_use]
    pub fn wants_reply(&self) -> bool {
        self.header.kind == Kind::Command
    }
}

/// The reply to a request.
#[derive(Debug)]
pub struct Answer {
    /// Its encoded body.
    pub body: Vec<u8>,
    /// Its descriptors.
    pub fds: Vec<OwnedFd>,
}

/// A request that was sent, to be waited for once.
#[derive(Debug)]
#[must_use = "a reply that is not taken fills the table of open requests"]
pub struct Pending {
    id: u16,
    command: Command,
}

/// An end of a connection.
pub struct Connection {
    socket: OwnedFd,
    state: Mutex<State>,
    changed: Condvar,
    sending: Mutex<Sending>,
    reading: Reading,
}

/// Held for a message: a stream has no message boundaries.
#[derive(Default)]
struct Sending {
    /// Where the message is kept, if it is.
    said: Option<Said>,
    /// What the messages so far mean.
    marks: Marks,
}

/// What a connection has in flight. It can be left to another process only if that is nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InFlight {
    /// Commands of the peer without a reply.
    pub commands: usize,
    /// Requests of this end without a reply.
    pub requests: usize,
    /// Whether a message was read in part.
    pub torn: bool,
}

impl InFlight {
    /// Whether nothing is.
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.commands == 0 && self.requests == 0 && !self.torn
    }
}

/// Whether this process reads the socket, or has left it to another process.
#[derive(Default)]
struct Reading {
    /// Held for a read, which never blocks.
    turn: Mutex<Turn>,
    changed: Condvar,
}

#[derive(Default)]
struct Turn {
    parked: bool,
    /// What was read ends within a message.
    torn: bool,
    /// Where in the stream the next message begins.
    position: u64,
    /// Where what is read is kept, if it is.
    heard: Option<Heard>,
}

impl Connection {
    /// An end over a connected Unix stream socket.
    #[must_use]
    pub fn new(socket: OwnedFd) -> Self {
        let state = Mutex::new(State::new());
        let (sending, reading) = (Mutex::default(), Reading::default());
        Self { socket, state, changed: Condvar::new(), sending, reading }
    }

    /// Leaves the socket to another process that holds it too: after the return nothing is read from it here, and
    /// waiting threads go on waiting. Returns what is in flight: what was read here is lost to the other process.
    pub fn park(&self) -> InFlight {
        self.set_parked(true);
        self.in_flight()
    }

    /// Whether it has ended, for whatever reason.
    pub fn has_ended(&self) -> bool {
        self.lock().fate().is_some()
    }

    /// What is in flight.
    pub fn in_flight(&self) -> InFlight {
        let torn = self.reading.turn().torn;
        let (commands, requests) = self.lock().in_flight();
        InFlight { commands, requests, torn }
    }

    /// Waits until every command received is replied to; returns whether that is so. The peer may see a reply slightly
    /// before this end counts it.
    pub fn await_answered(&self, deadline: Deadline) -> bool {
        let waits = |state: &mut State| state.in_flight().0 != 0 && state.fate().is_none();
        let mut state = self.lock();
        state.waiting += 1;
        let waited = self.changed.wait_timeout_while(state, deadline.remaining(), waits);
        (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.waiting -= 1;
        state.in_flight().0 == 0
    }

    /// Takes the socket back from another process, which has ended, or has not used it.
    pub fn unpark(&self) {
        self.set_parked(false);
        self.reading.changed.notify_all();
    }

    /// Sends a request and waits for its reply. The body is the concatenation of `parts`.
    ///
    /// # Errors
    /// [`ConnectionError::Remote`] if the peer fails it; otherwise the connection's.
    pub fn request(
        &self,
        command: Command,
        parts: &[&[u8]],
        fds: &[BorrowedFd<'_>],
        deadline: Deadline,
    ) -> Result<Answer, ConnectionError> {
        let pending = self.begin(command, parts, fds, deadline)?;
        self.finish(pending, deadline)
    }

    /// Sends a request without waiting for its reply. Several may be open; the peer executes them in order.
    ///
    /// # Errors
    /// The connection's, or `Refused` if too many are open.
    pub fn begin(
        &self,
        command: Command,
        parts: &[&[u8]],
        fds: &[BorrowedFd<'_>],
        deadline: Deadline,
    ) -> Result<Pending, ConnectionError> {
        self.await_inherited(deadline)?;
        let id = self.lock().open(command)?;
        let sent = self.send(id, command, Kind::Command, parts, fds, deadline, |_| {});
        if sent.is_err() {
            self.lock().forget(id);
        }
        sent.map(|()| Pending { id, command })
    }

    /// Waits for the reply to a request.
    ///
    /// # Errors
    /// As [`Connection::request`].
    pub fn finish(&self, pending: Pending, deadline: Deadline) -> Result<Answer, ConnectionError> {
        let Pending { id, command } = pending;
        let answered = self.wait(deadline, "receive its reply", |state| state.take_answer(id));
        match answered {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(errno)) => Err(ConnectionError::Remote { command, errno }),
            Err(error) => {
                self.lock().abandon(id);
                Err(error)
            }
        }
    }

    /// Sends a command without a reply.
    ///
    /// # Errors
    /// If the connection fails.
    pub fn post(
        &self,
        command: Command,
        parts: &[&[u8]],
        fds: &[BorrowedFd<'_>],
        deadline: Deadline,
    ) -> Result<(), ConnectionError> {
        self.await_inherited(deadline)?;
        self.send(POSTED_ID, command, Kind::Posted, parts, fds, deadline, |_| {})
    }

    /// The next command of the peer.
    ///
    /// # Errors
    /// If the connection fails.
    pub fn receive(&self, deadline: Deadline) -> Result<Incoming, ConnectionError> {
        self.wait(deadline, "receive a command", State::take_command)
    }

    /// Replies to a command, unless the peer wants no reply.
    ///
    /// # Errors
    /// If the connection fails.
    pub fn reply(
        &self,
        to: &Incoming,
        parts: &[&[u8]],
        fds: &[BorrowedFd<'_>],
        deadline: Deadline,
    ) -> Result<(), ConnectionError> {
        self.answer(to, Kind::Reply, parts, fds, deadline)
    }

    /// Replies that a command failed, unless the peer wants no reply.
    ///
    /// # Errors
    /// If the connection fails.
    pub fn fail(
        &self,
        to: &Incoming,
        errno: rustix::io::Errno,
        deadline: Deadline,
    ) -> Result<(), ConnectionError> {
        let kind = Kind::Failure(errno.raw_os_error().cast_unsigned());
        self.answer(to, kind, &[], &[], deadline)
    }

    fn answer(
        &self,
        to: &Incoming,
        kind: Kind,
        parts: &[&[u8]],
        fds: &[BorrowedFd<'_>],
        deadline: Deadline,
    ) -> Result<(), ConnectionError> {
        let is_answered = |marks: &mut Marks| marks.answered = to.end;
        let sent = if to.wants_reply() {
            self.send(to.header.id, to.header.command, kind, parts, fds, deadline, is_answered)
        } else {
            self.note(is_answered);
            Ok(())
        };
        self.end_command();
        sent
    }

    fn end_command(&self) {
        let mut state = self.lock();
        state.end_command();
        if state.waiting > 0 {
            self.changed.notify_all();
        }
    }

    /// Ends the connection: every waiting and later call, at both ends, fails.
    pub fn close(&self) {
        self.condemn(ConnectionError::Closed);
    }

    /// Ends the connection because of a body that violates the protocol.
    pub fn violated(&self, malformed: Malformed) -> ConnectionError {
        self.condemn(ConnectionError::Violation(malformed))
    }

    fn condemn(&self, error: ConnectionError) -> ConnectionError {
        let fate = self.lock().condemn(error);
        // Tells the peer that the connection is closed, and wakes a reading thread; fails only on a closed socket.
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
        self.changed.notify_all();
        fate
    }

    /// Sends a message; `mark` says what that means, if the connection is kept.
    #[expect(clippy::too_many_arguments, reason = "a message has so many parts")]
    fn send(
        &self,
        id: u16,
        command: Command,
        kind: Kind,
        parts: &[&[u8]],
        fds: &[BorrowedFd<'_>],
        deadline: Deadline,
        mark: impl FnOnce(&mut Marks),
    ) -> Result<(), ConnectionError> {
        let body_len = parts.iter().map(|part| part.len()).sum();
        let header = Header { id, command, kind, body_len };
        let header = header.encode().map_err(|_| ConnectionError::Refused("a body above the cap"))?;
        if fds.len() > FDS_MAX {
            return Err(ConnectionError::Refused("more fds than a message may carry"));
        }
        let mut sending = self.sending();
        if let Some(fate) = self.lock().fate() {
            return Err(fate);
        }
        let sent = match &mut *sending {
            Sending { said: None, .. } => socket::send(self.socket.as_fd(), &header, parts, fds, deadline),
            Sending { said: Some(said), marks } => {
                let before = *marks;
                mark(marks);
                if kind == Kind::Command {
                    marks.last_id = id;
                }
                let parts: Vec<_> = std::iter::once(&header[..]).chain(parts.iter().copied()).collect();
                let sent = kept::send(said, self.socket.as_fd(), &parts, fds, marks, deadline);
                if matches!(sent, Err(socket::SendFailed::Untouched(_))) {
                    *marks = before;
                    said.withdraw(marks);
                }
                sent
            }
        };
        drop(sending);
        sent.map_err(|failed| match failed {
            socket::SendFailed::Untouched(error) => error,
            // A part of the message was sent: the peer could not parse what follows.
            socket::SendFailed::Torn(error) => self.condemn(error),
        })
    }

    /// Waits until `take` returns something, as the reader if there is none.
    fn wait<T>(
        &self,
        deadline: Deadline,
        waiting_to: &'static str,
        mut take: impl FnMut(&mut State) -> Option<T>,
    ) -> Result<T, ConnectionError> {
        let mut state = self.lock();
        loop {
            if let Some(found) = take(&mut state) {
                return Ok(found);
            }
            if let Some(fate) = state.fate() {
                return Err(fate);
            }
            if deadline.has_passed() {
                return Err(ConnectionError::Timeout { waiting_to });
            }
            let Some(mut reader) = state.begin_reading() else {
                state.waiting += 1;
                let waited = self.changed.wait_timeout(state, deadline.remaining());
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
                state.waiting -= 1;
                continue;
            };
            drop(state);
            let routed = self.read(&mut reader, deadline);
            state = self.lock();
            state.end_reading(reader);
            let failed = match routed {
                // A timeout only: each waiting thread checks its own deadline.
                Ok(()) | Err(ConnectionError::Timeout { .. }) => None,
                Err(error) => Some(error),
            };
            if let Some(error) = failed {
                drop(state);
                self.condemn(error);
                state = self.lock();
            } else if state.waiting > 0 {
                self.changed.notify_all();
            }
        }
    }

    /// Reads a piece of the stream and dispatches whole messages.
    fn read(&self, reader: &mut socket::Reader, deadline: Deadline) -> Result<(), ConnectionError> {
        loop {
            {
                let mut turn = self.reading.unparked(deadline)?;
                let Turn { position, heard, torn, .. } = &mut *turn;
                let kept = heard.as_mut().map(|heard| (heard, self.lock().oldest(*position)));
                if socket::receive(self.socket.as_fd(), reader, kept)? {
                    let routed = self.lock().route(&mut reader.reassembly, position);
                    *torn = !reader.reassembly.is_empty();
                    return routed;
                }
            }
            socket::wait_readable(self.socket.as_fd(), deadline)?;
        }
    }

    fn sending(&self) -> MutexGuard<'_, Sending> {
        // A connection in the middle of a message is condemned before the lock is given up.
        self.sending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panicking thread leaves the tables whole: every change to them is one call.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reading {
    fn turn(&self) -> MutexGuard<'_, Turn> {
        // Two flags, each whole at any time.
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The right to read once; waits while the socket is left to another process.
    fn unparked(&self, deadline: Deadline) -> Result<MutexGuard<'_, Turn>, ConnectionError> {
        let mut turn = self.turn();
        while turn.parked {
            if deadline.has_passed() {
                return Err(ConnectionError::Timeout {
                    waiting_to: "read a connection that is left to another process",
                });
            }
            let waited = self.changed.wait_timeout(turn, deadline.remaining());
            turn = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(turn)
    }
}

impl core::fmt::Debug for Connection {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Connection").field("socket", &self.socket).finish_non_exhaustive()
    }
}

type Open = HashMap<u16, routing::Slot>;
