// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Attempts on the process's own sandbox, made on request. Debug builds only.

use ipc::protocol::control::Failure;
use ipc::protocol::probe::{Probe, ProbeOutcome};

/// Makes the attempt. Does not return from one that ends the process.
#[cfg(debug_assertions)]
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
        Probe::Panic => panic_on_request(),
        Probe::Hang => loop {
            std::thread::park();
        },
    };
    match sandbox::probe::attempt(attempt) {
        Outcome::Refused(errno) => Ok(ProbeOutcome::Denied { errno }),
        Outcome::Succeeded => Ok(ProbeOutcome::Allowed),
    }
}

#[cfg(debug_assertions)]
#[expect(clippy::panic, reason = "asked for, to see that a panic is reported")]
fn panic_on_request() -> ! {
    panic!("a panic was asked for")
}

/// A release build attempts nothing.
#[cfg(not(debug_assertions))]
pub fn attempt(probe: Probe) -> Result<ProbeOutcome, Failure> {
    Err(Failure::new(format!("attempt {probe:?}"), "only debug builds attempt anything"))
}
