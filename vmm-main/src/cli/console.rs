// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `bulkhead console`: attaches standard input and output to the console of a VM that has no terminal.
//!
//! The terminal is in raw mode meanwhile; `Ctrl-A d` leaves the console, and the VM runs on. Ends with the VM.

use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use tokio::sync::mpsc;

use super::client_commands::target_name;
use crate::launcher::console_output::put;
use crate::launcher::escape::DETACH;
use crate::launcher::log;
use crate::launcher::relay::{self, Relay, Sink};
use crate::launcher::runtime_dir::RuntimeDir;
use crate::launcher::signals::{Asked, Signals};
use crate::launcher::terminal::{self, GivenBack, Input, Terminal};
use crate::printable;
use crate::problem::{Class, Problem};

/// Whose console.
#[derive(Debug, clap::Args)]
pub struct ConsoleFlags {
    /// Name of the VM; may be left out while only one runs
    name: Option<String>,
}

/// Standard output, and whoever waits for the end of the guest's.
struct Shown {
    stdout: std::fs::File,
    ended: Option<mpsc::Sender<()>>,
}

impl Sink for Shown {
    fn take(&mut self, bytes: &[u8]) {
        // Whoever reads it is gone: so is the reason to stay.
        if put(&mut self.stdout, bytes).is_err() {
            self.ended = None;
        }
    }

    fn finish(&mut self) {
        self.ended = None;
    }
}

/// Attaches until the user leaves, or the VM ends.
pub fn attach(flags: &ConsoleFlags) -> Result<(), Problem> {
    let runtime_dir = RuntimeDir::find()?;
    let name = target_name(flags.name.as_deref(), &runtime_dir)?;
    let stream = connect(&runtime_dir, &name)?;
    let host = |step: &'static str| move |error: io::Error| refused(step, &error);
    let stdin = io::stdin();
    let kind = Input::of(&stdin)?;
    let terminal = kind.given_back();
    if terminal.is_some() {
        log::tell(&format!("the console of {name}; {}", DETACH.help));
    }
    let (left, mut leaves) = mpsc::channel(1);
    let (ended, mut ends) = mpsc::channel(1);
    let shown = Shown { stdout: log::own_copy(io::stdout().as_fd())?, ended: Some(ended) };
    let output = stream.try_clone().map_err(host("share the console"))?;
    Relay::start("console-out", output, shown).map_err(host("start a thread"))?;
    relay::start_input(stdin, kind, stream, DETACH, left).map_err(host("start a thread"))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(host("start a runtime"))?;
    runtime.block_on(async {
        let mut signals = Signals::new().map_err(host("handle signals"))?;
        let mut can_leave = true;
        loop {
            let terminal = terminal.as_ref().map(|GivenBack(terminal)| terminal);
            // Every arm is cancel-safe.
            tokio::select! {
                _ = ends.recv() => return Ok(()),
                left = leaves.recv(), if can_leave => match left {
                    Some(()) => return Ok(()),
                    // A file or pipe has ended: what the guest prints is still shown.
                    None => can_leave = false,
                },
                asked = signals.next() => match asked {
                    Asked::End => return Ok(()),
                    Asked::Stop => terminal::stop_job(terminal),
                    Asked::Continued => drop(terminal.map(Terminal::enter_in_foreground)),
                },
            }
        }
    })
}

fn connect(runtime_dir: &RuntimeDir, name: &str) -> Result<UnixStream, Problem> {
    let path = runtime_dir.console_path(name);
    UnixStream::connect(&path).map_err(|error| {
        let is_missing = matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused);
        let (class, what, advice) = if is_missing && runtime_dir.socket_path(name).exists() {
            (
                Class::State,
                format!("the VM called {name} has no console to attach to"),
                "start it with --console socket, or --detach",
            )
        } else if is_missing {
            let advice = "`bulkhead ps` lists the VMs that run";
            (Class::Unreachable, format!("no VM called {name} runs"), advice)
        } else {
            let what = format!("the console of the VM called {name} cannot be reached: {error}");
            (Class::Unreachable, what, "look at the `bulkhead run` process")
        };
        Problem::new(class, what, printable::path(&path), advice).because_of(&error)
    })
}

fn refused(step: &'static str, error: &io::Error) -> Problem {
    Problem::host(format!("the host refuses to {step}: {error}"), "console", "check this user's limits")
        .because_of(error)
}
