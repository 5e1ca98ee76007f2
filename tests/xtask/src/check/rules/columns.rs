// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Lines of documents that a terminal shows whole. Tables, code and drawings are as wide as they have to be.

use crate::check::tree::Tree;

const COLUMNS_MAX: usize = 120;

pub fn check(tree: &Tree) -> Vec<String> {
    let mut findings = Vec::new();
    for file in tree.ending(".md") {
        let mut is_code = false;
        for (index, line) in file.text.lines().enumerate() {
            let is_fence = line.starts_with("```");
            is_code ^= is_fence;
            let is_prose =
                !is_code && !is_fence && !line.starts_with("    ") && !line.trim_start().starts_with('|');
            let columns = line.chars().count();
            if is_prose && columns > COLUMNS_MAX {
                let path = &file.path;
                findings.push(format!("{path}:{}: {columns} columns, at most {COLUMNS_MAX}", index + 1));
            }
        }
    }
    findings
}
