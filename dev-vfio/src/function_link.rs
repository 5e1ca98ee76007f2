// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The function's end of the function link: tells the vCPU process which parts of the BARs are memory, and when; and what the
//! signals of its vectors mean.
//!
//! Windows are shown while memory space is enabled and the device works; a vector means something while the guest's MSI-X
//! lets its message through. What is wanted is found out under the lock that
//! orders the telling, so that the last word is about the last state, whichever threads speak. A window that the
//! vCPU process refuses is no loss but of speed: its accesses come through the ring. So it is with a vector: its messages
//! are brought from here.

use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipc::channel::Channel;
use ipc::deadline::Deadline;
use ipc::error::Error;
use ipc::hello::{Hello, Role};
use ipc::protocol::budget;
use ipc::protocol::function_link::{self as protocol, DeviceWindow, FunctionReply, FunctionRequest};
use ipc::protocol::inspect::Inspect;

/// The vCPU process answers without waiting for another. A request made inside the gate holds that up for so long at most.
const ANSWER_SPAN: Duration = budget::vfio::GATE;

/// The link.
#[derive(Debug)]
pub struct FunctionLink {
    channel: Channel<protocol::FunctionLink>,
    /// Held while the vCPU process is asked.
    state: Mutex<State>,
    /// What [`Self::inspect`] shows: not held during a request.
    seen: Mutex<Seen>,
}

/// What people and tests see of a [`State`].
#[derive(Clone, Debug, Default)]
struct Seen {
    count: u64,
    shown: bool,
    given: u64,
    refused: Option<String>,
}

#[derive(Debug, Default)]
struct State {
    count: u64,
    shown: bool,
    /// Why the last one was refused that was.
    refused: Option<String>,
    /// The vectors that were offered, in their order.
    vectors: Vec<Vector>,
}

#[derive(Clone, Copy, Debug)]
struct Vector {
    /// The vCPU process listens to it.
    taken: bool,
    /// What it was told that a signal means.
    told: Option<u32>,
}

impl FunctionLink {
    /// Over the function's end of the channel.
    pub fn new(channel: OwnedFd, generation: u32) -> FunctionLink {
        let channel = Channel::from_fd(channel, Hello::new(Role::Vfio, generation));
        FunctionLink { channel, state: Mutex::default(), seen: Mutex::default() }
    }

    /// Greets the vCPU process, which is configured before any device is started. To be called first.
    ///
    /// # Errors
    /// The channel's.
    pub fn greet(&self, until: Deadline) -> Result<(), Error> {
        self.channel.hello(Role::Vcpu, until)
    }

    /// Adds a window, hidden.
    ///
    /// # Errors
    /// Why its accesses go through the ring.
    pub fn add_window(&self, window: DeviceWindow, file: &OwnedFd) -> Result<(), String> {
        let mut state = self.state();
        let added = self.ask(&FunctionRequest::AddWindow(window), &[file]);
        match &added {
            Ok(()) => state.count += 1,
            Err(why) => state.refused = Some(why.clone()),
        }
        self.show_state(&state);
        added
    }

    /// Shows or hides all windows, as `wanted` says, if that is a change. When this returns it is so.
    ///
    /// # Errors
    /// If the vCPU process does not answer: whether the guest reaches them is not known.
    pub fn show(&self, wanted: impl FnOnce() -> bool) -> Result<(), String> {
        let mut state = self.state();
        let shown = wanted();
        if state.count == 0 || state.shown == shown {
            return Ok(());
        }
        self.ask(&FunctionRequest::ShowWindows { shown }, &[])?;
        state.shown = shown;
        self.show_state(&state);
        Ok(())
    }

    /// Offers the next vector's eventfd, routed nowhere.
    ///
    /// # Errors
    /// Why its messages are to be brought from here.
    pub fn add_vector(&self, eventfd: &OwnedFd) -> Result<(), String> {
        let mut state = self.state();
        let index = u16::try_from(state.vectors.len()).map_err(|_| "there are too many".to_owned())?;
        let taken = self.ask(&FunctionRequest::AddVector { index }, &[eventfd]);
        state.vectors.push(Vector { taken: taken.is_ok(), told: None });
        self.show_state(&state);
        taken
    }

    /// Whether the vCPU process listens to a vector by itself.
    pub fn takes(&self, vector: usize) -> bool {
        self.state().vectors.get(vector).is_some_and(|vector| vector.taken)
    }

    /// Tells what the vectors mean that the vCPU process listens to, as `wanted` says by their order, where that is a change.
    /// When this returns it is so. One wait at most: a process that has left one question unanswered is asked no other.
    ///
    /// # Errors
    /// Why some have to be brought from here from now on.
    pub fn route(&self, wanted: impl FnOnce() -> Vec<Option<u32>>) -> Result<(), String> {
        let mut state = self.state();
        if !state.vectors.iter().any(|vector| vector.taken) {
            return Ok(());
        }
        let mut wanted = wanted().into_iter();
        let (mut all, mut silent) = (Ok(()), None::<String>);
        for (index, vector) in (0_u16..).zip(&mut state.vectors) {
            let event = wanted.next().flatten();
            if !vector.taken || vector.told == event {
                continue;
            }
            let asked = match &silent {
                None => self.try_ask(&FunctionRequest::RouteVector { index, event }, &[]),
                Some(why) => Ok(Err(why.clone())),
            };
            match asked {
                Ok(Ok(())) => vector.told = event,
                Ok(Err(why)) => {
                    vector.taken = false;
                    all = Err(why);
                }
                Err(why) => {
                    vector.taken = false;
                    silent = Some(why.to_string());
                    all = Err(why.to_string());
                }
            }
        }
        self.show_state(&state);
        all
    }

    /// The pin fell without the guest having ended the interrupt.
    ///
    /// # Errors
    /// If the vCPU process does not answer.
    pub fn lower_intx(&self) -> Result<(), String> {
        self.ask(&FunctionRequest::LowerIntx, &[])
    }

    fn ask(&self, request: &FunctionRequest, fds: &[&OwnedFd]) -> Result<(), String> {
        self.try_ask(request, fds).unwrap_or_else(|error| Err(error.to_string()))
    }

    /// A refusal is an answer.
    fn try_ask(&self, request: &FunctionRequest, fds: &[&OwnedFd]) -> Result<Result<(), String>, Error> {
        let (reply, _) = self.channel.request(request, fds, Deadline::after(ANSWER_SPAN))?;
        Ok(match reply {
            FunctionReply::Done => Ok(()),
            FunctionReply::Refused(why) => Err(why),
        })
    }

    /// For people and tests. Never blocks on the vCPU process.
    pub fn inspect(&self, inspect: &mut Inspect) {
        let seen = self.seen().clone();
        inspect.counter("windows", seen.count);
        inspect.text("windows.shown", if seen.shown { "yes" } else { "no" });
        inspect.counter("vectors.given", seen.given);
        if let Some(why) = seen.refused {
            inspect.text("windows.refused", why);
        }
    }

    fn show_state(&self, state: &State) {
        let given = state.vectors.iter().filter(|vector| vector.taken).count();
        let given = u64::try_from(given).unwrap_or(u64::MAX);
        let State { count, shown, refused, vectors: _ } = state;
        *self.seen() = Seen { count: *count, shown: *shown, given, refused: refused.clone() };
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        // Replaced as a whole.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each field is whole at any time.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
