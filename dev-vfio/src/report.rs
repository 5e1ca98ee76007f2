// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the process tells the coordinator without being asked: that its device is open, lost, or that it cannot go on.
//!
//! Any thread may tell. A coordinator that does not read is noticed by the control loop, not here.

use std::fmt;
use std::sync::Arc;

use ipc::protocol::control::Event;

/// Where reports go.
#[derive(Clone)]
pub struct Report(Option<Arc<dyn Fn(Event) + Send + Sync>>);

impl Report {
    /// To `tell`, which may be called from any thread.
    pub fn new(tell: impl Fn(Event) + Send + Sync + 'static) -> Report {
        Report(Some(Arc::new(tell)))
    }

    /// Nowhere: where a device fails all the time, as when it is fuzzed.
    pub fn discard() -> Report {
        Report(None)
    }

    /// Tells it.
    pub fn tell(&self, event: Event) {
        if let Some(tell) = &self.0 {
            tell(event);
        }
    }

    /// Whether there is anybody to tell.
    pub fn is_heard(&self) -> bool {
        self.0.is_some()
    }
}

impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Report")
    }
}
