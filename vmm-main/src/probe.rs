// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Attempts on the sandbox that a process of ours makes on the coordinator's request. Debug builds only.

use ipc::protocol::control::Failure;
use ipc::protocol::probe::{Probe, ProbeOutcome};

/// Makes the attempt; does not return when the filter ends the process.
#[cfg(debug_assertions)]
#[expect(clippy::panic, reason = "to panic is what this probe asks for")]
pub fn attempt(probe: Probe) -> Result<ProbeOutcome, Failure> {
    use sandbox::probe::{Attempt, Outcome};
    let attempt = match probe {
        Probe::Open => Attempt::OpenRoot,
        Probe::Socket => Attempt::SocketInet,
        Probe::Execve => Attempt::Execve,
        Probe::Ptrace => Attempt::Ptrace,
        Probe::ForeignIoctl => Attempt::ForeignIoctl,
        Probe::MmapExec => Attempt::MmapExec,
        Probe::Fork => Attempt::Fork,
        Probe::Unshare => Attempt::Unshare,
        Probe::Kill => Attempt::KillOther,
        Probe::Mount => Attempt::Mount,
        Probe::Panic => panic!("asked to panic by a probe"),
        Probe::Hang => loop {
            std::thread::sleep(std::time::Duration::from_secs(3600));
        },
    };
    Ok(match sandbox::probe::attempt(attempt) {
        Outcome::Refused(errno) => ProbeOutcome::Denied { errno },
        Outcome::Succeeded => ProbeOutcome::Allowed,
    })
}

/// A release build attempts nothing.
#[cfg(not(debug_assertions))]
pub fn attempt(probe: Probe) -> Result<ProbeOutcome, Failure> {
    Err(Failure::new(format!("probe {probe:?}"), "this is a release build"))
}
