// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! apt's lists of sources, repeated for other suites of the same distribution, mirror and keys as they are.
//!
//! Both formats of `sources.list(5)`. An entry counts if it names the machine's own release; its updates and other
//! people's sources are left out, since they have no such release.

use std::fs;

use anyhow::{Context, Result, ensure};

/// The name of the machine's own release.
pub fn codename() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("the machine's release")?;
    named(&text)
}

fn named(text: &str) -> Result<String> {
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.map(|value| value.trim_matches('"').to_string())
    };
    ensure!(field("ID").as_deref() == Some("debian"), "only Debian's newer releases are known here");
    field("VERSION_CODENAME").context("the machine's release has no code name")
}

/// What stands in a list of sources for the release `codename`, for `suites` instead.
pub fn of(suites: &[String], text: &str, codename: &str) -> String {
    let one_line = text.lines().filter_map(|line| entry(line, codename, suites));
    let stanzas = text.split("\n\n").filter_map(|stanza| deb822(stanza, codename, suites));
    one_line.chain(stanzas).collect()
}

/// `deb [options] URI suite components...`
fn entry(line: &str, codename: &str, suites: &[String]) -> Option<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let suite = words.iter().position(|word| *word == codename)?;
    if words.first() != Some(&"deb") {
        return None;
    }
    let (before, behind) = (words.get(..suite)?.join(" "), words.get(suite + 1..)?.join(" "));
    Some(suites.iter().map(|suite| format!("{before} {suite} {behind}\n")).collect())
}

/// Fields, one of them the suites.
fn deb822(stanza: &str, codename: &str, suites: &[String]) -> Option<String> {
    let names = |line: &str| line.split_whitespace().any(|word| word == codename);
    let field = |line: &str| line.to_ascii_lowercase().starts_with("suites:");
    stanza.lines().find(|line| field(line) && names(line))?;
    let line = |line: &str| match field(line) {
        true => format!("Suites: {}\n", suites.join(" ")),
        false => format!("{line}\n"),
    };
    Some(stanza.lines().map(line).collect::<String>() + "\n")
}

#[cfg(test)]
mod tests;
