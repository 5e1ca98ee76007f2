// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Every crate takes the workspace's versions and lints, and explains its design on a page.

use crate::check::tree::{SourceFile, Tree};

/// Crates without a design note: helpers whose heads say it all.
const WITHOUT_NOTE: [(&str, &str); 2] = [
    ("tests/xtask", "each task explains itself in its head and in --help"),
    ("tests/fuzz", "one page is its lib.rs"),
];

/// Keys of a dependency that belong in the workspace's list alone.
const VERSION: &str = "version = \"";

pub fn check(tree: &Tree) -> Vec<String> {
    let mut findings = Vec::new();
    for file in tree.ending("Cargo.toml").filter(|file| file.path != "Cargo.toml") {
        let Some(folder) = file.path.strip_suffix("/Cargo.toml") else { continue };
        findings.extend(of_manifest(file).into_iter().map(|finding| format!("{}: {finding}", file.path)));
        let note = format!("{folder}/DESIGN.md");
        let excepted = WITHOUT_NOTE.iter().any(|(path, _)| *path == folder);
        if !excepted && !tree.files.iter().any(|file| file.path == note) {
            findings.push(format!("{note} is missing"));
        }
    }
    findings
}

fn of_manifest(file: &SourceFile) -> Vec<&'static str> {
    let mut findings = Vec::new();
    if !file.text.contains("[lints]\nworkspace = true") {
        findings.push("does not take the workspace's lints");
    }
    if !file.text.contains("license.workspace = true") {
        findings.push("does not take the workspace's licence");
    }
    if file.text.lines().any(|line| line.contains(VERSION)) {
        findings.push("has a version of its own: it belongs into the root's list");
    }
    findings
}
