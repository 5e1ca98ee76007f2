// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a program knows of itself before it is configured, and how it tells the coordinator something.
//!
//! Any thread may tell. A coordinator that does not read is noticed by the service loop, not here.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use ipc::channel::Channel;
use ipc::deadline::Deadline;
use ipc::protocol::control::Event;

/// How long the coordinator may take to read something: it is never busy for so long and lives.
pub(crate) const SEND_DEADLINE: Duration = Duration::from_secs(5);

/// Exit status after [`Events::fatal`]: a peer broke the rules of what the program cannot do without.
const EXIT_FATAL: i32 = 3;

/// What every program is given.
#[derive(Clone, Debug)]
pub struct Context {
    /// Which life of the process this is.
    pub generation: u32,
    /// How long to look for a request in a ring before sleeping: 0 where one CPU has to do for both sides.
    pub spin: Duration,
    /// Where events go.
    pub events: Events,
}

/// Where events go.
#[derive(Clone)]
pub struct Events {
    tell: Option<Arc<dyn Fn(Event) + Send + Sync>>,
    /// Whether the process ends when it cannot go on.
    is_exiting: bool,
}

impl Events {
    /// To `tell`, which is called from any thread.
    pub fn new(tell: impl Fn(Event) + Send + Sync + 'static) -> Self {
        Self { tell: Some(Arc::new(tell)), is_exiting: false }
    }

    /// To no listener: where a device fails all the time, as when it is fuzzed.
    pub const fn none() -> Self {
        Self { tell: None, is_exiting: false }
    }

    /// To who is at the other end of `channel`. One that does not listen is noticed by the service loop.
    pub fn over(channel: &Arc<Channel>) -> Self {
        let channel = Arc::clone(channel);
        Self::new(move |event| _ = channel.event::<OwnedFd>(&event, &[], Deadline::after(SEND_DEADLINE)))
    }

    /// The same, of a process that ends when it cannot go on.
    pub(crate) fn exiting(self) -> Self {
        Self { is_exiting: true, ..self }
    }

    /// Tells it.
    pub fn tell(&self, event: Event) {
        if let Some(tell) = &self.tell {
            tell(event);
        }
    }

    /// Says that the program cannot go on, and why, and ends the process: the supervisor decides what becomes of the
    /// VM.
    pub fn fatal(&self, reason: String) {
        if self.is_exiting {
            ipc::log::error!("{reason}");
        }
        self.tell(Event::Fatal(reason));
        if self.is_exiting {
            std::process::exit(EXIT_FATAL);
        }
    }

    /// Whether there is a listener.
    pub const fn has_listener(&self) -> bool {
        self.tell.is_some()
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").field("has_listener", &self.has_listener()).finish_non_exhaustive()
    }
}
