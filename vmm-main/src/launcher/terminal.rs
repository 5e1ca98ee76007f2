// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The user's terminal: in raw mode while the guest uses it, and restored at all other times.
//!
//! Raw mode is entered only while the launcher's job is in the foreground, at its start or when it gets there, and
//! left before the job stops and at its end: by a drop guard, which runs after a panic too. If the launcher is
//! killed, a separate process restores the terminal ([`guard`]). Output processing stays on, because log lines may
//! share the terminal.

pub mod guard;

use std::fs::File;
use std::io::{self, IsTerminal, Stdin};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::Signal;
use rustix::termios::{OptionalActions, OutputModes, Termios, tcgetattr, tcgetpgrp, tcsetattr};

use self::guard::{Guard, Modes};
use crate::problem::Problem;

/// What kind of thing the console's input is.
#[derive(Debug, Clone)]
pub enum Input {
    /// A terminal: raw mode, escape keys, and job control.
    Terminal(Terminal),
    /// A file or pipe: bytes go through as they are.
    Stream,
}

/// The launcher's job with respect to its terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the foreground: input is ours.
    Foreground,
    /// In the background (`bulkhead run &`): reading would stop us, and the modes belong to another job.
    Background,
    /// It has hung up.
    Gone,
}

impl Input {
    /// Examines standard input. A terminal with our job in the foreground is in raw mode afterwards.
    pub fn of(stdin: &Stdin) -> Result<Self, Problem> {
        if !stdin.is_terminal() {
            return Ok(Self::Stream);
        }
        let refused = |error: io::Error| {
            Problem::host(
                format!("the terminal cannot be made raw: {error}"),
                "standard input",
                "use --console none, or another terminal",
            )
        };
        let file = stdin.as_fd().try_clone_to_owned().map_err(refused)?;
        let terminal = Terminal::new(file.into());
        if terminal.place() == Place::Foreground {
            terminal.enter().map_err(refused)?;
        }
        Ok(Self::Terminal(terminal))
    }

    /// The terminal, to be restored on drop.
    pub fn given_back(&self) -> Option<GivenBack> {
        match self {
            Self::Terminal(terminal) => Some(GivenBack(terminal.clone())),
            Self::Stream => None,
        }
    }
}

/// The terminal, shared by whoever changes its modes: input, job control, the end.
#[derive(Debug, Clone)]
pub struct Terminal(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    file: File,
    /// The modes to restore; set while it is in raw mode.
    before: Option<Termios>,
    guard: Option<Guard>,
    /// It was restored for the last time.
    closed: bool,
}

impl Terminal {
    /// The terminal behind `file`, unchanged.
    pub fn new(file: File) -> Self {
        Self(Arc::new(Mutex::new(State { file, before: None, guard: None, closed: false })))
    }

    /// Where the launcher's job stands.
    pub fn place(&self) -> Place {
        self.state().place()
    }

    /// Sets raw mode: no echo, no line editing, no signals from keys. Again, if the shell has changed the modes
    /// meanwhile.
    pub fn enter(&self) -> io::Result<()> {
        self.state().enter()
    }

    /// Waits until the job is in the foreground, polling every `interval`, and sets raw mode if it was not set.
    /// Returns the foreground, or that the terminal is gone or was restored for the last time.
    pub fn await_foreground(&self, interval: Duration) -> Place {
        let mut came = false;
        loop {
            let mut state = self.state();
            match state.place() {
                _ if state.closed => return Place::Gone,
                Place::Background => came = true,
                Place::Foreground => {
                    if came {
                        // A terminal that cannot be made raw still takes keys.
                        let _ = state.enter();
                    }
                    return Place::Foreground;
                }
                Place::Gone => return Place::Gone,
            }
            drop(state);
            thread::sleep(interval);
        }
    }

    /// Restores it before a stop.
    pub fn leave(&self) {
        self.state().leave();
    }

    /// Sets raw mode again after a stop, if the job is in the foreground.
    pub fn enter_in_foreground(&self) {
        let mut state = self.state();
        if state.place() == Place::Foreground {
            // A terminal that cannot be made raw still takes keys.
            let _ = state.enter();
        }
    }

    /// Restores it for the last time.
    pub fn close(&self) {
        let mut state = self.state();
        state.leave();
        state.closed = true;
        if let Some(guard) = state.guard.take() {
            guard.dismiss();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn place(&self) -> Place {
        match tcgetpgrp(&self.file) {
            Ok(foreground) if foreground == rustix::process::getpgrp() => Place::Foreground,
            Ok(_) => Place::Background,
            // Not the terminal of our session: it has no job control for us.
            Err(Errno::NOTTY) => Place::Foreground,
            // A session whose terminal has no foreground job.
            Err(Errno::OPNOTSUPP) => Place::Background,
            Err(_) => Place::Gone,
        }
    }

    fn enter(&mut self) -> io::Result<()> {
        if self.closed {
            return Ok(());
        }
        let now = tcgetattr(&self.file)?;
        let mut raw = now.clone();
        raw.make_raw();
        raw.output_modes |= now.output_modes & (OutputModes::OPOST | OutputModes::ONLCR);
        let is_raw = Modes::of(&now) == Modes::of(&raw);
        let before = match &self.before {
            // Unchanged since we set it.
            Some(before) if is_raw => before.clone(),
            _ => now,
        };
        if self.guard.is_none() {
            // The guard is for a launcher that is killed: without it everything else works.
            self.guard = Guard::start(&self.file).ok();
        }
        if let Some(guard) = &mut self.guard {
            guard.watch(&Modes::of(&before), &Modes::of(&raw));
        }
        tcsetattr(&self.file, OptionalActions::Now, &raw)?;
        self.before = Some(before);
        Ok(())
    }

    fn leave(&mut self) {
        let Some(before) = self.before.take() else { return };
        // In the background the modes are those of another job.
        if self.place() == Place::Foreground {
            // A terminal that has hung up cannot be restored and need not be.
            let _ = tcsetattr(&self.file, OptionalActions::Now, &before);
        }
        if let Some(guard) = &mut self.guard {
            guard.rest();
        }
    }
}

/// Stops like any job, with the terminal restored for the shell. The guest keeps running meanwhile.
pub fn stop_job(terminal: Option<&Terminal>) {
    if let Some(terminal) = terminal {
        terminal.leave();
    }
    // If it cannot be stopped it goes on.
    let _ = sandbox::signals::act_by_default(Signal::TSTP);
    if let Some(terminal) = terminal {
        terminal.enter_in_foreground();
    }
}

/// Restores the terminal on drop.
#[derive(Debug)]
pub struct GivenBack(pub Terminal);

impl Drop for GivenBack {
    fn drop(&mut self) {
        self.0.close();
    }
}

#[cfg(test)]
pub(super) mod tests;
