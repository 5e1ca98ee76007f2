// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Words that no one in the field would search for are not used: each with what the field says.
//!
//! The test of a word: could a stranger who knows KVM, VFIO and the Arm manual search for it and find its meaning
//! there? `nobody` as a pronoun is English and stays; as an identifier it is the host's user of that name, or nothing.

use crate::check::tree::Tree;

/// Where the list stands, and its test.
const OWN: [&str; 2] = ["tests/xtask/src/check/rules/words.rs", "tests/xtask/src/check/rules/tests.rs"];

/// Identifiers, as they are written: what is found, and what the field says.
const IDENTIFIERS: [(&str, &str); 6] = [
    ("Happening", "`ProcessEvent`"),
    ("Bed", "`WaitSlot`"),
    ("Meets", "a target: `BarTarget::Unclaimed`"),
    ("Behind::Vfio", "`Physical`"),
    ("DeviceKind::Real", "`DeviceKind::Physical`"),
    ("fn nobody", "what is absent: `absent`, `discard`"),
];

/// Parts of sentences, in any case.
const PHRASES: [(&str, &str); 17] = [
    ("said or suffered", "reported or failed"),
    ("odd accesses of the guest", "KVM_CAP_ARM_NISV_TO_USER"),
    ("KVM leaves it with", "unhandled KVM exit"),
    ("KVM does not run it", "KVM_RUN failed"),
    ("not heard any more", "channel closed"),
    ("know the device's SMMU", "invalid SMMU model"),
    ("stood in for", "placeholder"),
    ("the host's own device", "a physical device"),
    ("device of the host's own", "a physical device"),
    ("a real device", "a physical device"),
    ("real device's", "a physical device's"),
    ("real devices", "physical devices"),
    ("wish", "request, requested effect"),
    ("wishes", "requests, requested effects"),
    ("porter", "accept loop"),
    ("bury", "drop"),
    ("word(&self) -> &'static str", "`as_str`, or `Display`"),
];

pub fn check(tree: &Tree) -> Vec<String> {
    let mut findings = Vec::new();
    let files = tree.ending(".rs").chain(tree.ending(".md"));
    for file in files.filter(|file| !OWN.contains(&file.path.as_str())) {
        for (number, line) in (1..).zip(file.text.lines()) {
            let lower = line.to_lowercase();
            let identifiers = IDENTIFIERS.iter().filter(|(found, _)| has_word(line, found));
            let phrases = PHRASES.iter().filter(|(found, _)| has_word(&lower, &found.to_lowercase()));
            for (found, said) in identifiers.chain(phrases) {
                findings.push(format!("{}:{number}: \"{found}\": say {said}", file.path));
            }
        }
    }
    findings
}

/// Whether it is there and not as a part of a longer word.
fn has_word(line: &str, word: &str) -> bool {
    let is_part = |character: Option<char>| character.is_some_and(|it| it.is_alphanumeric() || it == '_');
    line.match_indices(word).any(|(at, found)| {
        let before = line.get(..at).and_then(|text| text.chars().next_back());
        let behind = line.get(at + found.len()..).and_then(|text| text.chars().next());
        !is_part(before) && !is_part(behind)
    })
}
