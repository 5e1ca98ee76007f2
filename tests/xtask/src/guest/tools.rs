// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Foreign tools for comparison and for building test programs: QEMU and the arm64 cross compiler.
//!
//! A tool that the machine has is used as it is. Else `cargo xtask guest --qemu` / `--cross` unpacks it from
//! packages into the cache, without root; it runs with its own libraries ahead of the machine's. Tasks only
//! look for a tool (`installed`): they never fetch one behind the user's back.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use super::apt::{self, Apt, Installed};
use crate::{
    command::{capture, find, remove_folder},
    progress::Step,
};

/// A program of a Debian package, and how to know that it works.
pub struct Tool {
    /// The program's name, as on the PATH.
    program: &'static str,
    /// The package that brings it.
    package: &'static str,
    /// Its folder in the cache.
    folder: &'static str,
    /// The option of `cargo xtask guest` that fetches it.
    pub option: &'static str,
}

/// The machine emulator: the yardstick for speed, and the oracle for what programs compute.
pub const QEMU: Tool =
    Tool { program: "qemu-system-aarch64", package: "qemu-system-arm", folder: "qemu", option: "--qemu" };

/// The C compiler for guest test programs.
pub const CROSS: Tool = Tool {
    program: "aarch64-linux-gnu-gcc",
    package: "gcc-aarch64-linux-gnu",
    folder: "cross",
    option: "--cross",
};

/// A tool ready to run.
#[derive(Debug, Clone)]
pub struct Ready {
    program: PathBuf,
    /// The root folder of an unpacked tool; nothing for one of the machine's own.
    root: Option<PathBuf>,
}

impl Tool {
    /// The tool, if the machine or the cache has one that starts.
    pub fn installed(&self, cache: &Path) -> Option<Ready> {
        let own = find(self.program).map(|program| Ready { program, root: None });
        let root = cache.join(self.folder);
        let unpacked = Ready { program: root.join("usr/bin").join(self.program), root: Some(root) };
        own.into_iter().chain([unpacked]).find(|ready| ready.version().is_ok())
    }

    /// Unpacks the tool into the cache unless there is one that starts.
    pub fn obtain(&self, cache: &Path) -> Result<Ready> {
        if let Some(ready) = self.installed(cache) {
            return Ok(ready);
        }
        let step = Step::begin(self.program);
        let architecture = capture(Command::new("dpkg").arg("--print-architecture"))?;
        let apt = Apt::prepare(&cache.join("apt-tools"), architecture.trim(), Installed::AsHere)?;
        let packages = apt.download_with_dependencies(self.package)?;
        let part = tempfile::tempdir_in(cache).context("a folder to unpack a tool into")?;
        for package in &packages {
            apt::unpack(package, part.path())?;
        }
        apt.clean()?;
        let root = cache.join(self.folder);
        remove_folder(&root)?;
        std::fs::rename(part.keep(), &root)
            .with_context(|| format!("{} could not be put in place", root.display()))?;
        let ready = self.installed(cache).with_context(|| {
            format!("{} was unpacked into {} but does not start there", self.program, root.display())
        })?;
        step.done(&ready.version()?);
        Ok(ready)
    }
}

impl Ready {
    /// A command that runs the tool.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        if let Some(root) = &self.root {
            let triplet = format!("{}-linux-gnu", env::consts::ARCH);
            let folders = [root.join("usr/lib").join(&triplet), root.join("lib").join(&triplet)];
            if let Ok(path) = env::join_paths(folders) {
                command.env("LD_LIBRARY_PATH", path);
            }
        }
        command
    }

    /// The folder of the firmware and device files of an unpacked QEMU.
    pub fn data(&self) -> Option<PathBuf> {
        self.root.as_ref().map(|root| root.join("usr/share/qemu"))
    }

    /// The first line of what the tool says about its version; an error if it does not start.
    pub fn version(&self) -> Result<String> {
        let text = capture(self.command().arg("--version"))?;
        Ok(text.lines().next().unwrap_or_default().to_string())
    }
}
