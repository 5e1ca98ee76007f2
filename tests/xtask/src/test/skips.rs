// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What tests left out, gathered from what they printed, so that a green run does not hide it.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
};

use ::tests::SKIPPED;
use anyhow::{Context, Result, ensure};

/// The skips in nextest's report, which holds the output of every test.
pub fn in_report(report: &str) -> Vec<String> {
    report.lines().filter_map(reason).map(|reason| unescape(&reason)).collect()
}

/// Runs `command`, copies its output to `shown`, and returns the skips in it. An error if it does not end well.
pub fn while_running(command: &mut Command, shown: &mut impl Write) -> Result<Vec<String>> {
    let mut child = command.stdout(Stdio::piped()).spawn().context("cargo did not start")?;
    let output = child.stdout.take().context("cargo's output")?;
    let mut skips = Vec::new();
    for line in BufReader::new(output).lines() {
        let line = line.context("cargo's output")?;
        writeln!(shown, "{line}").context("showing cargo's output")?;
        skips.extend(reason(&line));
    }
    ensure!(child.wait().context("cargo's end")?.success(), "a test fails");
    Ok(skips)
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

/// The reason, if the line is about a skip.
fn reason(line: &str) -> Option<String> {
    let (_, reason) = line.split_once(SKIPPED)?;
    let reason = reason.split("</").next().unwrap_or(reason);
    Some(reason.trim().to_string())
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
