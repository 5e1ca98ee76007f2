// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The command line: `bulkhead run` and the commands that speak to a running VM.
//!
//! Exit codes: 0 done (for `run`: the guest switched itself off, was stopped on request, or reset itself where that
//! ends it); 1 the host refused something; 2 wrong command line, configuration or image; 3 a process of the VM died; 4
//! no such VM, or it does not answer; 5 not possible in the VM's state. An error is one line on standard error.

mod audit;
mod client_commands;
mod console;
mod flags;
mod host_pids;
mod migration;
mod observation;
mod watch;

use std::ffi::OsString;
use std::io::Write;
use std::process::{Command, ExitCode};

use clap::{Parser, Subcommand};

use crate::config::VmConfig;
use crate::launcher;
use crate::launcher::detach::{self, Detached};
use crate::lifecycle::Why;
use crate::printable;
use crate::problem::Problem;
use crate::system;

use self::client_commands::Target;
use self::flags::{Place, RunFlags};

/// Runs arm64 guests on isolated, sealed processes.
#[derive(Debug, Parser)]
#[command(name = "bulkhead", version, about, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    command: CliCommand,
}

const EXIT_CODES: &str = "Exit codes: 0 done; 1 the host refused something; 2 wrong command line, configuration or \
image; 3 a process of the VM died; 4 no such VM, or it does not answer; 5 not possible in the VM's state.";

#[derive(Debug, Subcommand)]
enum CliCommand {
    /// Start a VM and stay with it until it ends (Ctrl-A x on a terminal stops it, Ctrl-A h shows the keys), or detach
    Run(Box<RunFlags>),
    /// Show the processes of a VM, or of all VMs, and how each is confined
    Ps(Target),
    /// Compare every process of a VM with its profile and the system table, from outside; or show a profile
    Audit(Box<audit::AuditFlags>),
    /// Show the state of a VM
    Status(Target),
    /// Show counters and states of a VM's processes
    Inspect(Target),
    /// Pause a guest: its CPUs and devices
    Pause(Target),
    /// Resume a paused guest
    Resume(Target),
    /// Shut a VM down in order
    Stop(Target),
    /// Save every process of a running VM, start new ones, restore, and resume the guest
    SaveRestore(Target),
    /// Wait for a guest that `migrate` moves here, and stay with it as `run` does
    Receive(Box<migration::ReceiveFlags>),
    /// Move a guest to a host where `receive` waits for it
    Migrate(migration::MigrateFlags),
    /// Attach to the console of a VM that has no terminal (Ctrl-A d leaves it)
    Console(console::ConsoleFlags),
    /// Start one process of a running VM anew, and those it cannot do without, with all that they remember
    Restart(client_commands::RestartFlags),
    /// Measure how fast a guest dirties its memory, and which of its processes do
    DirtyRate(client_commands::DirtyRateFlags),
    /// Check what this host offers for physical PCI devices, and what is missing
    HostCheck(HostCheckFlags),
    /// (debug builds) Let a process attempt what its sandbox refuses
    #[cfg(debug_assertions)]
    Probe(client_commands::ProbeFlags),
    /// (internal) The sealed process that `run` starts
    #[command(hide = true)]
    Coordinator,
}

/// Flags of `bulkhead host-check`.
#[derive(Debug, clap::Args)]
struct HostCheckFlags {
    /// A PCI device that is bound to vfio-pci: tried as a VM would use it, and left as it was
    #[arg(long, value_name = "ADDRESS")]
    device: Option<String>,
}

/// The program `bulkhead`.
pub fn main() -> ExitCode {
    // The coordinator has no environment, no terminal and only its own descriptors: its path must not need any of
    // them.
    if std::env::args_os().nth(1).is_some_and(|word| word == "coordinator") {
        return crate::coordinator::main();
    }
    if std::env::args_os().nth(1).is_some_and(|word| word == launcher::terminal::guard::COMMAND) {
        return launcher::terminal::guard::main();
    }
    let form = Form::asked_for(std::env::args_os());
    match dispatch(Cli::parse().command) {
        Ok(code) => code,
        Err(Failure { problem, form: known }) => {
            tell(&problem, known.unwrap_or(form));
            problem.exit()
        }
    }
}

/// How a failure is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// A line of text.
    Line,
    /// The answer of a command with `--json`.
    Answer,
    /// A line of a log that is JSON: in the same form as the others.
    LogLine,
}

