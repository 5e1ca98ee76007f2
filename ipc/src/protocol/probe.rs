// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Attempts that a sealed process makes on request, to show from the inside that it is locked in.
//!
//! Answered in debug builds only: a release build answers `Failed`. The sandbox makes the attempts and this crate does
//! not know it: a probe says the sandbox' name of itself, and the process hands [`Probe::make`] what attempts by name.
//! An attempt that the sandbox answers by ending the process has no reply: the asker sees `PeerGone`, and the reason
//! in the crash page.

use serde::{Deserialize, Serialize};

use crate::protocol::control::Failure;

/// What to attempt. Append only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Probe {
    /// Open a path for reading.
    Open,
    /// Make an internet socket.
    Socket,
    /// Execute a program.
    Execve,
    /// Attach to another process.
    Ptrace,
    /// Call an ioctl that is not in the profile.
    ForeignIoctl,
    /// Map memory that can be executed.
    MmapExec,
    /// Start a process.
    Fork,
    /// Make a new user namespace.
    Unshare,
    /// Send a signal to another process.
    Kill,
    /// Mount a file system.
    Mount,
    /// Panic, as a bug would.
    Panic,
    /// Never answer again, as a hang would.
    Hang,
    /// Write far behind the end of its image.
    FarWrite,
    /// Map more memory of its own than any process needs.
    MuchMemory,
    /// Map more of a file than any process needs.
    MuchAddressSpace,
}

/// How it went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProbeOutcome {
    /// Refused with this error number.
    Denied {
        /// The number.
        errno: i32,
    },
    /// It worked: the wall has a hole.
    Allowed,
}

impl Probe {
    /// The sandbox' name of the attempt.
    #[must_use]
    pub const fn attempt_name(self) -> &'static str {
        match self {
            Self::Open => "open-root",
            Self::Socket => "socket-inet",
            Self::Execve => "execve",
            Self::Ptrace => "ptrace",
            Self::ForeignIoctl => "foreign-ioctl",
            Self::MmapExec => "mmap-exec",
            Self::Fork => "fork",
            Self::Unshare => "unshare",
            Self::Kill => "kill-other",
            Self::Mount => "mount",
            Self::Panic => "panic",
            Self::Hang => "hang",
            Self::FarWrite => "far-write",
            Self::MuchMemory => "much-memory",
            Self::MuchAddressSpace => "much-address-space",
        }
    }

    /// Makes the attempt through `by_name`, which gives `None` for what it does not attempt, and the error number
    /// of what was refused.
    ///
    /// # Errors
    /// If `by_name` attempts nothing of this name: a release build attempts nothing at all.
    pub fn make(
        self,
        by_name: impl FnOnce(&str) -> Option<Result<(), i32>>,
    ) -> Result<ProbeOutcome, Failure> {
        match by_name(self.attempt_name()) {
            Some(Ok(())) => Ok(ProbeOutcome::Allowed),
            Some(Err(errno)) => Ok(ProbeOutcome::Denied { errno }),
            None => Err(Failure::new(format!("attempt {self:?}"), "only debug builds attempt anything")),
        }
    }
}
