// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where things are: the repository, its target folder, the cache of fetched files, the built programs.
//!
//! Everything is derived from what cargo tells a program that it runs, so that a checkout can be moved.
//! Callers: every task and every suite; no other file spells a path of the tree.

use std::{
    env,
    path::{Path, PathBuf},
};

/// The root of the repository.
///
/// `cargo run` and `cargo test` set `CARGO_MANIFEST_DIR`; a program started by hand falls back to where it
/// was built.
pub fn root() -> PathBuf {
    let manifest = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    manifest
        .ancestors()
        .find(|folder| folder.join("tests/xtask/Cargo.toml").is_file())
        .map_or_else(|| manifest.clone(), Path::to_path_buf)
}

/// Cargo's target folder.
pub fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// The cache of fetched and derived guest files: `BULKHEAD_CACHE`, or `target/guest`.
pub fn cache() -> PathBuf {
    env::var_os("BULKHEAD_CACHE").map_or_else(|| target().join("guest"), |dir| root().join(dir))
}

/// The folder of the programs built with `profile` (`debug` or `release`) for this machine.
///
/// The workspace always builds for a named target (see `.cargo/config.toml`), hence the middle folder.
pub fn programs(profile: &str) -> PathBuf {
    target().join(format!("{}-unknown-linux-gnu", env::consts::ARCH)).join(profile)
}
