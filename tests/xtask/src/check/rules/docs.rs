// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A documentation comment says more than the name of its item.
//!
//! Found are comments of one line all of whose words are in the name. One with a word in capitals or in backticks is
//! not: there the manual's own name is what there is to say. Test code is left alone.

use crate::check::tree::Tree;

/// Words that say nothing by themselves.
const FILLERS: [&str; 9] = ["a", "an", "the", "its", "it", "is", "of", "one", "this"];

/// What may stand before an item's name.
const KEYWORDS: [&str; 14] = [
    "pub",
    "pub(crate)",
    "pub(super)",
    "const",
    "static",
    "unsafe",
    "async",
    "fn",
    "struct",
    "enum",
    "trait",
    "type",
    "mod",
    "mut",
];

pub fn check(tree: &Tree) -> Vec<String> {
    let mut findings = Vec::new();
    let is_test = |path: &str| path.ends_with("tests.rs") || path.contains("/tests/");
    for file in tree.ending(".rs").filter(|file| !is_test(&file.path)) {
        let lines: Vec<&str> = file.text.lines().map(str::trim).collect();
        let is_doc = |at: usize| lines.get(at).is_some_and(|line| line.starts_with("///"));
        for at in
            (0..lines.len()).filter(|at| is_doc(*at) && !is_doc(at + 1) && (*at == 0 || !is_doc(at - 1)))
        {
            let Some(text) = lines.get(at).and_then(|line| line.strip_prefix("/// ")) else { continue };
            let item = lines.iter().skip(at + 1).find(|line| !line.starts_with('#'));
            let name = item.map(|line| name_of(line)).unwrap_or_default();
            if !name.is_empty() && repeats(text, name) {
                findings.push(format!(
                    "{}:{}: \"{text}\" repeats the name `{name}`: say what the name does not",
                    file.path,
                    at + 1
                ));
            }
        }
    }
    findings
}

/// The name of the item, field or variant that a line declares.
fn name_of(line: &str) -> &str {
    let word = line.split_whitespace().find(|word| !KEYWORDS.contains(word)).unwrap_or_default();
    let end = word.find(|it: char| !it.is_alphanumeric() && it != '_').unwrap_or(word.len());
    word.get(..end).unwrap_or_default()
}

fn repeats(text: &str, name: &str) -> bool {
    let is_capitals = |word: &str| word.chars().filter(char::is_ascii_uppercase).count() > 1;
    if text.contains('`') || text.split_whitespace().any(is_capitals) {
        return false;
    }
    let names = words(name);
    words(text).iter().all(|word| FILLERS.contains(&word.as_str()) || names.contains(word))
}

/// The words of a text or of a name, in lower case and without the plural's `s`.
fn words(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut before = ' ';
    for it in text.chars() {
        if !it.is_alphanumeric() || it.is_uppercase() && before.is_lowercase() {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut().filter(|_| it.is_alphanumeric()) {
            word.extend(it.to_lowercase());
        }
        before = it;
    }
    let singular = |word: String| match word.strip_suffix('s') {
        Some(stem) if word.len() > 3 => stem.to_owned(),
        _ => word,
    };
    words.into_iter().filter(|word| !word.is_empty()).map(singular).collect()
}
