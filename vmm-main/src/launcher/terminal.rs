// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The user's terminal in raw mode, and back: on every way out of the launcher short of SIGKILL.
//!
//! Restoring is a drop guard, so it also runs when the launcher panics; signals are turned into an orderly
//! end and pass the guard too. Output processing stays on, because log lines share the terminal.

use std::io::{IsTerminal, Stdin};

use rustix::termios::{OptionalActions, OutputModes, Termios, tcgetattr, tcgetpgrp, tcsetattr};

use crate::problem::Problem;

/// What kind of thing the console's input is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// A terminal that is ours to read: raw mode, escape keys.
    Terminal,
    /// A file or pipe: bytes go through as they are.
    Stream,
    /// A terminal that belongs to another job (`bulkhead run &`): reading it would stop us.
    Nothing,
}

/// Looks at standard input.
pub fn input_kind(stdin: &Stdin) -> Input {
    if !stdin.is_terminal() {
        return Input::Stream;
    }
    match tcgetpgrp(stdin) {
        Ok(foreground) if foreground == rustix::process::getpgrp() => Input::Terminal,
        Ok(_) | Err(_) => Input::Nothing,
    }
}

/// The terminal is raw as long as this lives.
#[derive(Debug)]
pub struct RawMode {
    stdin: Stdin,
    before: Termios,
}

impl RawMode {
    /// Makes the terminal raw: no echo, no line editing, no signals from keys.
    pub fn enter(stdin: Stdin) -> Result<Self, Problem> {
        let refused = |error: rustix::io::Errno| {
            Problem::host(
                format!("the terminal cannot be made raw: {error}"),
                "standard input",
                "use --console none, or another terminal",
            )
            .because_of(&error.into())
        };
        let before = tcgetattr(&stdin).map_err(refused)?;
        let mut raw = before.clone();
        raw.make_raw();
        raw.output_modes |= before.output_modes & (OutputModes::OPOST | OutputModes::ONLCR);
        tcsetattr(&stdin, OptionalActions::Now, &raw).map_err(refused)?;
        Ok(Self { stdin, before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // A terminal that has hung up cannot be restored and need not be.
        let _ = tcsetattr(&self.stdin, OptionalActions::Now, &self.before);
    }
}
