// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A process's log: one line at a time on descriptor 2, each with its level in front, `<4>text`.
//!
//! The marks are those that system loggers read from standard error (sd-daemon(3)). The parent reads the pipe, bounds
//! and escapes what comes, and passes it on at that level; a line without a mark is nothing that was planned (a panic,
//! a message of the C library) and counts as a warning. A log that cannot be written must not end a process: nothing
//! here fails or panics, which `eprintln!` does.

use std::fmt::Arguments;
use std::io::Write;

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Something is lost: a device, the process.
    Error,
    /// Something is less than its owner may think.
    Warn,
    /// For whoever looks for the course of things.
    Info,
}

impl Level {
    /// What a line of this level begins with.
    #[must_use]
    pub const fn mark(self) -> &'static str {
        match self {
            Self::Error => "<3>",
            Self::Warn => "<4>",
            Self::Info => "<6>",
        }
    }
}

/// The level of a line that was read, and its text.
#[must_use]
pub fn split(line: &[u8]) -> (Level, &[u8]) {
    let marked = |level: Level| Some((level, line.strip_prefix(level.mark().as_bytes())?));
    let found = [Level::Error, Level::Warn, Level::Info].into_iter().find_map(marked);
    found.unwrap_or((Level::Warn, line))
}

/// Writes one line, whatever is in `text`. Called by the macros.
pub fn write(level: Level, text: Arguments<'_>) {
    // Nobody is left to tell of a log that takes nothing.
    let _ = std::io::stderr().write_all(line(level, text).as_bytes());
}

/// In one piece, so that threads do not write into each other's lines.
fn line(level: Level, text: Arguments<'_>) -> String {
    let mut line = format!("{}{text}", level.mark()).replace('\n', "; ");
    line.push('\n');
    line
}

/// Logs that something is lost.
#[macro_export]
#[doc(hidden)]
macro_rules! __log_error {
    ($($text:tt)*) => { $crate::log::write($crate::log::Level::Error, ::core::format_args!($($text)*)) };
}

/// Logs that something is less than its owner may think.
#[macro_export]
#[doc(hidden)]
macro_rules! __log_warn {
    ($($text:tt)*) => { $crate::log::write($crate::log::Level::Warn, ::core::format_args!($($text)*)) };
}

/// Logs the course of things.
#[macro_export]
#[doc(hidden)]
macro_rules! __log_info {
    ($($text:tt)*) => { $crate::log::write($crate::log::Level::Info, ::core::format_args!($($text)*)) };
}

pub use __log_error as error;
pub use __log_info as info;
pub use __log_warn as warn;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_carries_its_level_and_is_one_line() {
        for level in [Level::Error, Level::Warn, Level::Info] {
            let line = line(level, format_args!("first {}\nsecond", 1));
            let line = line.strip_suffix('\n').unwrap();
            assert_eq!(split(line.as_bytes()), (level, &b"first 1; second"[..]));
        }
    }

    #[test]
    fn line_that_nobody_marked_is_a_warning() {
        for line in ["thread 'x' panicked", "", "<", "<9>x", "<3", "4>x", " <3>x"] {
            assert_eq!(split(line.as_bytes()), (Level::Warn, line.as_bytes()));
        }
    }
}
