// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What no program that a guest can reach may link: HTTP, the command line's parser, an asynchronous runtime.
//!
//! Such a program is sealed before it serves, and everything in it is what an attacker of it may use. Asked of cargo
//! for each package alone: a build of the whole workspace compiles shared crates once, with the features of all who use
//! them.

use ::tests::command::capture;
use anyhow::Result;

use crate::product::cargo;

/// The packages of these programs. (`bulkhead-nvme` reads a command line too: any vfio-user client may start it.)
const SEALED: [&str; 3] = ["vcpu", "dev-smmu", "dev-vfio"];

/// Crates that none of them links, at any depth.
const BARRED: [&str; 5] = ["axum", "clap", "hyper", "tokio", "toml"];

/// Every barred crate that a program links.
pub fn check() -> Result<Vec<String>> {
    let mut findings = Vec::new();
    for package in SEALED {
        let tree = ["tree", "--package", package, "--edges", "normal", "--target", "all", "--prefix", "none"];
        findings.extend(find(package, &capture(cargo().args(tree))?));
    }
    Ok(findings)
}

/// `tree` has a line for each crate: its name, its version, and where it is from.
fn find(package: &str, tree: &str) -> Vec<String> {
    let linked = |barred: &&str| tree.lines().any(|line| line.split(' ').next() == Some(barred));
    BARRED.iter().filter(|barred| linked(barred)).map(|barred| format!("{package} links {barred}")).collect()
}

#[cfg(test)]
mod tests;
