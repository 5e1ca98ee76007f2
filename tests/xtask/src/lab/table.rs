// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The rows that end `cargo xtask lab`: each scenario with its result, its time, and what proves it.

use std::{process::ExitCode, time::Duration};

use ::lab::report::{Outcome, Record};
use ::tests::SKIPPED;
use comfy_table::{ContentArrangement, presets};

/// Width of the table: long lines of evidence are broken.
const WIDTH: u16 = 130;

#[derive(Debug)]
struct Row {
    name: String,
    evidence: Vec<String>,
    end: Option<(Outcome, Duration)>,
}

/// The rows so far.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Row>,
}

impl Table {
    /// True if a scenario has begun and not ended.
    pub fn open(&self) -> bool {
        self.rows.last().is_some_and(|row| row.end.is_none())
    }

    /// Takes what the server reports; prints the end of a scenario at once.
    pub fn take(&mut self, record: Record) {
        if let Record::Begin(name) = record {
            eprintln!("{name} ...");
            self.rows.push(Row { name, evidence: Vec::new(), end: None });
            return;
        }
        let Some(row) = self.rows.last_mut() else { return };
        match record {
            Record::Evidence(seen) => row.evidence.push(seen),
            Record::End(outcome, ms) => {
                let took = Duration::from_millis(ms);
                eprintln!("{}: {} ({:.1} s)", row.name, said(&outcome), took.as_secs_f64());
                row.end = Some((outcome, took));
            }
            Record::Begin(_) | Record::Table(_) => {}
        }
    }

    /// Prints the table and counts; exit code 0 if nothing failed and something was shown.
    pub fn finish(&self) -> ExitCode {
        let mut table = comfy_table::Table::new();
        table
            .load_style(presets::ASCII_BORDERS_ONLY_CONDENSED)
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_width(WIDTH)
            .set_header(["scenario", "result", "seconds", "evidence"]);
        let (mut ok, mut skipped) = (0, 0);
        for row in &self.rows {
            let unfinished = (Outcome::Failed("it did not end".into()), Duration::ZERO);
            let (outcome, took) = row.end.as_ref().unwrap_or(&unfinished);
            let mut evidence = row.evidence.clone();
            let word = match outcome {
                Outcome::Ok => {
                    ok += 1;
                    "ok"
                }
                Outcome::Failed(why) => {
                    evidence.push(why.clone());
                    "FAILED"
                }
                Outcome::Skipped(why) => {
                    skipped += 1;
                    println!("{SKIPPED}lab scenario {}: {why}", row.name);
                    evidence.push(why.clone());
                    "skipped"
                }
            };
            table.add_row([&row.name, word, &format!("{:.1}", took.as_secs_f64()), &evidence.join("\n")]);
        }
        println!("\n{table}");
        let failed = self.rows.len() - ok - skipped;
        println!("lab: {} scenarios, {ok} ok, {failed} failed, {skipped} skipped", self.rows.len());
        if failed == 0 && ok > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

fn said(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Ok => "ok".into(),
        Outcome::Failed(why) => format!("FAILED: {why}"),
        Outcome::Skipped(why) => format!("skipped: {why}"),
    }
}
