// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Attempts that a sealed process makes on request, to show from the inside that it is locked in.
//!
//! Answered in debug builds only: a release build answers `Failed`. The names are those of the sandbox' own
//! attempts; the two crates do not know each other, each process maps one to the other. An attempt that the
//! sandbox answers by ending the process has no reply: the asker sees `PeerGone`, and the reason in the crash page.

use serde::{Deserialize, Serialize};

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
