// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A connection that outlives the process that uses it: the next life goes on in the middle of a message.
//!
//! What has passed of the stream is in a [`Transcript`]. The next life sends the rest of a message that was staged, and
//! reads what was received and is not done with: commands of the peer that were not answered, and the reply to the
//! request that the guest's access waits for. A command is done with when its reply is staged, an access when it is out
//! of the ring. So commands are answered in the order in which they come, and an access has one request
//! ([`Connection::request_once`]): done again by the next life, it finds the reply to that, or waits for it.
//!
//! Descriptors die with a process. A message with some of which nothing was sent is not sent by the next life, and its
//! sender there has it done anew. Other requests of a life that is over are forgotten, and their replies dropped.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Condvar, Mutex, PoisonError};

use rustix::event::PollFlags;
use rustix::io::Errno;

use super::routing::{POSTED_ID, State};
use super::socket::{self, Reader, SendFailed};
use super::{Answer, Connection, ConnectionError, InFlight, OPEN_MAX, Pending, Reading, Sending, Turn};
use crate::deadline::Deadline;
use crate::shm::transcript::{Left, Marks, Said, Transcript};
use crate::vfio_user::Malformed;
use crate::vfio_user::header::{Command, Kind};

/// What a connection remembers of the stream, for the next life, and of the life before.
#[derive(Debug, Default)]
pub struct Kept {
    /// Where the commands begin that are not answered, in their order.
    unanswered: VecDeque<u64>,
    /// How many of them came to the life before.
    inherited: usize,
    /// Commands that end here, or before, were answered by the life before.
    answered_before: u64,
    /// There was a life before, which may have made any request that is not open here.
    is_resumed: bool,
    access: Access,
}

/// The guest's access that is being carried out.
#[derive(Clone, Copy, Debug, Default)]
struct Access {
    /// Its number in the ring; 0: there is none.
    number: u64,
    /// The request for it.
    id: Option<u16>,
    /// Where the reply begins.
    reply: Option<u64>,
    /// The request that the life before has made for an access.
    before: Option<Before>,
}

/// A request of the life before, for an access of the guest's.
#[derive(Clone, Copy, Debug)]
struct Before {
    number: u64,
    id: u16,
    command: Command,
    is_posted: bool,
}

impl Kept {
    /// A command was received that begins here.
    pub fn came(&mut self, start: u64) {
        self.unanswered.push_back(start);
    }

    /// The oldest command was answered.
    pub fn answered(&mut self) {
        self.unanswered.pop_front();
        self.inherited = self.inherited.saturating_sub(1);
    }

    /// A reply was received that begins here.
    pub fn replied(&mut self, id: u16, start: u64) {
        if self.access.id == Some(id) {
            self.access.reply = Some(start);
        }
    }

    /// Where the oldest message begins that is not done with.
    pub fn oldest(&self) -> Option<u64> {
        self.unanswered.front().copied().into_iter().chain(self.access.reply).min()
    }

    pub const fn was_answered(&self, end: u64) -> bool {
        end <= self.answered_before
    }

    /// Whether a reply to no open request may be to one of a life before: it is dropped.
    pub const fn drops_replies(&self) -> bool {
        self.is_resumed
    }
}

/// How far from the last id those of other open requests may be: as many are open at once, sent in any order.
const SPAN: u16 = 256;
const _: () = assert!(SPAN as usize == OPEN_MAX);

impl Connection {
    /// From now on it is kept.
    ///
    /// # Errors
    /// What is in flight, if the peer has commands open: then it is not.
    pub fn keep_in(&self, transcript: Transcript) -> Result<(), InFlight> {
        let mut sending = self.sending();
        let mut turn = self.reading.turn();
        let (commands, requests) = self.lock().in_flight();
        if commands > 0 || turn.torn {
            return Err(InFlight { commands, requests, torn: turn.torn });
        }
        let (said, heard) = transcript.begin(turn.position);
        (sending.said, turn.heard) = (Some(said), Some(heard));
        Ok(())
    }

    /// Goes on where a life of this process has died.
    ///
    /// # Errors
    /// If the connection has ended, or cannot be followed.
    pub fn resume(
        socket: OwnedFd,
        transcript: Transcript,
        deadline: Deadline,
    ) -> Result<Self, ConnectionError> {
        let broken = |rule| Malformed::new("what the life before has left", rule, 0_u64);
        let (mut said, heard, left) = transcript.resume().map_err(broken)?;
        let Left { marks, floor, heard: bytes } = left;
        let mut reader = Box::new(Reader::new());
        reader.reassembly.push(&bytes, Vec::new())?;
        let mut state = State::new();
        state.kept.answered_before = marks.answered;
        state.kept.is_resumed = true;
        state.begin_ids(marks.last_id.wrapping_add(SPAN).wrapping_add(1));
        if marks.access != 0 {
            let (id, command) = (marks.request, Command(marks.command));
            let before = Before { number: marks.access, id, command, is_posted: marks.is_posted };
            state.kept.access.before = Some(before);
            if !marks.is_posted {
                state.inherit(id, command);
                state.kept.access.id = Some(id);
            }
        }
        let mut position = floor;
        state.route(&mut reader.reassembly, &mut position)?;
        state.kept.inherited = state.kept.unanswered.len();
        let torn = !reader.reassembly.is_empty();
        drop(state.begin_reading());
        state.end_reading(reader);
        if said.has_fds() && !said.is_begun() {
            said.withdraw(&marks);
        }
        finish(&mut said, socket.as_fd(), &[], deadline).map_err(|failed| match failed {
            SendFailed::Untouched(error) | SendFailed::Torn(error) => error,
        })?;
        let turn = Turn { parked: false, torn, position, heard: Some(heard) };
        Ok(Self {
            socket,
            state: Mutex::new(state),
            changed: Condvar::new(),
            sending: Mutex::new(Sending { said: Some(said), marks }),
            reading: Reading { turn: Mutex::new(turn), changed: Condvar::new() },
        })
    }

