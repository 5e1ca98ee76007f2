// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Building the product's programs and finding them.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use ::tests::{command::show, places, programs};
use anyhow::{Context, Result, bail, ensure};

/// The packages that hold the programs of a virtual machine.
const PACKAGES: [&str; 6] = ["vmm-main", "vcpu", "dev-smmu", "dev-vfio", "dev-nvme", "mover"];

/// Which of cargo's profiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Quick to build, with debug assertions; the CPU is optimised in it too.
    Dev,
    /// What is shipped and measured.
    Release,
}

impl Profile {
    /// The profile that a `--release` flag chooses.
    pub fn of(release: bool) -> Self {
        if release { Self::Release } else { Self::Dev }
    }

    /// The folder in the target folder that cargo gives it.
    pub fn folder(self) -> &'static str {
        match self {
            Self::Dev => "debug",
            Self::Release => "release",
        }
    }
}

/// Builds the programs and returns their folder. Cargo shows its own progress.
pub fn build(profile: Profile) -> Result<PathBuf> {
    let mut command = cargo();
    command.arg("build").arg("--bins");
    for package in PACKAGES {
        command.args(["--package", package]);
    }
    if profile == Profile::Release {
        command.arg("--release");
    }
    ensure!(show(&mut command)?, "the programs could not be built");
    let folder = places::programs(profile.folder());
    for program in programs::ALL {
        if !folder.join(program).is_file() {
            bail!("the build left no program {program} in {}", folder.display());
        }
    }
    Ok(folder)
}

/// The folder that was given, or that of a build made now.
pub fn given_or_built(given: Option<&Path>, profile: Profile) -> Result<PathBuf> {
    match given {
        Some(folder) => std::path::absolute(folder).context("the folder of the programs"),
        None => build(profile),
    }
}

/// Cargo, started in the root of the repository.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(places::root());
    // Variables that cargo set for this task are not meant for the cargo started here.
    for (name, _) in std::env::vars_os() {
        let inherited = name.to_string_lossy();
        if inherited.starts_with("CARGO_PKG_")
            || inherited == "CARGO_MANIFEST_DIR"
            || inherited == "CARGO_MANIFEST_PATH"
        {
            command.env_remove(&name);
        }
    }
    command
}
