// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The house rules that a machine can judge by reading the tree.
//!
//! A rule is a function from the tree to findings; no finding means that it holds. Each is tested with a tree
//! that breaks it. Where a rule has exceptions they are listed beside it, each with its reason.

mod addresses;
mod circles;
mod columns;
mod docs;
mod heads;
mod ignores;
mod manifests;
mod messages;
mod not_yet;
mod prints;
mod references;
mod sizes;
mod walls;
mod words;

use super::tree::Tree;

/// A rule: what it finds wrong.
pub type Rule = fn(&Tree) -> Vec<String>;

/// Every rule with the name that it is reported under.
pub const ALL: [(&str, Rule); 14] = [
    ("licence and head of every source file", heads::check),
    ("length of files", sizes::check),
    ("lines of documents and comments within 120 columns", columns::check),
    ("unsafe code only behind its walls", walls::check),
    ("every error text is unique", messages::check),
    ("no printing that panics", prints::check),
    ("no address or path of one machine", addresses::check),
    ("every ignored test says why", ignores::check),
    ("no dependency cycle of files where an order is documented", circles::check),
    ("manifests and design notes", manifests::check),
    ("what is said to be missing is missing", not_yet::check),
    ("words of the field", words::check),
    ("documentation says more than a name", docs::check),
    ("files that are named are there", references::check),
];

#[cfg(test)]
mod tests;
