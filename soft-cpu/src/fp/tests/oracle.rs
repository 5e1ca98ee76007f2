// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Another implementation to compare with: `qemu-aarch64` (user mode), where it is installed.
//!
//! The environment sets the length and the seed of a campaign; both differential suites read it here.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The number in the variable `name`, or `default`.
pub fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// The program, or nothing, after saying why.
pub fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let found = std::env::split_paths(&path)
        .flat_map(|folder| ["qemu-aarch64", "qemu-aarch64-static"].map(|name| folder.join(name)))
        .find(|program| program.is_file());
    if found.is_none() {
        eprintln!("SKIPPED: no qemu-aarch64 or qemu-aarch64-static in PATH to compare with");
    }
    found
}

/// Runs an AArch64 program to its end; what it has written to its standard output. `name` is unique in this process.
pub fn run(oracle: &Path, image: &[u8], name: &str) -> Vec<u8> {
    let path = std::env::temp_dir().join(format!("bulkhead-{name}-{}", std::process::id()));
    std::fs::write(&path, image).expect("the program is written");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o700)).expect("the program is executable");
    let output = Command::new(oracle)
        .args(["-cpu", "cortex-a57"])
        .arg(&path)
        .env_clear()
        .stderr(Stdio::inherit())
        .output()
        .expect("the oracle runs");
    let _ = std::fs::remove_file(&path);
    assert!(output.status.success(), "the oracle ended with {}", output.status);
    output.stdout
}
