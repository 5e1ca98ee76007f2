// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Files that a reader can take in at one sitting.
//!
//! The median aims at 150 lines. From 500 the question is whether it is two files; the answer is no more than a
//! warning here. Above 900 the answer must be written down below.

use crate::check::tree::Tree;

const WARN_LINES: usize = 500;
const FAIL_LINES: usize = 900;

/// Longer files that may stay, with the reason.
const EXCEPTIONS: [(&str, &str); 0] = [];

pub fn check(tree: &Tree) -> Vec<String> {
    let mut findings = Vec::new();
    let mut lengths = Vec::new();
    for file in tree.ending(".rs") {
        let lines = file.text.lines().count();
        lengths.push(lines);
        let excepted = EXCEPTIONS.iter().any(|(path, _)| *path == file.path);
        if lines > FAIL_LINES && !excepted {
            findings.push(format!(
                "{}: {lines} lines, more than {FAIL_LINES}: split it, or list why not",
                file.path
            ));
        } else if lines > WARN_LINES {
            eprintln!("warning: {} has {lines} lines: is it two files?", file.path);
        }
    }
    lengths.sort_unstable();
    if let (Some(median), Some(longest)) = (lengths.get(lengths.len() / 2), lengths.last()) {
        println!("{} Rust files, median {median} lines, longest {longest}", lengths.len());
    }
    findings
}
