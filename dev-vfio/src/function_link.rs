// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The function's end of the function link: windows (which parts of the BARs the guest reaches as memory, and when)
//! and routes of MSI-X vectors, as the vCPU process is to set them up.
//!
//! Windows are shown while memory space is enabled and the device works; a vector has a route while MSI-X is enabled
//! and the vector unmasked. The wanted state is read under the lock that orders the requests, so that the last
//! request carries the latest state, whichever threads make them. A window that the vCPU process refuses costs speed
//! only: its accesses come through the ring. Likewise a vector: its MSIs are delivered from here.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipc::channel::Channel;
use ipc::deadline::Deadline;
use ipc::error::Error;
use ipc::hello::{Hello, Role};
use ipc::protocol::budget;
use ipc::protocol::function_link::{self as protocol, DeviceWindow, FunctionReply, FunctionRequest};
use ipc::protocol::inspect::Inspect;

/// The vCPU process answers without waiting for another process. A request made inside the gate blocks a pause for
/// this long at most.
const ANSWER_SPAN: Duration = budget::vfio::GATE;

/// The function's end of the channel to the vCPU process.
#[derive(Debug)]
pub struct FunctionLink {
    channel: Arc<Channel<protocol::FunctionLink>>,
    /// The vCPU process has greeted.
    greeted: Arc<Greeted>,
    /// Held for the length of a request.
    state: Mutex<State>,
    /// What [`Self::inspect`] shows: not held during a request.
    seen: Mutex<Seen>,
}

/// Whether the peer has greeted.
#[derive(Debug, Default)]
struct Greeted {
    is_so: Mutex<bool>,
    changed: Condvar,
}

