// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Files that documents and comments name are there: a name in backticks, by its path from the root or by its end.
//!
//! Read are the endings in [`ENDINGS`]. A name with a part in capitals, such as `ROLE.rs`, stands for others; so does
//! one with a pattern in it. Files that a run makes have other endings.

use crate::check::tree::Tree;

/// Endings of names that are looked up.
const ENDINGS: [&str; 5] = [".rs", ".md", ".svg", ".toml", ".patch"];

/// Files whose names are examples.
const OWN: [&str; 3] = [
    "tests/xtask/src/check/rules/references.rs",
    "tests/xtask/src/check/rules/circles.rs",
    "tests/xtask/src/check/rules/tests.rs",
];

pub fn check(tree: &Tree) -> Vec<String> {
    let mut findings = Vec::new();
    let files = tree.ending(".rs").chain(tree.ending(".md"));
    for file in files.filter(|file| !OWN.contains(&file.path.as_str())) {
        let is_source = file.path.ends_with(".rs");
        for (number, line) in (1..).zip(file.text.lines()) {
            let prose =
                if is_source { line.split_once("//").map_or("", |(_, comment)| comment) } else { line };
            for name in names(prose).filter(|name| !is_there(tree, name)) {
                findings.push(format!("{}:{number}: names `{name}`, and there is no such file", file.path));
            }
        }
    }
    findings
}

/// The names of files in a line, between backticks.
fn names(line: &str) -> impl Iterator<Item = &str> {
    let quoted = line.split('`').skip(1).step_by(2);
    quoted.filter(|name| {
        let is_name = name.chars().all(|it| it.is_ascii_alphanumeric() || "_-./".contains(it));
        let stem = name.rsplit('/').next().and_then(|last| last.split('.').next()).unwrap_or_default();
        let is_placeholder = !name.ends_with(".md") && stem.chars().any(|it| it.is_ascii_uppercase());
        is_name && !stem.is_empty() && !is_placeholder && ENDINGS.iter().any(|end| name.ends_with(end))
    })
}

fn is_there(tree: &Tree, name: &str) -> bool {
    tree.paths()
        .any(|path| path.strip_suffix(name).is_some_and(|above| above.is_empty() || above.ends_with('/')))
}
