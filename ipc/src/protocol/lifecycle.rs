// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The life cycle of every process under the coordinator: one pure function, used by both ends of a control channel.
//!
//! ```text
//!   Unconfigured --Configure--> Configured --Load--> Loaded --Arm--> Armed --Replay--> Replayed --Go--> Running
//!
//!   Running --Pause--> Paused --Resume--> Running        Paused --Save--> Paused
//!   Replayed --Pause--> Paused: it begins paused, and moves nothing before Resume; a process of vCPUs only
//!   any --Quit--> Ended
//! ```
//!
//! The way to `Running` is the same from reset and from state units. Before `Go` any step may fail, after which the
//! process can only quit; the guest cannot have noticed anything by then. `Inspect`, `Heartbeat`, `Probe`, `DirtyLog`,
//! `CheckSave`, `Rewire` and `HoldCpus` do not change the state, nor does `Replay` once the process runs (for peers
//! that were rewired); the dirty log needs a configured process, `HoldCpus` a running one. A mover stays configured. A
//! request that the state does not allow is answered with `Failed`; the coordinator uses the same function, and does
//! not send one.

use serde::{Deserialize, Serialize};

use crate::protocol::control::Request;

/// The state of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// Sealed; hello exchanged.
    Unconfigured,
    /// Configured; without state.
    Configured,
    /// Its state is loaded, from reset or from state units.
    Loaded,
    /// Everything that can fail has been done; nothing runs.
    Armed,
    /// Its state has been applied outside of the process as well.
    Replayed,
    /// Serves the guest.
    Running,
    /// Quiesced; still answers accesses.
    Paused,
    /// `Quit` was answered.
    Ended,
}

impl State {
    /// The state after `request` has succeeded; `None` if this state does not allow it.
    #[must_use]
    pub const fn after(self, request: &Request) -> Option<Self> {
        match (self, request) {
            (Self::Ended, Request::Quit) => Some(Self::Ended),
            (Self::Ended, _) => None,
            (_, Request::Quit) => Some(Self::Ended),
            (_, Request::Inspect | Request::Heartbeat | Request::Probe(_)) => Some(self),
            (Self::Unconfigured, Request::Configure(_)) => Some(Self::Configured),
            (Self::Unconfigured, _) | (_, Request::Configure(_)) => None,
            (_, Request::DirtyLog(_) | Request::DmaEnded { .. } | Request::Throttle { .. }) => Some(self),
            (Self::Configured, Request::Load(_)) => Some(Self::Loaded),
            (Self::Configured, Request::Carry(_)) => Some(self),
            (Self::Loaded, Request::Arm) => Some(Self::Armed),
            (Self::Armed | Self::Replayed, Request::Replay) => Some(Self::Replayed),
            (Self::Replayed | Self::Running, Request::Go) => Some(Self::Running),
            (Self::Replayed | Self::Running | Self::Paused, Request::Pause) => Some(Self::Paused),
            (Self::Paused | Self::Running, Request::Resume) => Some(Self::Running),
            (Self::Running | Self::Paused, Request::CheckSave | Request::Rewire { .. } | Request::Replay) => {
                Some(self)
            }
            (Self::Paused, Request::Save) => Some(Self::Paused),
            (Self::Running, Request::HoldCpus { .. }) => Some(Self::Running),
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
                | Request::Rewire { .. }
                | Request::HoldCpus { .. }
                | Request::Carry(_),
            ) => None,
        }
    }
}

#[cfg(test)]
mod tests;
