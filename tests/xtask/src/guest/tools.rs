// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Unpacking foreign tools into the cache, from packages and without root, for those who ask for it.
//!
//! The tools and how to run them: `tests/src/tools.rs`.

use std::{path::Path, process::Command};

use ::tests::{
    command::{capture, remove_folder},
    tools::{Ready, Tool},
};
use anyhow::{Context, Result};

use super::apt::{self, Apt, Installed, Suites};
use crate::progress::Step;

/// Unpacks `tool` into `cache` unless the machine or the cache has one that starts.
pub fn obtain(tool: &Tool, cache: &Path) -> Result<Ready> {
    if let Some(ready) = tool.installed() {
        return Ok(ready);
    }
    let step = Step::begin(tool.program);
    let architecture = capture(Command::new("dpkg").arg("--print-architecture"))?;
    let (folder, installed, suites) = match tool.newer {
        false if tool.backports => ("apt-backports", Installed::But(tool.whole), Suites::Backports),
        false => ("apt-tools", Installed::But(tool.whole), Suites::AsHere),
        // Its libraries come along, so that nothing of the machine's has to fit.
        true => ("apt-newest", Installed::Nothing, Suites::Newest),
    };
    let apt = Apt::prepare(&cache.join(folder), architecture.trim(), installed, suites)?;
    let packages = apt.download_with_dependencies(tool.packages)?;
    let part = tempfile::tempdir_in(cache).context("a folder to unpack a tool into")?;
    for package in &packages {
        apt::unpack(package, part.path())?;
    }
    apt.clean()?;
    let root = cache.join(tool.folder);
    remove_folder(&root)?;
    std::fs::rename(part.keep(), &root)
        .with_context(|| format!("{} could not be put in place", root.display()))?;
    let ready = tool.installed().with_context(|| {
        format!("{} was unpacked into {} but does not start", tool.program, root.display())
    })?;
    step.done(&ready.version()?);
    Ok(ready)
}
