// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Whether a device in another process still works.
//!
//! A device that does not answer in time, breaks the protocol, or is gone has failed for good: it reads as all ones
//! from then on, without a wait. The coordinator is notified and ends its process, so that a device that failed for
//! the CPUs makes no DMA either.

use ipc::protocol::control::Event;
use process::Events;
use std::fmt;
use std::sync::{Arc, OnceLock};

/// The health of one device, shared by all threads that access it.
#[derive(Default)]
pub struct Health {
    /// For logs, counters and the coordinator.
    name: String,
    failure: OnceLock<String>,
    coordinator: OnceLock<Events>,
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
