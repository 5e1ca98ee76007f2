// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The log of a process: lines on descriptor 2, each prefixed by its level as in sd-daemon(3), `<4>text`.
//!
//! The parent reads the pipe, limits and escapes each line, and logs it at that level. A line without a prefix (a
//! panic, a message of the C library) counts as a warning. Nothing here fails or panics, as `eprintln!` would: a log
//! that cannot be written must not end a process.

use std::fmt::Arguments;
use std::io::Write;

/// The level of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// A device or the process is lost.
    Error,
    /// Something does not work as configured; the guest goes on.
    Warn,
    /// Progress.
    Info,
}

impl Level {
    /// The prefix of a line of this level.
    #[must_use]
    pub const fn mark(self) -> &'static str {
        match self {
            Self::Error => "<3>",
            Self::Warn => "<4>",
            Self::Info => "<6>",
        }
    }
}

/// Splits a line into its level and its text.
#[must_use]
pub fn split(line: &[u8]) -> (Level, &[u8]) {
    let marked = |level: Level| Some((level, line.strip_prefix(level.mark().as_bytes())?));
    let found = [Level::Error, Level::Warn, Level::Info].into_iter().find_map(marked);
    found.unwrap_or((Level::Warn, line))
}

/// Writes one line, whatever is in `text`. Called by the macros.
pub fn write(level: Level, text: Arguments<'_>) {
    // An error to write the log has nowhere to go.
    let _ = std::io::stderr().write_all(line(level, text).as_bytes());
}

/// The line in one piece, so that lines of several threads do not mix.
fn line(level: Level, text: Arguments<'_>) -> String {
    let mut line = format!("{}{text}", level.mark()).replace('\n', "; ");
    line.push('\n');
    line
}

/// Logs at [`Level::Error`].
#[macro_export]
#[doc(hidden)]
macro_rules! __log_error {
    ($($text:tt)*) => { $crate::log::write($crate::log::Level::Error, ::core::format_args!($($text)*)) };
}

/// Logs at [`Level::Warn`].
#[macro_export]
#[doc(hidden)]
macro_rules! __log_warn {
    ($($text:tt)*) => { $crate::log::write($crate::log::Level::Warn, ::core::format_args!($($text)*)) };
}

/// Logs at [`Level::Info`].
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
