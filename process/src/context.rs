// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The context of a program: its generation, and the sending end for events to the coordinator.
//!
//! Any thread may send events. A coordinator that does not read them is noticed by the service loop.
//!
//! A long request has no short deadline, as long as the process reports progress ([`Events::progress`]).

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ipc::channel::Channel;
use ipc::deadline::Deadline;
use ipc::protocol::budget;
use ipc::protocol::control::Event;

/// How long an event may wait for room in the channel: a live coordinator is never busy for so long.
pub(crate) const SEND_DEADLINE: Duration = Duration::from_secs(5);

/// Exit status after [`Events::fatal`].
const EXIT_FATAL: i32 = 3;

/// The context of a program.
#[derive(Clone, Debug)]
pub struct Context {
    /// The generation of this process.
    pub generation: u32,
    /// How long to poll a ring before sleeping: 0 on a host with one CPU.
    pub spin: Duration,
    /// Sends events.
    pub events: Events,
}

/// Sends events to the coordinator.
#[derive(Clone)]
pub struct Events {
    tell: Option<Arc<dyn Fn(Event) + Send + Sync>>,
    /// Whether [`Events::fatal`] ends the process.
    is_exiting: bool,
    /// When the request began that is being carried out, or progress in it was told last.
    progress: Arc<Mutex<Option<Instant>>>,
}

impl Events {
    /// Sends events by calling `tell`, from any thread.
    pub fn new(tell: impl Fn(Event) + Send + Sync + 'static) -> Self {
        Self { tell: Some(Arc::new(tell)), ..Self::none() }
    }

    /// Drops all events: for fuzzing, where devices fail all the time.
    pub fn none() -> Self {
        Self { tell: None, is_exiting: false, progress: Arc::default() }
    }

    /// Sends events over `channel`. Errors are noticed by the service loop.
    pub fn over(channel: &Arc<Channel>) -> Self {
        let channel = Arc::clone(channel);
        Self::new(move |event| _ = channel.event::<OwnedFd>(&event, &[], Deadline::after(SEND_DEADLINE)))
    }

    /// The same, such that [`Events::fatal`] ends the process.
    pub(crate) fn exiting(self) -> Self {
        Self { is_exiting: true, ..self }
    }

    /// Sends an event.
    pub fn tell(&self, event: Event) {
        if let Some(tell) = &self.tell {
            tell(event);
        }
    }

    /// A request begins.
    pub(crate) fn begin(&self) {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Reports progress of the request, or of opening the device: to be called after each wait for a peer, and each
    /// piece of a state. Few of these events are sent ([`budget::PROGRESS_SPAN`]), and none in a short request.
    pub fn progress(&self) {
        let mut told = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if now.duration_since(*told.get_or_insert(now)) >= budget::PROGRESS_SPAN {
            *told = Some(now);
            drop(told);
            self.tell(Event::Progress);
        }
    }

    /// Reports that the program cannot go on, with the reason, and ends the process. The coordinator decides what
    /// becomes of the VM.
    pub fn fatal(&self, reason: String) {
        if self.is_exiting {
            ipc::log::error!("{reason}");
        }
        self.tell(Event::Fatal(reason));
        if self.is_exiting {
            std::process::exit(EXIT_FATAL);
        }
    }

    /// Whether events are sent anywhere.
    pub const fn has_listener(&self) -> bool {
        self.tell.is_some()
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").field("has_listener", &self.has_listener()).finish_non_exhaustive()
    }
}
