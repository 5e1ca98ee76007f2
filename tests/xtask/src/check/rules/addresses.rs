// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Nothing in the tree holds only on one machine: no home folders, no package mirrors, no odd hosts.
//!
//! What counts as this machine's is found out at run time, so that no such name stands here either.

use std::{env, fs, process::Command};

use ::tests::{command::capture, places};

use crate::check::tree::Tree;

/// Hosts that may be named: specifications, documentation, and where Rust and its packages come from.
const HOSTS: [&str; 9] = [
    "www.apache.org",
    "opensource.org",
    "developer.arm.com",
    "docs.kernel.org",
    "www.kernel.org",
    "github.com",
    "rustup.rs",
    "sh.rustup.rs",
    // The name space of SVG.
    "www.w3.org",
];

/// Starts of paths that exist on a developer's machine only.
const PATHS: [&str; 3] = ["/home/", "/root/", "/Users/"];

pub fn check(tree: &Tree) -> Vec<String> {
    let mut forbidden: Vec<String> = PATHS.iter().map(|path| (*path).to_string()).collect();
    forbidden.extend(of_this_machine());
    find(tree, &forbidden)
}

/// Lines with a forbidden word, or with an address whose host is not listed.
pub fn find(tree: &Tree, forbidden: &[String]) -> Vec<String> {
    let own = "tests/xtask/src/check/rules/";
    let mut findings = Vec::new();
    for file in tree.files.iter().filter(|file| !file.path.starts_with(own)) {
        for (index, line) in file.text.lines().enumerate() {
            let place = format!("{}:{}", file.path, index + 1);
            if let Some(word) = forbidden.iter().find(|word| names(line, word)) {
                findings.push(format!("{place}: names {word}"));
            }
            for host in hosts(line).into_iter().filter(|host| !HOSTS.contains(host)) {
                findings.push(format!("{place}: names the host {host}"));
            }
        }
    }
    findings
}

/// True if the line has the word, and not only as the end of a longer path.
fn names(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line.get(..at).and_then(|start| start.chars().last());
        !before.is_some_and(|character| character.is_alphanumeric() || character == '}')
    })
}

/// The hosts of the addresses in a line.
fn hosts(line: &str) -> Vec<&str> {
    let parts = line.split("://").skip(1);
    parts
        .filter_map(|rest| rest.split(|c: char| !(c.is_ascii_alphanumeric() || c == '.' || c == '-')).next())
        .filter(|host| host.contains('.'))
        .collect()
}

/// Where this checkout lives, and where this machine gets its packages.
fn of_this_machine() -> Vec<String> {
    let mut words = Vec::new();
    // A folder right below `/`, such as `/src`, is too ordinary a word to search for.
    let root = places::root();
    if root.components().count() > 2 {
        words.push(root.display().to_string());
    }
    if let Some(home) = env::var("HOME").ok().filter(|home| home.len() > 1) {
        words.push(format!("{home}/"));
    }
    let sources = capture(Command::new("apt-config").args(["shell", "PARTS", "Dir::Etc::sourceparts/d"]));
    let folder =
        sources.unwrap_or_default().trim().trim_start_matches("PARTS=").trim_matches('\'').to_string();
    for file in fs::read_dir(folder).into_iter().flatten().flatten() {
        let text = fs::read_to_string(file.path()).unwrap_or_default();
        words.extend(text.lines().flat_map(hosts).filter(|host| !HOSTS.contains(host)).map(String::from));
    }
    words.sort();
    words.dedup();
    words
}
