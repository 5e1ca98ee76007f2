// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The sealed process's log, printed line by line.
//!
//! Its text may be a guest's, and the process may be compromised: lines are truncated, control characters escaped,
//! and the rate limited. Errors of writing to standard error are ignored.

use std::io::Write;
use std::time::{Duration, Instant};

/// The longest line that is printed whole.
const LINE_LEN_MAX: usize = 1024;
/// Lines printed in a burst, and then one every [`PAUSE`]: a healthy process logs a few in its life.
const BURST: u32 = 100;
const PAUSE: Duration = Duration::from_secs(10);

/// Prints a line of the launcher's own.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Its log stream.
pub struct Output {
    line: Vec<u8>,
    spent: u32,
    since: Instant,
}

impl Output {
    pub fn new(now: Instant) -> Self {
        Self { line: Vec::new(), spent: 0, since: now }
    }

    /// Collects bytes and passes whole lines to `print`.
    pub fn feed(&mut self, bytes: &[u8], now: Instant, mut print: impl FnMut(&str)) {
        for byte in bytes {
            if *byte == b'\n' {
                self.end_line(now, &mut print);
            } else if self.line.len() < LINE_LEN_MAX {
                self.line.push(*byte);
            }
        }
    }

    fn end_line(&mut self, now: Instant, print: &mut impl FnMut(&str)) {
        let line = std::mem::take(&mut self.line);
        let regained = now.saturating_duration_since(self.since).as_secs() / PAUSE.as_secs();
        if regained > 0 {
            self.spent = self.spent.saturating_sub(u32::try_from(regained).unwrap_or(u32::MAX));
            self.since = now;
        }
        if self.spent < BURST {
            self.spent += 1;
            // The level is for a coordinator, and not shown here.
            print(&printable(ipc::log::split(&line).1));
        }
    }
}

/// The bytes as one line without control characters.
fn printable(line: &[u8]) -> String {
    let mut shown = String::new();
    for c in String::from_utf8_lossy(line).trim_end().chars() {
        if c.is_control() {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}
