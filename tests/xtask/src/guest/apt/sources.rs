// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Lists of apt sources, in both of their formats: one suite more from where the machine's own come from.
//!
//! Formats: sources.list(5). The address of a mirror is never spelled here: an entry is repeated with another
//! suite, so it keeps its address, its options and the keys that count for it.

/// What to add to a list of sources with the content `text` so that everything it takes from suite `base` is
/// also taken from `wanted`. Nothing if it takes nothing from `base`, or has `wanted` already.
pub fn with_suite(text: &str, one_line_each: bool, base: &str, wanted: &str) -> String {
    if one_line_each { lines(text, base, wanted) } else { stanzas(text, base, wanted) }
}

/// `deb [options] ADDRESS SUITE COMPONENTS...`
fn lines(text: &str, base: &str, wanted: &str) -> String {
    let entries: Vec<Vec<&str>> = text
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default().split_whitespace().collect::<Vec<_>>())
        .filter(|words| words.first() == Some(&"deb"))
        .collect();
    if entries.iter().any(|words| words.contains(&wanted)) {
        return String::new();
    }
    let repeated = entries.iter().filter(|words| words.contains(&base)).map(|words| {
        let words: Vec<&str> = words.iter().map(|word| if *word == base { wanted } else { word }).collect();
        format!("\n{}\n", words.join(" "))
    });
    repeated.collect()
}

/// Stanzas of `Field: value` lines, with an empty line between two of them.
fn stanzas(text: &str, base: &str, wanted: &str) -> String {
    let all: Vec<Vec<&str>> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .collect::<Vec<_>>()
        .split(|line| line.trim().is_empty())
        .filter(|stanza| !stanza.is_empty())
        .map(<[&str]>::to_vec)
        .collect();
    let has = |stanza: &[&str], suite: &str| suites(stanza).any(|name| name == suite);
    if all.iter().any(|stanza| has(stanza, wanted)) {
        return String::new();
    }
    let repeated = all.iter().filter(|stanza| has(stanza, base)).map(|stanza| {
        let rest: Vec<&str> = stanza.iter().filter(|line| field(line, "suites").is_none()).copied().collect();
        format!("\nSuites: {wanted}\n{}\n", rest.join("\n"))
    });
    repeated.collect()
}

fn suites<'a>(stanza: &[&'a str]) -> impl Iterator<Item = &'a str> {
    stanza.iter().filter_map(|line| field(line, "suites")).flat_map(str::split_whitespace)
}

/// The value of a line, if it is that field's; names of fields are the same in capitals.
fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let (found, value) = line.split_once(':')?;
    found.eq_ignore_ascii_case(name).then_some(value)
}

#[cfg(test)]
mod tests;
