// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One end of a vfio-user connection, for client and server alike: any thread may ask, answer and receive.
//!
//! Both ends send commands over one stream, so that while a client's request is open the server may ask it for
//! memory. Whichever thread waits and finds nobody reading becomes the reader, hands what comes to whom it
//! concerns, and passes the role on: no thread of its own, and a waiting thread never keeps another's answer from
//! arriving. A receiver of commands that is slow is no obstacle either: they queue, up to a bound.
//!
//! Every wait has a deadline. A peer that breaks the framing, floods, or answers what was never asked loses the
//! connection ([`ConnectionError::Violation`]); every open and later call then says so. Who drops an answer it
//! no longer waits for (deadline passed) is remembered, so that a late answer is not taken for a forged one.

mod reassembly;
mod routing;
mod socket;

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use thiserror::Error;

use crate::deadline::Deadline;
use crate::vfio_user::header::{Command, Header, Kind};
use crate::vfio_user::{FDS_MAX, Malformed};

pub use reassembly::{Message, Reassembly};
use routing::{POSTED_ID, State};

/// The most requests that may be open at once on one end; with those given up on, whose answer may still come.
pub const OPEN_MAX: usize = 256;

/// Why a call on a connection failed.
#[derive(Clone, Debug, Error)]
pub enum ConnectionError {
    /// The kernel refused a call; the connection is closed.
    #[error("vfio-user {call} failed: {errno}")]
    Io {
        /// The call, by its name in the manual.
        call: &'static str,
        /// Its error number.
        errno: rustix::io::Errno,
    },
    /// The deadline passed. A request may or may not have been executed.
    #[error("vfio-user peer did not let us {waiting_to} in time")]
    Timeout {
        /// What was waited for.
        waiting_to: &'static str,
    },
    /// The peer closed the connection, or this end did.
    #[error("the vfio-user connection is closed")]
    Closed,
    /// The peer broke the framing; the connection is closed.
    #[error("the vfio-user peer broke the protocol: {0}")]
    Violation(Malformed),
    /// The peer answered that the request failed; the connection lives.
    #[error("the vfio-user peer failed {command:?} with error number {errno}")]
    Remote {
        /// What was asked.
        command: Command,
        /// Its error number; 0 if it gave none.
        errno: u32,
    },
    /// Nothing was sent: the caller asked for something no message can be.
    #[error("vfio-user message not sent: {0}")]
    Refused(&'static str),
}

impl From<Malformed> for ConnectionError {
    fn from(malformed: Malformed) -> Self {
        Self::Violation(malformed)
    }
}

/// A command of the peer, to be answered with [`Connection::reply`] or [`Connection::fail`].
#[derive(Debug)]
pub struct Incoming {
    header: Header,
    /// Its body, not yet decoded.
    pub body: Vec<u8>,
    /// The fds that came with it.
    pub fds: Vec<OwnedFd>,
}

impl Incoming {
    /// What is asked.
    #[must_use]
    pub const fn command(&self) -> Command {
        self.header.command
    }

    /// Whether the peer waits for an answer.
    #[must_use]
    pub fn wants_reply(&self) -> bool {
        self.header.kind == Kind::Command
    }
}

/// The answer to a request of ours.
#[derive(Debug)]
pub struct Answer {
    /// Its body, not yet decoded.
    pub body: Vec<u8>,
    /// The fds that came with it.
    pub fds: Vec<OwnedFd>,
}

/// A request that was sent, to be waited for once.
#[derive(Debug)]
#[must_use = "an answer that nobody takes fills the table of open requests"]
pub struct Pending {
    id: u16,
    command: Command,
}

/// An end of a connection.
pub struct Connection {
    socket: OwnedFd,
    state: Mutex<State>,
    changed: Condvar,
    sending: Mutex<()>,
    reading: Reading,
}

/// What a connection that is left to another process has in flight: nothing, in one that can be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InFlight {
    /// Commands of the peer that were not answered.
    pub commands: usize,
    /// Requests of ours whose answer has not come.
    pub requests: usize,
    /// Whether a part of a message was read.
    pub torn: bool,
}

impl InFlight {
    /// Whether nothing is.
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.commands == 0 && self.requests == 0 && !self.torn
    }
}

/// Who reads the socket: a thread of this process, or none because another process does.
#[derive(Debug, Default)]
struct Reading {
    /// Held for a read, which never waits.
    turn: Mutex<Turn>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Turn {
    parked: bool,
    /// What was read ends in the middle of a message.
    torn: bool,
}

impl Connection {
    /// An end over a connected Unix stream socket.
    #[must_use]
    pub fn new(socket: OwnedFd) -> Self {
        let state = Mutex::new(State::new());
        let (sending, reading) = (Mutex::new(()), Reading::default());
        Self { socket, state, changed: Condvar::new(), sending, reading }
    }

    /// Leaves the socket to another process that has it too: from the return on nothing is read from it here, and
    /// whoever waits for something waits on. Says what is in flight: what was read here is lost to the other process.
    pub fn park(&self) -> InFlight {
        self.reading.turn().parked = true;
        self.in_flight()
    }

    /// What is in flight.
    pub fn in_flight(&self) -> InFlight {
        let torn = self.reading.turn().torn;
        let (commands, requests) = self.lock().in_flight();
        InFlight { commands, requests, torn }
    }

