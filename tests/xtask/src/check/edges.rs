// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which crate of the workspace may use which: the architecture as `cargo metadata` shows it.
//!
//! A process that links another's model could skip the isolation between them. So devices meet only in the
//! contract, the coordinator knows devices as programs, and the pure models depend on nothing here.

use ::tests::command::capture;
use anyhow::{Context, Result};
use serde::Deserialize;

use crate::product::cargo;

/// Every crate with the crates of the workspace that it may use, tests included.
const ALLOWED: [(&str, &[&str]); 17] = [
    ("smmu-arch", &[]),
    ("soft-cpu", &[]),
    // Its pure types, so that a StreamId and an attachment exist once.
    ("ipc", &["smmu-arch"]),
    ("sandbox", &[]),
    ("process", &["ipc", "sandbox"]),
    ("machine", &["ipc"]),
    ("vcpu", &["ipc", "machine", "process", "sandbox", "soft-cpu"]),
    ("dev-smmu", &["ipc", "process", "sandbox", "smmu-arch"]),
    ("dev-vfio", &["ipc", "process", "sandbox", "smmu-arch"]),
    ("dev-nvme", &["ipc", "process", "sandbox"]),
    ("dev-virtio", &["ipc", "process", "sandbox"]),
    ("mover", &["ipc", "process", "sandbox"]),
    ("vmm-main", &["ipc", "machine", "sandbox"]),
    // Suites and tools stand outside of the product: they may look at all of it.
    ("fuzz", &["ipc", "process", "smmu-arch", "soft-cpu", "dev-smmu", "dev-vfio", "dev-nvme", "mover"]),
    (
        "tests",
        &[
            "ipc",
            "process",
            "sandbox",
            "smmu-arch",
            "soft-cpu",
            "dev-nvme",
            "dev-smmu",
            "dev-vfio",
            "vcpu",
            "vmm-main",
        ],
    ),
    ("lab", &["tests"]),
    ("xtask", &["ipc", "lab", "sandbox", "tests", "vmm-main"]),
];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// The folder, for a crate of the workspace.
    path: Option<String>,
}

/// Every edge that is not allowed.
pub fn check() -> Result<Vec<String>> {
    let json = capture(cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
    find(&json)
}

fn find(json: &str) -> Result<Vec<String>> {
    let metadata: Metadata = serde_json::from_str(json).context("cargo's description of the workspace")?;
    let mut findings = Vec::new();
    for package in &metadata.packages {
        let Some((_, allowed)) = ALLOWED.iter().find(|(name, _)| *name == package.name) else {
            findings.push(format!("{} is not in the table of allowed dependencies", package.name));
            continue;
        };
        let used = package.dependencies.iter().filter(|dependency| dependency.path.is_some());
        for dependency in used.filter(|dependency| !allowed.contains(&dependency.name.as_str())) {
            findings.push(format!("{} uses {}", package.name, dependency.name));
        }
    }
    Ok(findings)
}

#[cfg(test)]
mod tests;
