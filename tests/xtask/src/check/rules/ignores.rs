// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A test that does not run says why, where it is and when it is listed.

use crate::check::tree::Tree;

pub fn check(tree: &Tree) -> Vec<String> {
    let mut findings = Vec::new();
    for file in tree.ending(".rs") {
        for (index, line) in file.text.lines().enumerate() {
            if line.trim() == "#[ignore]" {
                findings.push(format!("{}:{}: `#[ignore]` without `= \"reason\"`", file.path, index + 1));
            }
        }
    }
    findings
}
