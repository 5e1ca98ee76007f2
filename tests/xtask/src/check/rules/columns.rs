// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Lines of documents and comments that a terminal shows whole. Tables, code and drawings are as wide as they have to
//! be.

use crate::check::tree::Tree;

const COLUMNS_MAX: usize = 120;

pub fn check(tree: &Tree) -> Vec<String> {
    let documents = tree.ending(".md").map(|file| (file, as_document as Prose));
    let sources = tree.ending(".rs").map(|file| (file, as_comment as Prose));
    let mut findings = Vec::new();
    for (file, prose) in documents.chain(sources) {
        let mut is_code = false;
        for (index, line) in file.text.lines().enumerate() {
            // Code ends with the comment that it stands in.
            let Some(text) = prose(line) else {
                is_code = false;
                continue;
            };
            let is_fence = text.starts_with("```");
            is_code ^= is_fence;
            let is_prose =
                !is_code && !is_fence && !text.starts_with("    ") && !text.trim_start().starts_with('|');
            let columns = line.chars().count();
            if is_prose && columns > COLUMNS_MAX {
                let path = &file.path;
                findings.push(format!("{path}:{}: {columns} columns, at most {COLUMNS_MAX}", index + 1));
            }
        }
    }
    findings
}

/// What a line has of prose, if it is one.
type Prose = fn(&str) -> Option<&str>;

fn as_document(line: &str) -> Option<&str> {
    Some(line)
}

fn as_comment(line: &str) -> Option<&str> {
    let text = line.trim_start().strip_prefix("//")?;
    let text = text.strip_prefix(['/', '!']).unwrap_or(text);
    Some(text.strip_prefix(' ').unwrap_or(text))
}