impl Greeted {
    fn set(&self) {
        *self.is_so.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    fn wait(&self, span: Duration) -> bool {
        let is_so = self.is_so.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(is_so, span, |is_so| !*is_so);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// A copy of [`State`] for `inspect` and tests.
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
    /// Why the most recent refusal.
    refused: Option<String>,
    /// The vectors that were offered, by index.
    vectors: Vec<Vector>,
}

#[derive(Clone, Copy, Debug)]
struct Vector {
    /// The vCPU process took its eventfd (irqfd).
    taken: bool,
    /// Its route, as last sent.
    told: Option<u32>,
}

impl FunctionLink {
    /// Over the function's end of the channel.
    pub fn new(channel: OwnedFd, generation: u32) -> FunctionLink {
        let channel = Arc::new(Channel::from_fd(channel, Hello::new(Role::Vfio, generation)));
        FunctionLink { channel, greeted: Arc::default(), state: Mutex::default(), seen: Mutex::default() }
    }

    /// Greets the vCPU process, which is configured before any device is started. To be called first.
    ///
    /// # Errors
    /// If the channel fails.
    pub fn greet(&self, until: Deadline) -> Result<(), Error> {
        self.channel.hello(Role::Vcpu, until)?;
        self.greeted.set();
        Ok(())
    }

    /// The same on a thread of its own: the vCPU process takes the channel when it can. Requests wait for that.
    ///
    /// # Errors
    /// If the kernel gives no thread.
    pub fn greet_later(&self) -> io::Result<()> {
        let (channel, greeted) = (Arc::clone(&self.channel), Arc::clone(&self.greeted));
        crate::threads::spawn("link", move || {
            match channel.hello(Role::Vcpu, Deadline::after(Deadline::SPAN_MAX)) {
                Ok(()) => greeted.set(),
                Err(error) => ipc::log::warn!("vfio: hello on the function link failed: {error}"),
            }
        })
    }

    /// Waits until the vCPU process has greeted. False: not within `span`.
    pub fn wait_greeted(&self, span: Duration) -> bool {
        self.greeted.wait(span)
    }

    /// Adds a window, hidden.
    ///
    /// # Errors
    /// Why its accesses go through the ring.
    pub fn add_window(&self, window: DeviceWindow, file: &OwnedFd) -> Result<(), String> {
        self.add(&mut self.state(), window, file)
    }

    /// Adds windows, and shows all there are or none, as `wanted` says. Nothing else is asked for meanwhile.
    ///
    /// # Errors
    /// Why accesses of some of them go through the ring.
    pub fn add_windows<'a>(
        &self,
        windows: impl IntoIterator<Item = (DeviceWindow, &'a OwnedFd)>,
        wanted: impl FnOnce() -> bool,
    ) -> Result<(), String> {
        let mut state = self.state();
        let mut all = Ok(());
        for (window, file) in windows {
            all = self.add(&mut state, window, file).and(all);
        }
        self.show_all(&mut state, wanted()).and(all)
    }

    fn add(&self, state: &mut State, window: DeviceWindow, file: &OwnedFd) -> Result<(), String> {
        let added = self.ask(&FunctionRequest::AddWindow(window), &[file]);
        match &added {
            Ok(()) => state.count += 1,
            Err(why) => state.refused = Some(why.clone()),
        }
        self.show_state(state);
        added
    }

    /// Shows or hides all windows as `wanted` says. In force when this returns.
    ///
    /// # Errors
    /// If the vCPU process does not answer: the windows' state is unknown then.
    pub fn show(&self, wanted: impl FnOnce() -> bool) -> Result<(), String> {
        let mut state = self.state();
        let shown = wanted();
        self.show_all(&mut state, shown)
    }

    fn show_all(&self, state: &mut State, shown: bool) -> Result<(), String> {
        if state.count == 0 || state.shown == shown {
            return Ok(());
        }
        self.ask(&FunctionRequest::ShowWindows { shown }, &[])?;
        state.shown = shown;
        self.show_state(state);
        Ok(())
    }

    /// Offers the next vector's eventfd, routed nowhere.
    ///
    /// # Errors
    /// If the vCPU process does not take it: its MSIs are delivered from here then.
    pub fn add_vector(&self, eventfd: &OwnedFd) -> Result<(), String> {
        let mut state = self.state();
        let index = u16::try_from(state.vectors.len()).map_err(|_| "too many vectors".to_owned())?;
        let taken = self.ask(&FunctionRequest::AddVector { index }, &[eventfd]);
        state.vectors.push(Vector { taken: taken.is_ok(), told: None });
        self.show_state(&state);
        taken
    }

    /// Whether the vCPU process takes this vector's signals by itself (irqfd).
    pub fn takes(&self, vector: usize) -> bool {
        self.state().vectors.get(vector).is_some_and(|vector| vector.taken)
    }

    /// Updates the routes of the vectors that the vCPU process listens to, as `wanted` gives them by index, where
    /// they changed. In force when this returns. Times out once at most: after one unanswered request no other is
    /// sent.
    ///
    /// # Errors
    /// If some vectors' MSIs have to be delivered from here from now on.
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

    /// The pin was deasserted without the guest ending the interrupt.
    ///
    /// # Errors
    /// If the vCPU process does not answer.
    pub fn lower_intx(&self) -> Result<(), String> {
        self.ask(&FunctionRequest::LowerIntx, &[])
    }

    fn ask(&self, request: &FunctionRequest, fds: &[&OwnedFd]) -> Result<(), String> {
        self.try_ask(request, fds).unwrap_or_else(|error| Err(error.to_string()))
    }

    /// A refusal is an answer, not a channel error.
    fn try_ask(&self, request: &FunctionRequest, fds: &[&OwnedFd]) -> Result<Result<(), String>, Error> {
        if !self.greeted.wait(ANSWER_SPAN) {
            return Err(Error::Refused("a request before the hello"));
        }
        let (reply, _) = self.channel.request(request, fds, Deadline::after(ANSWER_SPAN))?;
        Ok(match reply {
            FunctionReply::Done => Ok(()),
            FunctionReply::Refused(why) => Err(why),
        })
    }

    /// For `inspect` and tests. Never blocks on the vCPU process.
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
