// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Dispatch of received messages: the table of open requests, and the queue of the peer's commands.
//!
//! An id from the peer is looked up and never used as an index; a reply to no open request is a violation.

use std::collections::VecDeque;

use super::kept::Kept;
use super::socket::Reader;
use super::{Answer, ConnectionError, Incoming, OPEN_MAX, Open, Reassembly};
use crate::vfio_user::Malformed;
use crate::vfio_user::header::{Command, HEADER_LEN, Kind};

/// The most commands that wait to be received. A client may post doorbells without waiting for answers; a guest's
/// queues, all rung at once by all CPUs, stay far below.
const COMMANDS_MAX: usize = 4096;
/// The most bytes in them: some transfers of the largest size.
const COMMANDS_LEN_MAX: usize = 16 << 20;

/// The id of posted commands, which no request has.
pub const POSTED_ID: u16 = 0;

/// The state of a request.
pub enum Slot {
    /// No reply yet.
    Waiting(Command),
    /// No thread waits any more, but the reply may still come.
    Abandoned(Command),
    /// The reply, or the error number.
    Answered(Result<Answer, u32>),
}

pub struct State {
    /// `None` while a thread reads with it.
    reader: Option<Box<Reader>>,
    open: Open,
    next_id: u16,
    commands: VecDeque<Incoming>,
    commands_len: usize,
    /// Commands that were received and not replied to yet.
    taken: usize,
    /// What is kept for the next life, and was by the life before.
    pub kept: Kept,
    fate: Option<ConnectionError>,
    /// Threads that wait while another reads.
    pub waiting: usize,
}

impl State {
    pub fn new() -> Self {
        Self {
            reader: Some(Box::new(Reader::new())),
            open: Open::new(),
            next_id: 1,
            commands: VecDeque::new(),
            commands_len: 0,
            taken: 0,
            kept: Kept::default(),
            fate: None,
            waiting: 0,
        }
    }

    /// The error that every call returns once the connection has ended.
    pub fn fate(&self) -> Option<ConnectionError> {
        self.fate.clone()
    }

    /// Ends the connection for this reason, unless it has ended already; returns the first reason.
    pub fn condemn(&mut self, error: ConnectionError) -> ConnectionError {
        self.fate.get_or_insert(error).clone()
    }

    /// An unused id for a request.
    pub fn open(&mut self, command: Command) -> Result<u16, ConnectionError> {
        if let Some(fate) = self.fate() {
            return Err(fate);
        }
        if self.open.len() >= OPEN_MAX {
            return Err(ConnectionError::Refused("too many open requests"));
        }
        // Terminates: far fewer requests are open than there are ids.
        while self.next_id == POSTED_ID || self.open.contains_key(&self.next_id) {
            self.next_id = self.next_id.wrapping_add(1);
        }
        let id = self.next_id;
        self.next_id = id.wrapping_add(1);
        self.open.insert(id, Slot::Waiting(command));
        Ok(id)
    }

    /// The request was never sent, or was the life's before.
    pub fn forget(&mut self, id: u16) {
        self.open.remove(&id);
    }

    /// No thread waits for the reply any more.
    pub fn abandon(&mut self, id: u16) {
        match self.open.remove(&id) {
            Some(Slot::Waiting(command)) => {
                self.open.insert(id, Slot::Abandoned(command));
            }
            Some(Slot::Abandoned(_) | Slot::Answered(_)) | None => {}
        }
    }

    pub fn take_answer(&mut self, id: u16) -> Option<Result<Answer, u32>> {
        if !matches!(self.open.get(&id), Some(Slot::Answered(_))) {
            return None;
        }
        match self.open.remove(&id) {
            Some(Slot::Answered(answer)) => Some(answer),
            _ => None,
        }
    }

    pub fn take_command(&mut self) -> Option<Incoming> {
        let command = self.commands.pop_front()?;
        self.commands_len -= command.body.len();
        self.taken += 1;
        Some(command)
    }

    /// A received command was replied to, or needs no reply.
    pub fn end_command(&mut self) {
        self.taken = self.taken.saturating_sub(1);
        self.kept.answered();
    }

    /// The reply to it is awaited, though another life has made it.
    pub fn inherit(&mut self, id: u16, command: Command) {
        self.open.insert(id, Slot::Waiting(command));
    }

    /// The next request has this id, or one after it.
    pub fn begin_ids(&mut self, id: u16) {
        self.next_id = id;
    }

    /// Where in the stream the oldest message begins that is not done with, if the next one begins at `position`.
    pub fn oldest(&self, position: u64) -> u64 {
        self.kept.oldest().map_or(position, |oldest| oldest.min(position))
    }

    /// Commands of the peer, and requests of this end, without a reply.
    pub fn in_flight(&self) -> (usize, usize) {
        let waits = |slot: &&Slot| !matches!(slot, Slot::Answered(_));
        (self.commands.len().saturating_add(self.taken), self.open.values().filter(waits).count())
    }

    /// Makes the caller the reader, if there is none.
    pub fn begin_reading(&mut self) -> Option<Box<Reader>> {
        self.reader.take()
    }

    pub fn end_reading(&mut self, reader: Box<Reader>) {
        self.reader = Some(reader);
    }

    /// Dispatches every whole message. The first one begins at `position`.
    pub fn route(&mut self, reassembly: &mut Reassembly, position: &mut u64) -> Result<(), ConnectionError> {
        while let Some(message) = reassembly.pop()? {
            let (header, body, fds) = (message.header, message.body, message.fds);
            let start = *position;
            let end = start.saturating_add((HEADER_LEN + body.len()) as u64);
            *position = end;
            let answer = match header.kind {
                // By the life before.
                Kind::Command | Kind::Posted if self.kept.was_answered(end) => continue,
                Kind::Command | Kind::Posted => {
                    self.commands_len += body.len();
                    self.commands.push_back(Incoming { header, end, body, fds });
                    self.kept.came(start);
                    if self.commands.len() > COMMANDS_MAX || self.commands_len > COMMANDS_LEN_MAX {
                        let count = self.commands.len();
                        return Err(Malformed::new(
                            "stream",
                            "commands come faster than they are taken",
                            count,
                        )
                        .into());
                    }
                    continue;
                }
                Kind::Reply => Ok(Answer { body, fds }),
                // Posted commands have no reply, but one known server replies nevertheless if they fail.
                Kind::Failure(_) if header.id == POSTED_ID => continue,
                Kind::Failure(errno) => Err(errno),
            };
            if self.open.contains_key(&header.id) || !self.kept.drops_replies() {
                self.kept.replied(header.id, start);
                self.answered(header.id, header.command, answer)?;
            }
        }
        Ok(())
    }

    fn answered(
        &mut self,
        id: u16,
        command: Command,
        answer: Result<Answer, u32>,
    ) -> Result<(), ConnectionError> {
        let (asked, slot) = match self.open.get(&id) {
            Some(Slot::Waiting(asked)) => (*asked, Some(Slot::Answered(answer))),
            Some(Slot::Abandoned(asked)) => (*asked, None),
            Some(Slot::Answered(_)) => {
                return Err(Malformed::new("reply", "the request was answered before", id).into());
            }
            None => return Err(Malformed::new("reply", "the request was never made", id).into()),
        };
        if asked != command {
            return Err(Malformed::new("reply", "the command is not the request's", command.0).into());
        }
        match slot {
            Some(slot) => drop(self.open.insert(id, slot)),
            None => drop(self.open.remove(&id)),
        }
        Ok(())
    }
}
