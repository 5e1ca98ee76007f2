// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The VM's log: from the coordinator's pipe to standard error or a file, separate from the guest's console.
//!
//! Standard error, if it is not where the console goes. Where both are one terminal, a file beside the control
//! socket, and on the terminal only warnings that come before the guest's first byte. Where both are one pipe or file
//! (a service manager's), whole lines between the guest's. A file that the user names takes precedence. Files and
//! lines have a bounded size, and control characters are escaped: the coordinator may be compromised by a guest.

use std::fs::File;
use std::io::{self, IsTerminal, PipeWriter, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;

use ipc::log::{self, Level};

use super::console_output::put;
use super::relay::Sink;
use super::rotated_file::RotatedFile;
use super::runtime_dir::RuntimeDir;
use super::screen::Screen;
use crate::config::{ConsoleMode, STDERR_NAME, VmConfig};
use crate::printable;
use crate::problem::Problem;

/// A run logs a page or two; this is enough for one that is flooded for days.
const FILE_LEN_MAX: u64 = 1 << 20;
/// First line of a log file, as text and as JSON: identifies files of ours.
const HEADS: [&str; 2] = ["bulkhead log\n", "{\"message\":\"bulkhead log\"}\n"];
/// Longest write of a coordinator, with room.
const LINE_LEN_MAX: usize = 8192;

/// Where lines go.
#[derive(Debug)]
enum Route {
    /// Standard error, which is not where the console goes.
    Apart(File),
    /// Standard error, which is also where the console goes.
    Between(File, Arc<Screen>),
    /// A file; warnings also go to the terminal until the guest's first output.
    Kept(RotatedFile, Option<(File, Arc<Screen>)>),
}

/// The log's output.
#[derive(Debug)]
pub struct LogOutput {
    route: Route,
    json: bool,
    line: Vec<u8>,
    /// Warnings and errors that went to the file only.
    unseen_count: u64,
}

impl LogOutput {
    /// Chooses where the log of this VM goes; the console's output is shown on `screen`. A launcher that `is_detached`
    /// has no standard error.
    pub fn open(
        config: &VmConfig,
        runtime_dir: &RuntimeDir,
        screen: &Arc<Screen>,
        is_detached: bool,
    ) -> Result<Self, Problem> {
        let refused = |path: &Path, error: &io::Error| {
            Problem::host(
                format!("the log cannot be written: {error}"),
                printable::path(path),
                "give another file with --log-file, or `-` for standard error",
            )
        };
        let (stdout, stderr) = (io::stdout(), io::stderr());
        let shown = config.console == ConsoleMode::Stdio;
        let together = shown && is_one_place(stdout.as_fd(), stderr.as_fd());
        let errors = || own_copy(stderr.as_fd());
        let own_file = || {
            let path = runtime_dir.log_path(&config.name);
            let head = if config.json_log { HEADS[1] } else { HEADS[0] };
            RotatedFile::begin(&path, FILE_LEN_MAX, head, &HEADS).map_err(|error| refused(&path, &error))
        };
        let named = config.log_file.as_deref();
        let route = match named {
            Some(path) if path.as_os_str() != STDERR_NAME => {
                let file = RotatedFile::append(path, FILE_LEN_MAX);
                Route::Kept(file.map_err(|error| refused(path, &error))?, None)
            }
            None if is_detached => Route::Kept(own_file()?, None),
            None if together && stderr.is_terminal() => {
                let file = own_file()?;
                let path = printable::path(file.path());
                tell(&format!("the log is in {path} while the guest has this terminal"));
                Route::Kept(file, Some((errors()?, Arc::clone(screen))))
            }
            Some(_) | None if together => Route::Between(errors()?, Arc::clone(screen)),
            Some(_) | None => Route::Apart(errors()?),
        };
        Ok(Self { route, json: config.json_log, line: Vec::new(), unseen_count: 0 })
    }

    /// Reports how many warnings and errors went to the file only.
    pub fn tell_unseen(&self) {
        if let (Route::Kept(file, Some(_)), 1..) = (&self.route, self.unseen_count) {
            let lines = if self.unseen_count == 1 { "warning or error is" } else { "warnings or errors are" };
            tell(&format!("{} {lines} in {}", self.unseen_count, printable::path(file.path())));
        }
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            return;
        }
        let (level, text) = log::split(&line);
        let mut text = if self.json { without_controls(text) } else { printable::line(text) };
        text.push('\n');
        // An error of writing the log cannot be reported anywhere.
        let _ = match &mut self.route {
            Route::Apart(stderr) => put(stderr, text.as_bytes()),
            Route::Between(stderr, screen) => screen.product(|in_a_line| {
                let text = if in_a_line { format!("\n{text}") } else { text };
                put(stderr, text.as_bytes())
            }),
            Route::Kept(file, terminal) => {
                let kept = put(file, text.as_bytes());
                match terminal {
                    Some((stderr, screen)) if level < Level::Info && !screen.begun() => {
                        put(stderr, text.as_bytes())
                    }
                    Some(_) if level < Level::Info => {
                        self.unseen_count = self.unseen_count.saturating_add(1);
                        kept
                    }
                    Some(_) | None => kept,
                }
            }
        };
    }
}

impl Sink for LogOutput {
    fn take(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' {
                self.end_line();
            } else if self.line.len() < LINE_LEN_MAX {
                self.line.push(byte);
            }
        }
    }

    fn finish(&mut self) {
        self.end_line();
    }
}

/// The launcher's own lines: written to the same pipe, without blocking.
#[derive(Debug)]
pub struct OwnLog {
    pipe: PipeWriter,
    json: bool,
}

impl OwnLog {
    /// Writes into `pipe`, which becomes non-blocking.
    pub fn new(pipe: PipeWriter, json: bool) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&pipe, true)?;
        Ok(Self { pipe, json })
    }

    /// Logs `text`.
    pub fn say(&self, level: Level, text: &str) {
        let word = match level {
            Level::Error => "ERROR",
            Level::Warn => "WARN",
            Level::Info => "INFO",
        };
        let line = if self.json {
            serde_json::json!({ "level": word, "message": text }).to_string()
        } else {
            format!("{word} {}", printable::line(text.as_bytes()))
        };
        // The pipe is full, so its reader hangs: the line is dropped.
        let _ = (&self.pipe).write_all(format!("{}{line}\n", level.mark()).as_bytes());
    }
}

/// Prints a message of the launcher to the user, outside of the log.
pub fn tell(text: &str) {
    // Ignored: standard error may be closed.
    let _ = writeln!(io::stderr(), "bulkhead: {text}");
}

/// Whether both lead to one terminal, pipe, socket or file.
fn is_one_place(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> bool {
    let id = |fd| rustix::fs::fstat(fd).map(|stat| (stat.st_dev, stat.st_ino));
    id(one).is_ok_and(|one| id(other) == Ok(one))
}

/// A descriptor without a buffer in front of it.
pub fn own_copy(fd: BorrowedFd<'_>) -> Result<File, Problem> {
    fd.try_clone_to_owned().map(File::from).map_err(|error| super::refused("share an output", &error))
}

/// JSON escapes control characters itself: any that are left are replaced.
fn without_controls(text: &[u8]) -> String {
    String::from_utf8_lossy(text).replace(char::is_control, "\u{fffd}")
}

#[cfg(test)]
mod tests;
