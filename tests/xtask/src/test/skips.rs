// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What tests left out, and what comparisons have counted, gathered from what they printed: so that a green run does
//! not hide the one, and shows the other.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
};

use ::tests::SKIPPED;
use anyhow::{Context, Result, ensure};

/// How a line begins that says how many cases of which kinds a comparison has seen.
const COUNTED: &str = "COUNTED: ";

/// What tests said for the end of a run.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// Reasons for what was left out.
    pub skipped: Vec<String>,
    /// Counts of cases.
    pub counted: Vec<String>,
}

impl Said {
    fn take(&mut self, line: &str) {
        self.skipped.extend(behind(SKIPPED, line));
        self.counted.extend(behind(COUNTED, line));
    }
}

/// What is said in nextest's report, which holds the output of every test.
pub fn in_report(report: &str) -> Said {
    let mut said = Said::default();
    report.lines().for_each(|line| said.take(&unescape(line.split("</").next().unwrap_or(line))));
    said
}

/// Runs `command`, copies its output to `shown`, and returns what is said in it. An error unless it ends with exit code
/// 0.
pub fn while_running(command: &mut Command, shown: &mut impl Write) -> Result<Said> {
    let mut child = command.stdout(Stdio::piped()).spawn().context("cargo did not start")?;
    let output = child.stdout.take().context("cargo's output")?;
    let mut said = Said::default();
    for line in BufReader::new(output).lines() {
        let line = line.context("cargo's output")?;
        writeln!(shown, "{line}").context("showing cargo's output")?;
        said.take(&line);
    }
    ensure!(child.wait().context("cargo's end")?.success(), "a test fails");
    Ok(said)
}

/// Prints counts, each once and in order.
pub fn print_counted(counted: &[String]) {
    let counted: BTreeSet<&String> = counted.iter().collect();
    if !counted.is_empty() {
        println!();
    }
    counted.iter().for_each(|line| println!("{COUNTED}{line}"));
}

/// Prints the skips, those of the same reason as one line.
pub fn print(skips: &[String]) {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in skips {
        *counts.entry(reason).or_default() += 1;
    }
    if !counts.is_empty() {
        println!();
    }
    for (reason, count) in counts {
        println!("{SKIPPED}{reason} ({count} x)");
    }
}

/// The rest of a line behind a mark.
fn behind(mark: &str, line: &str) -> Option<String> {
    line.split_once(mark).map(|(_, rest)| rest.trim().to_string())
}

/// The five entities of XML.
fn unescape(text: &str) -> String {
    text.replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&apos;", "'")
        .replace("&amp;", "&")
}

#[cfg(test)]
mod tests;
