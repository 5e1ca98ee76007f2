// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Attempts on a sandbox, by the names that the API takes. Debug builds only: elsewhere every name is unknown.

use ipc::protocol::probe::Probe;

use crate::problem::Problem;

/// The probes that every process knows.
const PROBES: [(&str, Probe); 12] = [
    ("open", Probe::Open),
    ("socket", Probe::Socket),
    ("execve", Probe::Execve),
    ("ptrace", Probe::Ptrace),
    ("foreign-ioctl", Probe::ForeignIoctl),
    ("mmap-exec", Probe::MmapExec),
    ("fork", Probe::Fork),
    ("unshare", Probe::Unshare),
    ("kill", Probe::Kill),
    ("mount", Probe::Mount),
    ("panic", Probe::Panic),
    ("hang", Probe::Hang),
];

/// The probe called `name`.
pub fn by_name(name: &str) -> Result<Probe, Problem> {
    PROBES.iter().find(|(known, _)| *known == name).map(|(_, probe)| *probe).ok_or_else(unknown)
}

/// Lets the coordinator itself attempt it; returns only if it survives.
#[cfg(debug_assertions)]
pub fn attempt_here(name: &str) -> Result<String, Problem> {
    use sandbox::probe::{Attempt, Outcome, attempt};
    let attempted = match by_name(name)? {
        Probe::Open => Attempt::OpenRoot,
        Probe::Socket => Attempt::SocketInet,
        Probe::Execve => Attempt::Execve,
        Probe::Ptrace => Attempt::Ptrace,
        Probe::ForeignIoctl => Attempt::ForeignIoctl,
        Probe::MmapExec => Attempt::MmapExec,
        Probe::Fork => Attempt::Fork,
        Probe::Unshare => Attempt::NewUserNamespace,
        Probe::Kill => Attempt::KillOther,
        Probe::Mount => Attempt::Mount,
        Probe::Panic | Probe::Hang => return Err(unknown()),
    };
    Ok(match attempt(attempted) {
        Outcome::Refused(errno) => format!("refused with errno {errno}"),
        Outcome::Succeeded => "allowed".to_owned(),
    })
}

/// Release builds attempt nothing.
#[cfg(not(debug_assertions))]
pub fn attempt_here(_name: &str) -> Result<String, Problem> {
    Err(unknown())
}

fn unknown() -> Problem {
    let names: Vec<&str> = PROBES.iter().map(|(name, _)| *name).collect();
    Problem::usage("there is no such probe", "attempt", format!("give one of {}", names.join(", ")))
}