impl Form {
    /// From the raw arguments, which may be invalid otherwise.
    fn asked_for(words: impl Iterator<Item = OsString>) -> Self {
        let mut form = Self::Line;
        for word in words {
            match word.to_str() {
                Some("--json") => return Self::Answer,
                Some("--json-log" | "--json-log=true") => form = Self::LogLine,
                _ => {}
            }
        }
        form
    }
}

/// A command that failed; a configuration file may have said how that is printed.
struct Failure {
    problem: Problem,
    form: Option<Form>,
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self { problem, form: None }
    }
}

fn dispatch(command: CliCommand) -> Result<ExitCode, Failure> {
    let done = match command {
        CliCommand::Run(flags) => {
            let place = flags.place();
            return run(flags.resolve()?, place);
        }
        CliCommand::Receive(flags) => {
            let place = flags.place();
            return run(flags.resolve()?, place);
        }
        CliCommand::Audit(flags) => return Ok(audit::audit(&flags)?),
        CliCommand::Migrate(flags) => migration::migrate(&flags),
        CliCommand::Ps(target) => client_commands::ps(&target),
        CliCommand::Status(target) => client_commands::status(&target),
        CliCommand::Inspect(target) => client_commands::inspect(&target),
        CliCommand::Pause(target) => client_commands::change(&target, "/v1/pause"),
        CliCommand::Resume(target) => client_commands::change(&target, "/v1/resume"),
        CliCommand::Stop(target) => client_commands::change(&target, "/v1/stop"),
        CliCommand::HostCheck(flags) => host_check(flags.device.as_deref()),
        CliCommand::Restart(flags) => client_commands::restart(&flags),
        CliCommand::DirtyRate(flags) => client_commands::dirty_rate(&flags),
        CliCommand::Console(flags) => console::attach(&flags),
        CliCommand::SaveRestore(target) => client_commands::save_restore(&target),
        #[cfg(debug_assertions)]
        CliCommand::Probe(flags) => client_commands::probe(&flags),
        CliCommand::Coordinator => {
            Err(Problem::usage("this command is internal", "coordinator", "use `bulkhead run`"))
        }
    };
    Ok(done.map(|()| ExitCode::SUCCESS)?)
}

fn run(config: VmConfig, place: Place) -> Result<ExitCode, Failure> {
    let form = Some(if config.json_log { Form::LogLine } else { Form::Line });
    if place == Place::Detaching {
        return Ok(match detach::start()? {
            Detached::Running(pid) => {
                // With standard output closed only the exit code is left.
                let _ = writeln!(
                    std::io::stdout(),
                    "{name} runs, its launcher is process {pid}; `bulkhead console {name}` shows its console",
                    name = config.name
                );
                ExitCode::SUCCESS
            }
            Detached::Ended(code) => ExitCode::from(code),
        });
    }
    match launcher::run(config, place == Place::Detached) {
        Ok(Why::GuestPoweredOff | Why::GuestReset | Why::Asked | Why::LauncherGone | Why::Moved { .. }) => {
            Ok(ExitCode::SUCCESS)
        }
        // The last lines of the process that failed are in the log already.
        Ok(Why::Failed { problem, last_lines: _ }) | Err(problem) => Err(Failure { problem, form }),
    }
}

/// Runs the program of physical devices to check the host.
fn host_check(device: Option<&str>) -> Result<(), Problem> {
    let program = launcher::programs::path(system::roles::VFIO_KERNEL_PROGRAM)?;
    let place = printable::path(&program);
    let status = Command::new(&program).arg("host-check").args(device).status();
    let status = status.map_err(|error| {
        Problem::host(
            format!("the program cannot be run: {error}"),
            place,
            "install all programs of one build",
        )
        .because_of(&error)
    })?;
    if status.success() {
        return Ok(());
    }
    Err(Problem::host(
        "this host lacks what a VM with a physical PCI device needs",
        device.unwrap_or("host-check"),
        "see the lines marked NO above",
    ))
}

/// Prints a failure. With standard error closed only the exit code is left.
fn tell(problem: &Problem, form: Form) {
    let text = || format!("bulkhead: {problem}");
    let line = match form {
        Form::Line => text(),
        Form::Answer => serde_json::to_string(problem).unwrap_or_else(|_| text()),
        Form::LogLine => {
            let subscriber = tracing_subscriber::fmt()
                .json()
                .flatten_event(true)
                .with_target(false)
                .with_writer(std::io::stderr)
                .finish();
            let Problem { class, what, place, advice } = problem;
            return tracing::subscriber::with_default(subscriber, || {
                tracing::error!(class = class.as_str(), what, "where" = place, advice, "{problem}");
            });
        }
    };
    let _ = writeln!(std::io::stderr(), "{line}");
}

#[cfg(test)]
mod tests;
