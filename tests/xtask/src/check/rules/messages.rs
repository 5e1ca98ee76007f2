// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Every error text stands in one place only: whoever searches for a message finds where it comes from.
//!
//! Judged are the texts of `#[error("...")]`, the ones that a user reports.

use std::collections::BTreeMap;

use crate::check::tree::Tree;

pub fn check(tree: &Tree) -> Vec<String> {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for file in tree.ending(".rs").filter(|file| !file.path.contains("/tests")) {
        for (number, text) in texts(&file.text) {
            places.entry(text).or_default().push(format!("{}:{number}", file.path));
        }
    }
    let twice = places.into_iter().filter(|(_, places)| places.len() > 1);
    twice.map(|(text, places)| format!("\"{text}\" stands at {}", places.join(" and "))).collect()
}

/// The literal of each `#[error("...")]`, with the line that it begins on.
fn texts(source: &str) -> Vec<(usize, String)> {
    const ATTRIBUTE: &str = concat!("#[", "error(");
    let mut found = Vec::new();
    for (offset, _) in source.match_indices(ATTRIBUTE) {
        let before = source.get(..offset).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        if before.lines().last().is_some_and(|start| start.contains("//")) && !before.ends_with('\n') {
            continue; // in a comment
        }
        let rest = source.get(offset + ATTRIBUTE.len()..).unwrap_or_default().trim_start();
        let Some(rest) = rest.strip_prefix('"') else { continue };
        if let Some(text) = literal(rest) {
            found.push((line, text));
        }
    }
    found
}

/// The text up to the quote that ends it.
fn literal(rest: &str) -> Option<String> {
    let mut text = String::new();
    let mut escaped = false;
    for character in rest.chars() {
        match (escaped, character) {
            (false, '"') => return Some(text),
            (false, '\\') => escaped = true,
            (_, character) => {
                escaped = false;
                text.push(character);
            }
        }
    }
    None
}
