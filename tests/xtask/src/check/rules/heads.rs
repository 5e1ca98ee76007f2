// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Every source file names its licence, and every Rust file says in its head what it is for.

use crate::check::tree::Tree;

const LICENCE: &str = "SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause";

/// Kinds of files that name their licence, in their first or (after `#!`) second line.
const SOURCES: [&str; 4] = [".rs", ".c", ".h", ".sh"];

pub fn check(tree: &Tree) -> Vec<String> {
    let mut findings = Vec::new();
    for file in SOURCES.iter().flat_map(|end| tree.ending(end)) {
        if !file.text.lines().take(2).any(|line| line.contains(LICENCE)) {
            findings.push(format!("{}: its first lines do not say \"{LICENCE}\"", file.path));
        }
    }
    // A module of unit tests belongs to the file beside it, and that one has the head.
    for file in tree.ending(".rs").filter(|file| !file.path.ends_with("/tests.rs")) {
        if !file.text.lines().nth(1).is_some_and(|line| line.starts_with("//! ")) {
            findings.push(format!("{}: its second line does not begin a head (`//! ...`)", file.path));
        }
    }
    findings
}
