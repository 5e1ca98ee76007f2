// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The control loop of every sealed program: request in, state machine, [`Life`], reply out.
//!
//! Checks that the state ([`State`]) allows the request, streams saved state between the program and the memory object
//! of the request, and answers a failure with [`Reply::Failed`]. The loop ends with `Quit`, or when the coordinator is
//! gone or broke the contract.

use std::os::fd::OwnedFd;

use ipc::channel::{Channel, Incoming};
use ipc::deadline::Deadline;
use ipc::error::Error;
use ipc::protocol::control::{Failure, LoadFrom, Reply, Request};
use ipc::protocol::lifecycle::State;

use crate::context::SEND_DEADLINE;
use crate::life::{Life, Program, Source};
use crate::state_stream::{StateReader, StateWriter};

/// Serves `life` until `Quit`.
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
        // The coordinator sends no events.
        let Incoming::Request { request_id, body, fds } = incoming else { continue };
        life.context().events.begin();
        let next = state.after(&body);
        let reply = match next {
            Some(_) => answer(life, state, body, fds),
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

fn answer<P: Program>(
    life: &mut Life<P>,
    state: State,
    request: Request,
    fds: Vec<OwnedFd>,
) -> Result<Reply, Failure> {
    // As many fds as the request's contract says: the channel has checked.
    let given = fds.into_iter().next();
    let given = |why| given.ok_or_else(|| Failure::new(why, "the request carries no descriptor"));
    match request {
        Request::Configure(config) => life.configure(config)?,
        Request::Load(LoadFrom::Reset) => life.load(Source::Reset)?,
        Request::Load(LoadFrom::Checkpoint) => life.load(Source::Checkpoint)?,
        Request::Load(LoadFrom::Failed) => life.load(Source::Failed)?,
        Request::Load(LoadFrom::Units { len }) => {
            let what = "read the saved state";
            let stream = StateReader::new(given(what)?, len, life.context().events.clone());
            let stream = stream.map_err(|error| Failure::new(what, error))?;
            life.load(Source::Units(Box::new(stream)))?;
        }
        Request::Arm => life.arm()?,
        Request::Replay => {
            if let Some(streams) = life.replay()? {
                return Ok(Reply::Replayed(streams));
            }
        }
        Request::Go => life.go()?,
        Request::Pause if state == State::Replayed => return life.begin_paused().map(Reply::Paused),
        Request::Pause => return life.pause().map(Reply::Paused),
        Request::Resume => life.resume()?,
        Request::Quit => {}
        Request::CheckSave => life.check_save()?,
        Request::Save => {
            let mut stream = StateWriter::new(given("write the saved state")?, life.context().events.clone());
            life.save(&mut stream)?;
            return Ok(Reply::Saved { len: stream.len() });
        }
        Request::DmaEnded { device } => life.dma_ended(device)?,
        Request::Throttle { percent } => life.throttle(percent)?,
        Request::Rewire { peer, epoch } => life.rewire(peer, epoch, given("take a new channel")?)?,
        Request::HoldCpus { held } => life.hold_cpus(held)?,
        Request::Carry(request) => life.carry(request, given("carry").ok())?,
        Request::DirtyLog(op) => return life.dirty_log(op).map(Reply::DirtyLog),
        Request::Heartbeat => return Ok(Reply::Alive { turns: life.turns() }),
        Request::Inspect => return Ok(Reply::Inspect(life.inspect())),
        Request::Probe(probe) => return life.probe(probe).map(Reply::Probe),
    }
    Ok(Reply::Done)
}

#[cfg(test)]
mod tests;
