// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Whether a device in another process still works.
//!
//! A device that does not answer in time, breaks the protocol, or is gone has failed for good: it reads as all ones
//! from then on, without a wait. The coordinator is notified and ends its process, so that a device that failed for
//! the CPUs makes no DMA either. What the machine cannot be without does not fail so ([`Health::complain`],
//! [`Health::fail_machine`]).

use ipc::protocol::control::Event;
use process::Events;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// The health of one device, shared by all threads that access it.
#[derive(Default)]
pub struct Health {
    /// For logs, counters and the coordinator.
    name: String,
    failure: OnceLock<String>,
    coordinator: OnceLock<Events>,
    /// When the last report that it does not answer went to the coordinator.
    complained: Mutex<Option<Instant>>,
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Health")
            .field("name", &self.name)
            .field("failure", &self.failure)
            .finish_non_exhaustive()
    }
}

impl Health {
    /// The device called `name`, which works.
    pub fn new(name: &str) -> Arc<Self> {
        Arc::new(Self { name: name.to_owned(), ..Self::default() })
    }

    /// Reports failures to the coordinator from now on, earlier ones included.
    pub fn connect(&self, coordinator: &Events) {
        if self.coordinator.set(coordinator.clone()).is_ok() {
            self.tell();
        }
    }

    fn tell(&self) {
        if let (Some(coordinator), Some(why)) = (self.coordinator.get(), self.failure.get()) {
            let failed = Event::PeerFailed { name: self.name.clone(), why: why.clone() };
            coordinator.tell(failed);
        }
    }

    /// The device does not answer, and is waited for: the coordinator decides whether its process is started anew. It
    /// gets one report in `span`, however many vCPUs wait.
    pub fn complain(&self, why: String, span: Duration) {
        let mut complained = self.complained.lock().unwrap_or_else(PoisonError::into_inner);
        if complained.is_none_or(|last| last.elapsed() >= span) {
            *complained = Some(Instant::now());
            ipc::log::warn!("{}: {why}", self.name);
            if let Some(coordinator) = self.coordinator.get() {
                coordinator.tell(Event::PeerFailed { name: self.name.clone(), why });
            }
        }
    }

    /// The device can never be reached again, and a guest without it is none: this process cannot go on.
    pub fn fail_machine(&self, why: String) {
        if self.failure.set(why.clone()).is_ok()
            && let Some(coordinator) = self.coordinator.get()
        {
            coordinator.fatal(format!("{}: {why}", self.name));
        }
    }

    /// The device's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Why the device has failed, if it has.
    pub fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    /// Marks the device failed. Only the first reason is kept.
    pub fn fail(&self, why: String) {
        if self.failure.set(why.clone()).is_ok() {
            ipc::log::error!(
                "{}: the device has failed, and reads as all ones from now on: {why}",
                self.name
            );
            self.tell();
        }
    }
}
