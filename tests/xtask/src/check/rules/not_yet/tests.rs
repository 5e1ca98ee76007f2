// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A sentence that nothing answers for, one that has become untrue, and one that is gone.

use super::{Gap, Still, find};
use crate::check::tree::Tree;

const GAP: Gap = Gap {
    file: "a/DESIGN.md",
    text: "restart",
    still: Still::Without { folder: "a/src/", text: "fn restart" },
};

#[test]
fn sentence_that_is_listed_and_true_is_no_finding() {
    let tree =
        Tree::of(&[("a/DESIGN.md", "It runs.\nIt cannot\nrestart yet."), ("a/src/b.rs", "fn run() {}")]);
    assert_eq!(find(&tree, &[GAP]), [""; 0]);
}

#[test]
fn planted_not_yet_is_found_in_documents_heads_and_messages() {
    for (path, text) in [
        ("README.md", "No device is behind\nit yet (`NoDevices`)."),
        ("README.md", "## Not there yet\n"),
        ("a/src/b.rs", "//! The process, not yet\n//! started by the coordinator.\n"),
        ("a/src/b.rs", "    Err(\"it cannot be saved yet\")\n"),
    ] {
        assert_eq!(find(&Tree::of(&[(path, text)]), &[]).len(), 1, "{text}");
    }
}

#[test]
fn state_in_a_comment_and_yet_without_a_negation_are_no_findings() {
    for (path, text) in [
        ("a/src/b.rs", "/// Bytes that were not taken yet.\n"),
        ("a/tests/b.rs", "assert!(done, \"not yet\");\n"),
        ("README.md", "It is yet another."),
    ] {
        assert_eq!(find(&Tree::of(&[(path, text)]), &[]), [""; 0], "{text}");
    }
}

#[test]
fn sentence_whose_thing_has_come_and_entry_without_a_sentence_are_found() {
    let come = [("a/DESIGN.md", "It cannot restart yet."), ("a/src/b.rs", "fn restart() {}")];
    assert!(find(&Tree::of(&come), &[GAP])[0].contains("has come"));
    assert!(find(&Tree::of(&[]), &[GAP])[0].contains("matches no sentence"));
}
