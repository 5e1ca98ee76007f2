// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Runs a test program that was cross-built with its crate, and reports the results of its tests.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use ::tests::{SEEN, SKIPPED};
use anyhow::{Context, Result, bail};

use crate::{places, report::Report};

/// Tests of a suite, by parts of their names.
#[derive(Debug, Clone, Copy)]
pub enum Which<'a> {
    /// All of them.
    All,
    /// Those with one of these in their names.
    Only(&'a [&'a str]),
    /// All but those with one of these: what another kind of server shows.
    But(&'a [&'a str]),
}

/// Runs tests of suite `name`; an error unless every one passes, none leaves anything out, and at least one was run.
pub fn run(report: &mut Report<'_>, name: &str, which: Which<'_>) -> Result<()> {
    let program = Path::new(places::SUITES).join(name);
    let mut command = Command::new(&program);
    command.args(["--test-threads", "1", "--nocapture"]);
    let (flag, parts) = match which {
        Which::All => (None, &[][..]),
        Which::Only(parts) => (None, parts),
        Which::But(parts) => (Some("--skip"), parts),
    };
    for part in parts {
        command.args(flag).arg(part);
    }
    let output = command
        .env("CARGO_TARGET_DIR", places::TARGET)
        .env("BULKHEAD_CACHE", places::GUEST)
        .env("BULKHEAD_PROGRAMS", places::PROGRAMS)
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{} did not start", program.display()))?;
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    let text = String::from_utf8_lossy(&text);
    println!("{text}");
    let tests = results(&text);
    for (_, seen) in text.lines().filter_map(|line| line.split_once(SEEN)) {
        report.evidence(seen.trim())?;
    }
    let failed: Vec<&str> = tests.iter().filter(|(_, ok)| !ok).map(|(name, _)| *name).collect();
    report.evidence(format!("{name}: {} of {} tests passed", tests.len() - failed.len(), tests.len()))?;
    if !failed.is_empty() {
        bail!("{name}: failed: {}", failed.join(", "));
    }
    if !output.status.success() {
        bail!("{name} ended with {}", output.status);
    }
    if tests.is_empty() {
        bail!("{name} ran no test");
    }
    // The lab has all that a suite can ask for: a part that was left out here was shown nowhere.
    if let Some((_, why)) = text.lines().find_map(|line| line.split_once(SKIPPED)) {
        bail!("{name} left something out: {why}");
    }
    Ok(())
}

/// The tests in a test program's output, and whether each passed. What a test prints without capture may stand
/// between its name and its result.
fn results(text: &str) -> Vec<(&str, bool)> {
    let mut all = Vec::new();
    let mut open: Option<&str> = None;
    for line in text.lines() {
        let mut rest = line;
        if let Some((name, after)) = line.strip_prefix("test ").and_then(|line| line.split_once(" ... ")) {
            open = Some(name);
            rest = after;
        }
        let Some(name) = open else { continue };
        let word = rest.trim_end();
        if word == "ok" || word.ends_with("FAILED") {
            all.push((name, word == "ok"));
            open = None;
        }
    }
    // A failed test that shows what a run inside of it printed shows that run's tests too.
    all.sort_unstable();
    all.dedup();
    all
}

#[cfg(test)]
mod tests {
    use super::results;

    #[test]
    fn results_are_found_between_what_tests_print() {
        let text = "running 3 tests\ntest a ... ok\ntest a ... ok\ntest b ... a line of its own\nanother\nok\ntest c ... FAILED\n\n\
                    failures:\n    c\n\ntest result: FAILED. 2 passed; 1 failed\n";
        assert_eq!(results(text), [("a", true), ("b", true), ("c", false)]);
    }
}
