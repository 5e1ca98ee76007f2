// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the cross-process suites (`tests/tests/`) and the workspace tasks (`tests/xtask`) share.
//!
//! A suite here runs the programs that ship, from outside, as a user would: it starts them, talks to the
//! guest over its console, and counts what they leave behind. Nothing here links a product crate, so a
//! change to the product never rebuilds the tools that drive it.

pub mod arm_suite;
pub mod command;
pub mod console;
pub mod crash;
pub mod dirty_rate;
pub mod disk;
pub mod draw;
pub mod foreign;
pub mod guest;
pub mod hosts;
pub mod leftovers;
pub mod places;
pub mod processes;
pub mod programs;
pub mod runner;
pub mod starved;
pub mod tools;
pub mod vm;

use std::time::Duration;
use std::{env, fmt};

use anyhow::{Context, Result};

/// Begins the line by which a test says that it leaves out what it is for, and why; `cargo xtask test` counts these
/// lines.
pub const SKIPPED: &str = "SKIPPED: ";

/// Begins the line by which a test says what it has observed and checked, for the tables of tasks.
pub const SEEN: &str = "SEEN: ";

/// How what was measured is spread.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spread {
    /// Half of it is not above this.
    pub median: Duration,
    /// Of a hundred one is above this.
    pub p99: Duration,
    /// The greatest.
    pub most: Duration,
}

impl Spread {
    /// Of these; zero, if there are none.
    pub fn of(mut measured: Vec<Duration>) -> Self {
        measured.sort_unstable();
        let at = |hundredths: usize| {
            let index = (measured.len() * hundredths).div_ceil(100).max(1) - 1;
            measured.get(index).copied().unwrap_or_default()
        };
        Self { median: at(50), p99: at(99), most: at(100) }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [median, p99, most] = [self.median, self.p99, self.most].map(|span| span.as_secs_f64() * 1e3);
        write!(f, "median {median:.1} ms, p99 {p99:.1} ms, most {most:.1} ms")
    }
}

/// Set by `cargo xtask test` in its full run: what takes minutes and shows little more is left out elsewhere.
pub const FULL_RUN: &str = "BULKHEAD_FULL_RUN";
/// Set by `cargo xtask test --long`: what takes many minutes, and is to show in thousands of turns what a few do not.
pub const LONG_RUN: &str = "BULKHEAD_LONG_RUN";

/// How often something is done: in a long run, or in any other.
pub fn in_run<T>(everyday: T, long: T) -> T {
    if env::var_os(LONG_RUN).is_some() { long } else { everyday }
}

/// How often a person wants it, who has set this variable.
pub fn asked(variable: &str) -> Result<Option<u32>> {
    let Some(said) = env::var_os(variable) else { return Ok(None) };
    let count = said.to_str().and_then(|said| said.parse().ok());
    count.with_context(|| format!("{variable} is no number: {}", said.display())).map(Some)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Spread;

    #[test]
    fn spread_is_by_rank() {
        let spans = (1..=200).rev().map(Duration::from_millis).collect();
        assert_eq!(Spread::of(spans).to_string(), "median 100.0 ms, p99 198.0 ms, most 200.0 ms");
        assert_eq!(Spread::of(vec![Duration::from_millis(7)]).p99, Duration::from_millis(7));
        assert_eq!(Spread::of(Vec::new()), Spread::default());
    }
}
