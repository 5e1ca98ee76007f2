// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The life of every process under the coordinator, as one pure function that both ends use.
//!
//! ```text
//!   Unconfigured --Configure--> Configured --Load--> Loaded --Arm--> Armed --Replay--> Replayed --Go--> Running
//!
//!   Running --Pause--> Paused --Resume--> Running        Paused --Save--> Paused
//!   any --Quit--> Ended
//! ```
//!
//! One way in, whether a process begins out of reset or from state units. Up to `Go` it may fail at any step, and then
//! can only quit; nothing that the guest could notice has happened by then. `Inspect`, `Probe`, `DirtyLog`, `CheckSave`
//! and `Rewire` change no state; the dirty log needs a configured process. A request the function refuses is answered
//! with `Failed`; the asker, who uses the same function, should not have asked.

use serde::{Deserialize, Serialize};

use crate::protocol::control::Request;

/// Where a process stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// Sealed, greeted, knows nothing.
    Unconfigured,
    /// Knows what it is; reset state.
    Configured,
    /// Has what it remembers, from reset or from state units.
    Loaded,
    /// Everything that can fail has been done; nothing moves.
    Armed,
    /// What it remembers is in force outside of it as well.
    Replayed,
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
            (_, Request::DirtyLog(_) | Request::DmaEnded { .. }) => Some(self),
            (Self::Configured, Request::Load(_)) => Some(Self::Loaded),
            (Self::Loaded, Request::Arm) => Some(Self::Armed),
            (Self::Armed | Self::Replayed, Request::Replay) => Some(Self::Replayed),
            (Self::Replayed | Self::Running, Request::Go) => Some(Self::Running),
            (Self::Running | Self::Paused, Request::Pause) => Some(Self::Paused),
            (Self::Paused | Self::Running, Request::Resume) => Some(Self::Running),
            (Self::Running | Self::Paused, Request::CheckSave | Request::Rewire { .. }) => Some(self),
            (Self::Paused, Request::Save) => Some(Self::Paused),
            (
                _,
                Request::Load(_)
                | Request::Arm
                | Request::Replay
                | Request::Go
                | Request::Pause
                | Request::Resume
                | Request::CheckSave
                | Request::Save
                | Request::Rewire { .. },
            ) => None,
        }
    }
}

#[cfg(test)]
mod tests;
