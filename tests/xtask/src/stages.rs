// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A row of stages, each `ok` or `FAILED`, and the table that ends a task.
//!
//! Where stages build on each other, a failed one ends the row: what comes after it is `not reached`. Both count as not
//! ok, so exit code 0 means that every stage worked.

use std::{process::ExitCode, time::Duration};

use anyhow::Result;
use comfy_table::{Table, presets};

use crate::progress::Step;

/// Characters of a stage's result that go into the table: what a terminal of ordinary width has room for.
const SEEN_LEN_MAX: usize = 90;

/// The outcome of a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    Ok,
    Failed,
    NotReached,
}

#[derive(Debug)]
struct Row {
    name: &'static str,
    outcome: Outcome,
    took: Duration,
    seen: String,
}

/// The stages of one task.
#[derive(Debug, Default)]
pub struct Stages {
    rows: Vec<Row>,
    /// True if a stage needs nothing of those before it.
    independent: bool,
}

impl Stages {
    /// Stages that do not build on each other: each is run, whatever became of the others.
    pub fn independent() -> Self {
        Self { independent: true, ..Self::default() }
    }

    /// Runs one stage, unless an earlier one failed. `work` returns its result and what was seen.
    pub fn run<T>(&mut self, name: &'static str, work: impl FnOnce() -> Result<(T, String)>) -> Option<T> {
        self.run_with(Step::begin, name, work)
    }

    /// The same for work that shows its own progress, as cargo does.
    pub fn run_shown<T>(
        &mut self,
        name: &'static str,
        work: impl FnOnce() -> Result<(T, String)>,
    ) -> Option<T> {
        self.run_with(Step::begin_plain, name, work)
    }

    fn run_with<T>(
        &mut self,
        begin: fn(&'static str) -> Step,
        name: &'static str,
        work: impl FnOnce() -> Result<(T, String)>,
    ) -> Option<T> {
        if !self.independent && !self.all_ok() {
            self.not_reached(name);
            return None;
        }
        let step = begin(name);
        let (value, outcome, seen) = match work() {
            Ok((value, seen)) => (Some(value), Outcome::Ok, seen),
            Err(error) => (None, Outcome::Failed, format!("{error:#}")),
        };
        let word = if outcome == Outcome::Ok { "ok, " } else { "FAILED: " };
        let took = step.done(&format!("{word}{seen}"));
        self.rows.push(Row { name, outcome, took, seen });
        value
    }

    /// Counts a stage that could not be tried.
    pub fn not_reached(&mut self, name: &'static str) {
        self.rows.push(Row { name, outcome: Outcome::NotReached, took: Duration::ZERO, seen: String::new() });
    }

    /// True if no stage failed so far.
    pub fn all_ok(&self) -> bool {
        self.rows.iter().all(|row| row.outcome == Outcome::Ok)
    }

    /// Prints the table and a closing line; exit code 0 only if all stages are ok.
    pub fn finish(&self, task: &str) -> ExitCode {
        println!("\n{}", self.table());
        let ok = self.rows.iter().filter(|row| row.outcome == Outcome::Ok).count();
        println!("{task}: {ok} of {} stages ok", self.rows.len());
        if self.all_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table
            .load_style(presets::ASCII_BORDERS_ONLY_CONDENSED)
            .set_header(["stage", "result", "took", "seen"]);
        for row in &self.rows {
            let result = match row.outcome {
                Outcome::Ok => "ok",
                Outcome::Failed => "FAILED",
                Outcome::NotReached => "not reached",
            };
            let took = match row.outcome {
                Outcome::NotReached => String::new(),
                _ => format!("{:.1} s", row.took.as_secs_f64()),
            };
            table.add_row([row.name, result, &took, &first_line(&row.seen)]);
        }
        table
    }
}

/// The table has one line per stage; the whole message was printed when it happened.
fn first_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    match line.char_indices().nth(SEEN_LEN_MAX) {
        Some((end, _)) => format!("{}...", line.get(..end).unwrap_or_default()),
        None => line.to_string(),
    }
}

#[cfg(test)]
mod tests;
