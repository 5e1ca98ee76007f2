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
pub mod disk;
pub mod draw;
pub mod foreign;
pub mod guest;
pub mod leftovers;
pub mod places;
pub mod programs;
pub mod runner;
pub mod starved;
pub mod tools;
pub mod vm;

/// Begins the line by which a test says that it leaves out what it is for, and why; `cargo xtask test` counts these
/// lines.
pub const SKIPPED: &str = "SKIPPED: ";

/// Begins the line by which a test says what it has observed and checked, for the tables of tasks.
pub const SEEN: &str = "SEEN: ";

/// The median and the greatest of what was measured; zero, if that is nothing.
pub fn median_and_most<T: Ord + Copy + Default>(mut measured: Vec<T>) -> (T, T) {
    measured.sort_unstable();
    let median = measured.get(measured.len() / 2).copied().unwrap_or_default();
    (median, measured.last().copied().unwrap_or_default())
}

/// Set by `cargo xtask test` in its full run: what takes minutes and shows little more is left out elsewhere.
pub const FULL_RUN: &str = "BULKHEAD_FULL_RUN";
/// Set by `cargo xtask test --long`: what takes many minutes, and is to show in thousands of turns what a few do not.
pub const LONG_RUN: &str = "BULKHEAD_LONG_RUN";
