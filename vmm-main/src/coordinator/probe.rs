// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Attempts on a sandbox, by the names that the API takes. Debug builds only: elsewhere every name is unknown.

use ipc::protocol::probe::{Probe, ProbeOutcome};

use crate::api::types::ProbeAnswer;
use crate::problem::Problem;

/// The probes that every process knows.
const PROBES: [(&str, Probe); 15] = [
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
    ("far-write", Probe::FarWrite),
    ("much-memory", Probe::MuchMemory),
    ("much-address-space", Probe::MuchAddressSpace),
];

/// The probe called `name`.
pub fn by_name(name: &str) -> Result<Probe, Problem> {
    PROBES.iter().find(|(known, _)| *known == name).map(|(_, probe)| *probe).ok_or_else(unknown)
}

/// Makes the attempt in the coordinator itself; returns only if it survives.
pub fn attempt_here(name: &str) -> Result<ProbeOutcome, Problem> {
    by_name(name)?
        .make(sandbox::by_name::attempt)
        .map_err(|failure| Problem::usage(failure.why, "attempt", "use a debug build"))
}

/// The outcome of a probe that the process survived.
pub fn outcome(outcome: &ProbeOutcome) -> ProbeAnswer {
    let outcome = match outcome {
        ProbeOutcome::Denied { errno } => format!("refused with errno {errno}"),
        ProbeOutcome::Allowed => "allowed".to_owned(),
    };
    ProbeAnswer { outcome }
}

fn unknown() -> Problem {
    let names: Vec<&str> = PROBES.iter().map(|(name, _)| *name).collect();
    Problem::usage("there is no such probe", "attempt", format!("give one of {}", names.join(", ")))
}