    /// The guest's access with this number in the ring is carried out next.
    pub fn begin_access(&self, number: u64) {
        let mut state = self.lock();
        let before = state.kept.access.before.filter(|before| before.number == number);
        if before.is_none() {
            state.forget_before();
        }
        state.kept.access.number = number;
    }

    /// That access is out of the ring.
    pub fn end_access(&self) {
        let mut state = self.lock();
        state.forget_before();
        state.kept.access.number = 0;
    }

    /// A request of the guest's access, which has no other. If the life before has made it, its reply is taken.
    ///
    /// # Errors
    /// As [`Connection::request`].
    pub fn request_once(
        &self,
        command: Command,
        parts: &[&[u8]],
        deadline: Deadline,
    ) -> Result<Answer, ConnectionError> {
        let (number, before) = self.lock().access(command, false);
        if let Some(id) = before {
            return self.finish(Pending { id, command }, deadline);
        }
        if number == 0 {
            return self.request(command, parts, &[], deadline);
        }
        self.await_inherited(deadline)?;
        let id = {
            let mut state = self.lock();
            let id = state.open(command)?;
            state.kept.access.id = Some(id);
            id
        };
        let sent = self.send(id, command, Kind::Command, parts, &[], deadline, |marks| {
            (marks.access, marks.request, marks.command, marks.is_posted) = (number, id, command.0, false);
        });
        if let Err(error) = sent {
            self.lock().forget(id);
            return Err(error);
        }
        self.finish(Pending { id, command }, deadline)
    }

    /// A command of the guest's access, without a reply. If the life before has sent it, it is not sent again.
    ///
    /// # Errors
    /// As [`Connection::post`].
    pub fn post_once(
        &self,
        command: Command,
        parts: &[&[u8]],
        deadline: Deadline,
    ) -> Result<(), ConnectionError> {
        let (number, before) = self.lock().access(command, true);
        if before.is_some() {
            return Ok(());
        }
        self.await_inherited(deadline)?;
        self.send(POSTED_ID, command, Kind::Posted, parts, &[], deadline, |marks| {
            if number != 0 {
                (marks.access, marks.request) = (number, POSTED_ID);
                (marks.command, marks.is_posted) = (command.0, true);
            }
        })
    }

    /// Waits until the commands are answered that came to the life before: a peer that waits for that may take nothing
    /// else.
    pub(super) fn await_inherited(&self, deadline: Deadline) -> Result<(), ConnectionError> {
        let mut state = self.lock();
        while state.kept.inherited > 0 {
            if let Some(fate) = state.fate() {
                return Err(fate);
            }
            if deadline.has_passed() {
                return Err(ConnectionError::Timeout { waiting_to: "answer what the life before was asked" });
            }
            state.waiting += 1;
            let waited = self.changed.wait_timeout(state, deadline.remaining());
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            state.waiting -= 1;
        }
        Ok(())
    }

    /// The messages so far mean something else.
    pub(super) fn note(&self, mark: impl FnOnce(&mut Marks)) {
        if let Sending { said: Some(said), marks } = &mut *self.sending() {
            mark(marks);
            said.note(marks);
        }
    }

    pub(super) fn set_parked(&self, is_parked: bool) {
        let mut turn = self.reading.turn();
        turn.parked = is_parked;
        if let Some(heard) = &turn.heard {
            heard.set_handed_over(is_parked);
        }
    }
}

impl State {
    /// The number of the access under way, and the request for it of the life before, if that is the one.
    fn access(&mut self, command: Command, is_posted: bool) -> (u64, Option<u16>) {
        let Access { number, before, .. } = self.kept.access;
        let is_it = |before: &Before| before.command == command && before.is_posted == is_posted;
        let found = before.filter(|before| before.number == number).filter(is_it);
        if found.is_some() {
            self.kept.access.before = None;
        }
        (number, found.map(|before| before.id))
    }

    /// The access of the life before, and the one that is over, are done with.
    fn forget_before(&mut self) {
        let Access { before, .. } = std::mem::take(&mut self.kept.access);
        if let Some(Before { id, is_posted: false, .. }) = before {
            // That life may have taken its reply. One that comes all the same is dropped, as all unknown ones are here.
            self.forget(id);
        }
    }
}

/// Sends a message that is kept.
pub fn send(
    said: &mut Said,
    socket: BorrowedFd<'_>,
    parts: &[&[u8]],
    fds: &[BorrowedFd<'_>],
    marks: &Marks,
    deadline: Deadline,
) -> Result<(), SendFailed> {
    said.stage(parts, !fds.is_empty(), marks);
    finish(said, socket, fds, deadline)
}

/// Sends what is left of it.
fn finish(
    said: &mut Said,
    socket: BorrowedFd<'_>,
    fds: &[BorrowedFd<'_>],
    deadline: Deadline,
) -> Result<(), SendFailed> {
    while !said.is_done() {
        let is_begun = said.is_begun();
        let failed = |error| if is_begun { SendFailed::Torn(error) } else { SendFailed::Untouched(error) };
        match said.send(socket, fds) {
            Ok(()) | Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => socket::wait(socket, PollFlags::OUT, deadline, "send").map_err(failed)?,
            Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => {
                return Err(SendFailed::Torn(ConnectionError::Closed));
            }
            Err(errno) => return Err(SendFailed::Torn(ConnectionError::Io { call: "sendmmsg", errno })),
        }
    }
    Ok(())
}
