// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Attempts that a sealed process makes on request, to show from inside that the sandbox holds.
//!
//! Debug builds only: a release build answers `Failed`. The crate `sandbox`, which this one does not use, makes the
//! attempts: a probe has the name of its attempt there, and the process passes [`Probe::make`] a function that makes an
//! attempt by name. If the sandbox kills the process for the attempt there is no reply: the coordinator sees
//! `PeerGone`, and the reason in the crash page.

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

/// The outcome of an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProbeOutcome {
    /// Refused with this error number.
    Denied {
        /// The number.
        errno: i32,
    },
    /// It succeeded: the sandbox has a hole.
    Allowed,
}

impl Probe {
    /// The name of the attempt in the crate `sandbox`.
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

    /// Makes the attempt by calling `by_name`, which returns the error number if it was refused, and `None` for a name
    /// that it does not know.
    ///
    /// # Errors
    /// If `by_name` does not know the name, as in a release build.
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
