// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the sealed process says, printed line by line.
//!
//! Its text may be a guest's, and it may have been taken over: a line is cut, what a terminal would obey is escaped, and only
//! so many are printed in a while. A standard error that is closed or full is nobody's to complain to.

use std::io::Write;
use std::time::{Duration, Instant};

/// The longest line that is printed whole.
const LINE_LEN_MAX: usize = 1024;
/// Lines printed at once, and then one in every [`PAUSE`]: a healthy process says a few in its life.
const BURST: u32 = 100;
const PAUSE: Duration = Duration::from_secs(10);

/// Prints a line of the launcher's own.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// The stream of what it says.
pub struct Output {
    line: Vec<u8>,
    spent: u32,
    since: Instant,
}

impl Output {
    pub fn new(now: Instant) -> Self {
        Self { line: Vec::new(), spent: 0, since: now }
    }

    /// Takes bytes as they come and hands whole lines to `print`.
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
            // The level is for a coordinator; who reads this sees what it is about.
            print(&printable(ipc::log::split(&line).1));
        }
    }
}

/// The bytes as one line that a terminal shows and does not obey.
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
