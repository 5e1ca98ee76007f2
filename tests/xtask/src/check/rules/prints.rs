// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! No program of the product prints by the macros that panic: with a closed reader or a full disk behind them they end
//! the process, and a line written so has no level.
//!
//! A process logs by `ipc::log`, the coordinator by `tracing`, and an answer is written by calls whose failure is
//! handled.

use crate::check::tree::Tree;

/// The folders of the product; what is in `tests` or `benches` of them runs nowhere else.
const PRODUCT: [&str; 10] = [
    "ipc/src/",
    "sandbox/src/",
    "smmu-arch/src/",
    "soft-cpu/src/",
    "machine/src/",
    "vcpu/src/",
    "dev-smmu/src/",
    "dev-vfio/src/",
    "dev-nvme/src/",
    "vmm-main/src/",
];

const MACROS: [&str; 4] = ["println!(", "eprintln!(", "print!(", "eprint!("];

pub fn check(tree: &Tree) -> Vec<String> {
    let mut findings = Vec::new();
    for file in tree.ending(".rs") {
        let is_test = file.path.ends_with("/tests.rs") || file.path.contains("/tests/");
        if is_test || !PRODUCT.iter().any(|folder| file.path.starts_with(folder)) {
            continue;
        }
        // Tests stand last in a file.
        let product = file.text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
        for (index, line) in product.lines().enumerate() {
            let code = line.trim_start();
            if !code.starts_with("//") && MACROS.iter().any(|macro_call| code.contains(macro_call)) {
                findings.push(format!("{}:{}: prints by a macro that panics", file.path, index + 1));
            }
        }
    }
    findings
}
