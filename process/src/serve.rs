// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The control loop of every sealed program: request in, state machine, [`Life`], reply out.
//!
//! One place decides what a request may do in which state ([`State`]), moves saved state between
//! the process and the memory object that came with the request, and turns what went wrong into a
//! [`Reply::Failed`]. The loop ends with `Quit`, or when the coordinator is gone or broke the contract.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use ipc::channel::{Channel, Incoming};
use ipc::deadline::Deadline;
use ipc::error::Error;
use ipc::protocol::control::{Failure, Reply, Request, SAVED_LEN_MAX};
use ipc::protocol::lifecycle::State;

use crate::context::SEND_DEADLINE;
use crate::life::{Life, Program};

/// Serves `life` until it is told to quit.
///
/// # Errors
/// The channel's: the coordinator is gone, or broke the contract.
pub(crate) fn serve<P: Program>(channel: &Channel, life: &mut Life<P>) -> Result<(), Error> {
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
            Some(_) => answer(life, body, fds),
            None => Err(Failure::new(format!("{body:?}"), format!("a process that is {state:?} cannot"))),
        };
        if let (Ok(_), Some(next)) = (&reply, next) {
            state = next;
        }
        let reply = reply.unwrap_or_else(Reply::Failed);
        channel.reply::<OwnedFd>(request_id, &reply, &[], Deadline::after(SEND_DEADLINE))?;
        if state == State::Ended {
            return Ok(());
        }
    }
}

fn answer<P: Program>(life: &mut Life<P>, request: Request, fds: Vec<OwnedFd>) -> Result<Reply, Failure> {
    // As many fds as the request's contract says: the channel has checked.
    let memory = fds.into_iter().next();
    match request {
        Request::Configure(config) => life.configure(config)?,
        Request::Start => life.start()?,
        Request::Pause => life.pause()?,
        Request::Resume => life.resume()?,
        Request::Quit => {}
        Request::Save => {
            let stream = life.save()?;
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
            life.restore(&stream)?;
        }
        Request::DirtyLog(op) => life.dirty_log(op)?,
        Request::Inspect => return Ok(Reply::Inspect(life.inspect())),
        Request::Probe(probe) => return life.probe(probe).map(Reply::Probe),
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
fn read_exact(memory: impl AsFd, len: u64) -> io::Result<Vec<u8>> {
    let memory = memory.as_fd();
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
