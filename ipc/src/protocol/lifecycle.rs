// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The life of every process under the coordinator, as one pure function that both ends use.
//!
//! ```text
//!   Unconfigured --Configure--> Configured --Start--> Running <--Resume-- Paused
//!                                  |  ^                  '-----Pause-----> ^ |
//!                                  '--' Restore (once)                     '-' Save
//!   any --Quit--> Ended
//! ```
//!
//! `Inspect`, `Probe` and `DirtyLog` change no state; the dirty log needs a configured process. A request
//! the function refuses is answered with `Failed`; the asker, who uses the same function, should not have asked.

use serde::{Deserialize, Serialize};

use crate::protocol::control::Request;

/// Where a process stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// Sealed, greeted, knows nothing.
    Unconfigured,
    /// Knows what it is; reset state.
    Configured,
    /// Has taken a saved state and not begun yet.
    Restored,
    /// Serves the guest.
    Running,
    /// Holds still, answers what arrives.
    Paused,
    /// Has answered `Quit`.
    Ended,
}

impl State {
    /// The state after `request` was answered with success, or `None` if it has no place here.
    #[must_use]
    pub const fn after(self, request: &Request) -> Option<Self> {
        match (self, request) {
            (Self::Ended, Request::Quit) => Some(Self::Ended),
            (Self::Ended, _) => None,
            (_, Request::Quit) => Some(Self::Ended),
            (_, Request::Inspect | Request::Probe(_)) => Some(self),
            (Self::Unconfigured, Request::Configure(_)) => Some(Self::Configured),
            (Self::Unconfigured, _) | (_, Request::Configure(_)) => None,
            (_, Request::DirtyLog(_)) => Some(self),
            (Self::Configured, Request::Restore { .. }) => Some(Self::Restored),
            (_, Request::Restore { .. }) => None,
            (Self::Configured | Self::Restored | Self::Running, Request::Start) => Some(Self::Running),
            (Self::Paused, Request::Start) => None,
            (Self::Running | Self::Paused, Request::Pause) => Some(Self::Paused),
            (Self::Configured | Self::Restored, Request::Pause) => None,
            (Self::Paused | Self::Running, Request::Resume) => Some(Self::Running),
            (Self::Configured | Self::Restored, Request::Resume) => None,
            (Self::Paused, Request::Save) => Some(Self::Paused),
            (Self::Configured | Self::Restored | Self::Running, Request::Save) => None,
        }
    }
}

#[cfg(test)]
mod tests;