    /// Waits until every command of the peer that came is answered: whether that is so. Whoever was answered may know
    /// it a moment before this end does.
    pub fn await_answered(&self, deadline: Deadline) -> bool {
        let waits = |state: &mut State| state.in_flight().0 != 0 && state.fate().is_none();
        let mut state = self.lock();
        state.waiting += 1;
        let waited = self.changed.wait_timeout_while(state, deadline.remaining(), waits);
        (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.waiting -= 1;
        state.in_flight().0 == 0
    }

    /// Takes the socket back. The other process has gone, or has left it as it was.
    pub fn unpark(&self) {
        self.reading.turn().parked = false;
        self.reading.changed.notify_all();
    }

    /// Asks, and waits for the answer. `parts` are put one behind the other as the body.
    ///
    /// # Errors
    /// [`ConnectionError::Remote`] if the peer answers that it failed; otherwise the connection's.
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

    /// Asks, without waiting: several requests can be under way. The peer executes them in this order.
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
        let id = self.lock().open(command)?;
        let sent = self.send(id, command, Kind::Command, parts, fds, deadline);
        if sent.is_err() {
            self.lock().forget(id);
        }
        sent.map(|()| Pending { id, command })
    }

    /// Waits for the answer to a request.
    ///
    /// # Errors
    /// As [`Connection::request`].
    pub fn finish(&self, pending: Pending, deadline: Deadline) -> Result<Answer, ConnectionError> {
        let Pending { id, command } = pending;
        let answered = self.wait(deadline, "have its answer", |state| state.take_answer(id));
        match answered {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(errno)) => Err(ConnectionError::Remote { command, errno }),
            Err(error) => {
                self.lock().abandon(id);
                Err(error)
            }
        }
    }

    /// Tells, and wants no answer.
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
        self.send(POSTED_ID, command, Kind::Posted, parts, fds, deadline)
    }

    /// The next command of the peer.
    ///
    /// # Errors
    /// If the connection fails.
    pub fn receive(&self, deadline: Deadline) -> Result<Incoming, ConnectionError> {
        self.wait(deadline, "have a command", State::take_command)
    }

    /// Answers a command, unless the peer wants no answer.
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
        let sent = if to.wants_reply() {
            self.send(to.header.id, to.header.command, Kind::Reply, parts, fds, deadline)
        } else {
            Ok(())
        };
        self.end_command();
        sent
    }

    /// Answers that a command failed, unless the peer wants no answer.
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
        let sent = if to.wants_reply() {
            self.send(to.header.id, to.header.command, kind, &[], &[], deadline)
        } else {
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

    /// Ends the connection because a body shows that the peer does not keep to the protocol.
    pub fn violated(&self, malformed: Malformed) -> ConnectionError {
        self.condemn(ConnectionError::Violation(malformed))
    }

    fn condemn(&self, error: ConnectionError) -> ConnectionError {
        let fate = self.lock().condemn(error);
        // The peer learns that it is cut off, and a thread that reads wakes up; a dead socket needs neither.
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
        self.changed.notify_all();
        fate
    }

    fn send(
        &self,
        id: u16,
        command: Command,
        kind: Kind,
        parts: &[&[u8]],
        fds: &[BorrowedFd<'_>],
        deadline: Deadline,
    ) -> Result<(), ConnectionError> {
        let body_len = parts.iter().map(|part| part.len()).sum();
        let header = Header { id, command, kind, body_len };
        let header = header.encode().map_err(|_| ConnectionError::Refused("a body above the cap"))?;
        if fds.len() > FDS_MAX {
            return Err(ConnectionError::Refused("more fds than a message may carry"));
        }
        // One message at a time: a stream has no boundaries but ours.
        let turn = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fate) = self.lock().fate() {
            return Err(fate);
        }
        let sent = socket::send(self.socket.as_fd(), &header, parts, fds, deadline);
        drop(turn);
        sent.map_err(|failed| match failed {
            socket::SendFailed::Untouched(error) => error,
            // Half a message is out: nothing that follows could be understood.
            socket::SendFailed::Torn(error) => self.condemn(error),
        })
    }

    /// Waits until `take` finds what it looks for, reading for everybody if nobody else does.
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
                // Only a wait that took too long: everybody looks at their own deadline.
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

    /// Reads a piece of the stream and hands on what is whole.
    fn read(&self, reader: &mut socket::Reader, deadline: Deadline) -> Result<(), ConnectionError> {
        loop {
            {
                let mut turn = self.reading.unparked(deadline)?;
                if socket::receive(self.socket.as_fd(), reader)? {
                    let routed = self.lock().route(&mut reader.reassembly);
                    turn.torn = !reader.reassembly.is_empty();
                    return routed;
                }
            }
            socket::wait_readable(self.socket.as_fd(), deadline)?;
        }
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

    /// The right to read once, when it is this process that reads.
    fn unparked(&self, deadline: Deadline) -> Result<MutexGuard<'_, Turn>, ConnectionError> {
        let mut turn = self.turn();
        while turn.parked {
            if deadline.has_passed() {
                return Err(ConnectionError::Timeout {
                    waiting_to: "read: the connection is left to another process",
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
