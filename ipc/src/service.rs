// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The control loop that every small process runs: request in, state machine, [`Process`], reply out.
//!
//! One place decides what a request may do in which state ([`State`]), moves saved state between
//! the process and the memory object that came with the request, and turns what went wrong into a
//! [`Reply::Failed`]. The loop ends with `Quit`, or when the coordinator is gone or broke the contract.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use crate::channel::{Channel, Incoming};
use crate::deadline::Deadline;
use crate::error::Error;
use crate::protocol::control::{DirtyLogOp, Event, Failure, Reply, Request, RoleConfig, SAVED_LEN_MAX};
use crate::protocol::inspect::Inspect;
use crate::protocol::lifecycle::State;
use crate::protocol::probe::{Probe, ProbeOutcome};

/// How long the coordinator may take to read an answer: it is never busy for so long and lives.
const REPLY_DEADLINE: core::time::Duration = core::time::Duration::from_secs(5);

/// What a process does when it is asked. Each call comes only in a state where it is legal, from one thread.
/// A failed call leaves the process as it was, except `restore`, after which only `Quit` comes.
pub trait Process {
    /// Becomes what `config` says.
    ///
    /// # Errors
    /// If the configuration is for another role or does not fit the fds.
    fn configure(&mut self, config: RoleConfig) -> Result<(), Failure>;
    /// Begins, from reset or from what was restored.
    ///
    /// # Errors
    /// If a thread cannot be started.
    fn start(&mut self) -> Result<(), Failure>;
    /// Stops making work; returns once nothing of the guest changes any more because of this process.
    ///
    /// # Errors
    /// If something did not stop in time.
    fn pause(&mut self) -> Result<(), Failure>;
    /// Goes on after `pause`.
    ///
    /// # Errors
    /// As for `start`.
    fn resume(&mut self) -> Result<(), Failure>;
    /// Its state, as a stream of state units.
    ///
    /// # Errors
    /// If the state cannot be written.
    fn save(&mut self) -> Result<Vec<u8>, Failure>;
    /// Takes a stream of state units.
    ///
    /// # Errors
    /// What is wrong with the stream.
    fn restore(&mut self, stream: &[u8]) -> Result<(), Failure>;
    /// Switches or rearms the dirty log.
    ///
    /// # Errors
    /// If a producer did not confirm in time.
    fn dirty_log(&mut self, op: DirtyLogOp) -> Result<(), Failure>;
    /// Counters and states.
    fn inspect(&self) -> Inspect;
    /// Attempts what the sandbox must refuse.
    ///
    /// # Errors
    /// In a release build, which attempts nothing.
    fn probe(&mut self, probe: Probe) -> Result<ProbeOutcome, Failure>;
}

/// Serves `process` until it is told to quit.
///
/// # Errors
/// The channel's: the coordinator is gone, or broke the contract.
pub fn serve(channel: &Channel, process: &mut impl Process) -> Result<(), Error> {
    let mut state = State::Unconfigured;
    loop {
        let incoming = match channel.recv(Deadline::after(Deadline::SPAN_MAX)) {
            Err(Error::Timeout { .. }) => continue,
            incoming => incoming?,
        };
        // The coordinator has nothing to tell that nobody asked for.
        let Incoming::Request { request_id, body, fds } = incoming else { continue };
        let next = state.after(&body);
        let reply = match next {
            Some(_) => answer(process, body, fds),
            None => Err(Failure::new(format!("{body:?}"), format!("a process that is {state:?} cannot"))),
        };
        if let (Ok(_), Some(next)) = (&reply, next) {
            state = next;
        }
        let reply = reply.unwrap_or_else(Reply::Failed);
        channel.reply::<OwnedFd>(request_id, &reply, &[], Deadline::after(REPLY_DEADLINE))?;
        if state == State::Ended {
            return Ok(());
        }
    }
}

/// Tells the coordinator something; a coordinator that does not listen is noticed by [`serve`].
pub fn tell(channel: &Channel, event: &Event) {
    let _ = channel.event::<OwnedFd>(event, &[], Deadline::after(REPLY_DEADLINE));
}

fn answer(process: &mut impl Process, request: Request, fds: Vec<OwnedFd>) -> Result<Reply, Failure> {
    // As many fds as the request's contract says: the channel has checked.
    let memory = fds.into_iter().next();
    match request {
        Request::Configure(config) => process.configure(config)?,
        Request::Start => process.start()?,
        Request::Pause => process.pause()?,
        Request::Resume => process.resume()?,
        Request::Quit => {}
        Request::Save => {
            let stream = process.save()?;
            let fail = |why: &dyn core::fmt::Display| Failure::new("write the saved state", why.to_string());
            let memory = memory.ok_or_else(|| fail(&"no memory object came along"))?;
            let len = stream.len() as u64;
            if len > SAVED_LEN_MAX {
                return Err(fail(&format_args!("{len:#x} bytes are more than {SAVED_LEN_MAX:#x}")));
            }
            write_all(&memory, &stream).map_err(|error| fail(&error))?;
            return Ok(Reply::Saved { len });
        }
        Request::Restore { len } => {
            let fail = |why: &dyn core::fmt::Display| Failure::new("read the saved state", why.to_string());
            let memory = memory.ok_or_else(|| fail(&"no memory object came along"))?;
            let stream = read_exact(&memory, len).map_err(|error| fail(&error))?;
            process.restore(&stream)?;
        }
        Request::DirtyLog(op) => process.dirty_log(op)?,
        Request::Inspect => return Ok(Reply::Inspect(process.inspect())),
        Request::Probe(probe) => return process.probe(probe).map(Reply::Probe),
    }
    Ok(Reply::Done)
}

fn write_all(memory: &OwnedFd, mut bytes: &[u8]) -> io::Result<()> {
    let mut offset = 0;
    while !bytes.is_empty() {
        let count = rustix::io::pwrite(memory, bytes, offset)?;
        bytes = bytes.get(count..).filter(|_| count > 0).ok_or(io::ErrorKind::WriteZero)?;
        offset += count as u64;
    }
    Ok(())
}

/// Reads `len` bytes into private memory, where nobody changes them any more.
///
/// # Errors
/// If the object is shorter, or `len` above the cap.
pub fn read_exact(memory: impl std::os::fd::AsFd, len: u64) -> io::Result<Vec<u8>> {
    let memory: BorrowedFd<'_> = memory.as_fd();
    let held = u64::try_from(rustix::fs::fstat(memory)?.st_size).unwrap_or(0);
    let len = usize::try_from(len).ok().filter(|_| len <= SAVED_LEN_MAX && len <= held);
    let len =
        len.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "its length is not what was said"))?;
    let mut bytes = vec![0; len];
    let mut done = 0;
    while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match rustix::io::pread(memory, rest, done as u64)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => done += count,
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
