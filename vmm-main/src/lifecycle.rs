// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The states of a VM, and the transitions between them.
//!
//! ```text
//!            Start           Pause
//!  Created ─────────► Running ─────► Paused       Reset: Running ─► Created (a new process set boots)
//!     │                 │ ▲  Resume    │ │
//!     │ Stop       Stop │ └────────────┘ │ Stop
//!     └───────────► Stopping ◄───────────┘        End: from everywhere ─► Stopped, which is final
//! ```
//!
//! Held is shown in place of Created, Running or Paused while a process is missing that only an order starts anew: what
//! it is shown in place of comes back with that process, and all that it allows is Stop.
//!
//! A guest that was paused and comes from another host takes Start and Pause in one: it is not Running in between.
//!
//! Names are the API's and the log's. [`Phase::after`] has all transitions: the coordinator checks it before it acts
//! on a process, so an illegal request changes nothing.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::problem::{Class, Problem};

/// The phase of its life cycle that a VM is in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "phase")]
pub enum Phase {
    /// Its processes are being started and configured.
    Created,
    /// The guest runs.
    Running,
    /// vCPUs and devices are stopped; every process is alive and holds its state.
    Paused,
    /// A process has died that is started anew by order only; the guest's CPUs and its time are held meanwhile.
    Held,
    /// An orderly shutdown is under way.
    Stopping,
    /// Nothing runs any more.
    Stopped {
        /// What ended it.
        why: Why,
    },
}

/// What ended a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "cause")]
pub enum Why {
    /// The guest switched itself off.
    GuestPoweredOff,
    /// The guest reset itself, and the configuration has that end the VM.
    GuestReset,
    /// Requested: by the API, a signal, or the console escape.
    Asked,
    /// `bulkhead run` is gone: a VM does not outlive its terminal and socket.
    LauncherGone,
    /// The guest has moved to another host.
    Moved {
        /// Where to, as the user has named it.
        to: String,
    },
    /// Something broke.
    Failed {
        /// What, where, and what to do.
        problem: Problem,
        /// The last lines that the broken process logged.
        last_lines: Vec<String>,
    },
}

/// A transition, or what causes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Every process is configured: let the guest run.
    Start,
    /// Stop the guest's CPUs, then the devices.
    Pause,
    /// Let the devices go on, then the CPUs.
    Resume,
    /// The guest asked for a reset.
    Reset,
    /// Begin an orderly shutdown.
    Stop,
    /// It is over.
    End(Why),
}

impl Phase {
    /// The phase after `step`, or why the step is not possible now.
    pub fn after(&self, step: Step) -> Result<Self, Problem> {
        match (self, step) {
            (Self::Created, Step::Start) => Ok(Self::Running),
            // Asking twice is not an error: a script that pauses wants it paused.
            (Self::Running | Self::Paused, Step::Pause) => Ok(Self::Paused),
            (Self::Running | Self::Paused, Step::Resume) => Ok(Self::Running),
            (Self::Running, Step::Reset) => Ok(Self::Created),
            (Self::Created | Self::Running | Self::Paused | Self::Held | Self::Stopping, Step::Stop) => {
                Ok(Self::Stopping)
            }
            (Self::Stopped { .. }, Step::End(_)) => Ok(self.clone()),
            (_, Step::End(why)) => Ok(Self::Stopped { why }),
            (phase, step) => Err(Problem::new(
                Class::State,
                format!("a VM that is {phase} cannot {}", step.predicate()),
                "life cycle",
                phase.advice(),
            )),
        }
    }

    /// The phase's name, as the API and the log have it.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Held => "held",
            Self::Stopping => "stopping",
            Self::Stopped { .. } => "stopped",
        }
    }

    const fn advice(&self) -> &'static str {
        match self {
            Self::Created => "wait until it runs",
            Self::Running => "pause it first",
            Self::Paused => "resume it first",
            Self::Held => "see with `bulkhead status` which process is missing",
            Self::Stopping | Self::Stopped { .. } => "start it again with `bulkhead run`",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Step {
    /// What a VM that cannot take this step cannot do.
    const fn predicate(&self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Pause => "be paused",
            Self::Resume => "be resumed",
            Self::Reset => "be reset",
            Self::Stop => "be stopped",
            Self::End(_) => "end",
        }
    }
}

impl Why {
    /// The problem in it, if the end was not a good one.
    pub const fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Failed { problem, .. } => Some(problem),
            Self::GuestPoweredOff
            | Self::GuestReset
            | Self::Asked
            | Self::LauncherGone
            | Self::Moved { .. } => None,
        }
    }

    /// One clause for the log.
    pub fn sentence(&self) -> String {
        match self {
            Self::GuestPoweredOff => "the guest switched itself off".to_owned(),
            Self::GuestReset => "the guest reset itself".to_owned(),
            Self::Asked => "stopped on request".to_owned(),
            Self::LauncherGone => "its launcher is gone".to_owned(),
            Self::Moved { to } => format!("the guest has moved to {to}"),
            Self::Failed { problem, .. } => problem.to_string(),
        }
    }
}

#[cfg(test)]
mod tests;
