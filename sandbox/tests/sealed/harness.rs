// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! As much of the test command line as cargo and nextest use: listing, exact names, filters.
//!
//! A case fails by panicking. A case that cannot run here prints why and counts as run: the reason is in the output.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// A named case.
pub type Case = (&'static str, fn());

/// Runs what the command line asks for and exits.
pub fn main(cases: &[Case]) {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| args.iter().any(|arg| arg == flag);
    if has("--list") {
        if !has("--ignored") {
            cases.iter().for_each(|(name, _)| println!("{name}: test"));
        }
        return;
    }
    let takes_value = ["--format", "--test-threads", "--skip", "-Z", "--color"];
    let mut filters = Vec::new();
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        if takes_value.contains(&arg.as_str()) {
            rest.next();
        } else if !arg.starts_with('-') {
            filters.push(arg.as_str());
        }
    }
    let wanted = |name: &str| {
        filters.is_empty()
            || filters
                .iter()
                .any(|filter| if has("--exact") { name == *filter } else { name.contains(filter) })
    };
    let mut failed = 0;
    for (name, case) in cases.iter().filter(|(name, _)| wanted(name)) {
        let passed = catch_unwind(AssertUnwindSafe(case)).is_ok();
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        failed += u32::from(!passed);
    }
    std::process::exit(if failed == 0 { 0 } else { 101 });
}
