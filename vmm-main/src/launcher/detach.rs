// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `bulkhead run --detach`: the same command in a session of its own, which is waited for until its guest runs.
//!
//! The launcher is not forked but started anew, from the same file with the same arguments: so it has no thread and no
//! descriptor of this process. Until its guest runs it has this process's standard error, for what goes wrong; then it
//! lets go of it, and lives on without a terminal.

use std::env;
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use super::refused;
use super::started::RUNNING;
use crate::problem::Problem;

/// The user's flag.
const DETACH: &str = "--detach";
/// The flag of the process that lives on.
const DETACHED: &str = "--detached";

/// How it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detached {
    /// The guest runs; its launcher is this process.
    Running(u32),
    /// The launcher has said on standard error why it ended with this exit code.
    Ended(u8),
}

/// Starts the launcher and waits for it.
pub fn start() -> Result<Detached, Problem> {
    let host = |error: io::Error| refused("start the launcher", &error);
    let words =
        env::args_os().skip(1).map(|word| if word == DETACH { OsString::from(DETACHED) } else { word });
    let mut launcher = Command::new("/proc/self/exe")
        .arg0("bulkhead")
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(host)?;
    let mut said = Vec::new();
    if let Some(stdout) = launcher.stdout.take() {
        BufReader::new(stdout).read_until(b'\n', &mut said).map_err(host)?;
    }
    if said == RUNNING {
        return Ok(Detached::Running(launcher.id()));
    }
    let status = launcher.wait().map_err(host)?;
    Ok(Detached::Ended(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}

/// Leaves the session of whoever started this process: its terminal's end is not this process's.
pub fn leave_session() -> Result<(), Problem> {
    rustix::process::setsid().map(drop).map_err(|errno| refused("begin a session", &errno.into()))
}
