// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One step at a time, shown as a spinner on a terminal and as plain lines elsewhere.
//!
//! Callers: every task with steps that take more than a second. Nothing but these lines goes to standard
//! error, so standard output stays fit for a pipe.

use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

/// A step under way. Dropping it without `done` leaves no line on a terminal; the caller reports the error.
pub struct Step {
    bar: Option<ProgressBar>,
    name: String,
    start: Instant,
}

impl Step {
    /// Shows that `name` begins.
    pub fn begin(name: impl Into<String>) -> Self {
        let name = name.into();
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} [{elapsed}]") {
                bar.set_style(style);
            }
            bar.set_message(name.clone());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        if bar.is_none() {
            eprintln!("{name} ...");
        }
        Self { bar, name, start: Instant::now() }
    }

    /// The same without a spinner: what runs in this step writes to the terminal itself.
    pub fn begin_plain(name: impl Into<String>) -> Self {
        let name = name.into();
        eprintln!("{name} ...");
        Self { bar: None, name, start: Instant::now() }
    }

    /// Shows what the step is at, on a terminal only.
    pub fn at(&self, what: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{}: {what}", self.name));
        }
    }

    /// Ends the step with a line that says what came of it, and returns how long it took.
    pub fn done(self, result: &str) -> Duration {
        let took = self.start.elapsed();
        let line = format!("{}: {result} ({:.1} s)", self.name, took.as_secs_f64());
        match &self.bar {
            Some(bar) => {
                bar.finish_and_clear();
                eprintln!("{line}");
            }
            None => eprintln!("{line}"),
        }
        took
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
