// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `cargo xtask role`: what a new role costs, shown by adding one.
//!
//! `role/sample.patch` adds a role that does nothing: a line in the list of roles, a profile, a template, a program.
//! The task puts it onto a copy of the tree, builds that, and starts a VM: the process is to be started, sealed, wired,
//! audited, paused, saved into a next life and ended by what is there already. A test fails where the patch does not
//! fit the tree any more.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::{Command, ExitCode},
    time::Duration,
};

use ::tests::{
    command::{capture, remove_folder, show},
    guest::GuestFiles,
    places,
    vm::{self, Vm},
};
use anyhow::{Context, Result, ensure};
use vmm_main::api::types::{Inspected, Process};

use crate::{product::cargo, stages::Stages};

/// The patch, from the root of the workspace.
const PATCH: &str = "tests/xtask/src/role/sample.patch";
/// What it adds.
const NAME: &str = "sample";
/// The packages whose programs a VM without devices opens.
const PACKAGES: [&str; 5] = ["vmm-main", "vcpu", "dev-smmu", "mover", "sample"];

const BOOT: Duration = Duration::from_secs(120);
const MEMORY_LEN: u64 = 512 << 20;

/// The task.
pub fn run() -> Result<ExitCode> {
    let folder = places::target().join("role");
    let mut stages = Stages::default();
    let tree = stages.run("copy of the tree, with the role", || {
        let (next, tree) = (folder.join("next"), folder.join("tree"));
        remove_folder(&next)?;
        let count = copy(&places::root(), &next)?;
        apply(&next, &[])?;
        // What did not change keeps its time, and is not built again.
        copy(&next, &tree)?;
        Ok((tree, format!("{count} files, and {PATCH}")))
    });
    let programs = tree.and_then(|tree| {
        stages.run_shown("programs", || {
            let target = folder.join("target");
            let mut command = cargo();
            command.current_dir(&tree).env("CARGO_TARGET_DIR", &target).args(["build", "--bins"]);
            PACKAGES.iter().for_each(|package| _ = command.args(["--package", package]));
            ensure!(show(&mut command)?, "the tree with the role could not be built");
            let folder = format!("{}-unknown-linux-gnu/debug", std::env::consts::ARCH);
            Ok((target.join(folder), "built".to_owned()))
        })
    });
    let vm = programs.and_then(|programs| {
        stages.run("started and wired", || {
            let files =
                GuestFiles::cached().context("the guest's files are not there (`cargo xtask guest`)")?;
            let mut options = vm::Options::new(programs, files, "role");
            options.memory = format!("{}M", MEMORY_LEN >> 20);
            options.arguments = ["--cpu", "soft"].map(String::from).to_vec();
            let mut vm = Vm::launch(options)?;
            vm.wait_running(BOOT)?;
            let inspected: Vec<Inspected> = serde_json::from_str(&vm.control_json("inspect")?)?;
            let own = inspected.into_iter().find(|row| row.process == NAME);
            let values = own.with_context(|| format!("`bulkhead inspect` has no process {NAME}"))?.values;
            let len = values.get("ram.len").and_then(serde_json::Value::as_u64);
            ensure!(len == Some(MEMORY_LEN), "its RAM is not the guest's: {values:?}");
            Ok((vm, "it has guest RAM and a dirty log, by name".to_owned()))
        })
    });
    if let Some(vm) = vm {
        stages.run("sealed and audited", || Ok(((), audited(&vm, "running")?)));
        stages.run("paused, resumed", || {
            vm.control_json("pause")?;
            audited(&vm, "paused")?;
            vm.control_json("resume")?;
            audited(&vm, "running").map(|_| ((), "as `ps` shows it".to_owned()))
        });
        stages.run("saved, and restored into a next life", || {
            vm.control_json("save-restore")?;
            audited(&vm, "running").map(|seen| ((), seen))
        });
        stages.run("ended", || {
            vm.control_json("stop")?;
            let left = vm.left_over();
            ensure!(left.is_empty(), "something is left: {left:?}");
            Ok(((), "nothing is left".to_owned()))
        });
    }
    Ok(stages.finish("role"))
}

/// That its process is in this state and confined as its profile says; what was seen.
fn audited(vm: &Vm, state: &str) -> Result<String> {
    let rows: BTreeMap<String, Vec<Process>> =
        serde_json::from_str(&vm.control_json("ps")?).context("the processes of each VM")?;
    let row = rows.into_values().flatten().find(|row| row.name == NAME);
    let row = row.with_context(|| format!("`bulkhead ps` has no process {NAME}"))?;
    ensure!(row.state == state, "it is {}, not {state}", row.state);
    let observed = row.observed.context("nothing was observed")?;
    ensure!(observed.drift.is_empty(), "it is not confined as its profile says: {:?}", observed.drift);
    ensure!(!observed.facts.is_empty() && !row.enforced.is_empty(), "nothing confines it: {observed:?}");
    Ok(format!("generation {}, {} facts, no drift", row.generation, observed.facts.len()))
}

/// Makes the files of `to` those of `from` that git does not ignore; one that is the same already is not touched. How
/// many.
fn copy(from: &Path, to: &Path) -> Result<usize> {
    fs::create_dir_all(to).with_context(|| to.display().to_string())?;
    let wanted = files(from)?;
    for gone in files(to)?.difference(&wanted) {
        fs::remove_file(to.join(gone)).with_context(|| format!("{gone} could not be removed"))?;
    }
    for name in &wanted {
        let (source, copy) = (from.join(name), to.join(name));
        let bytes = fs::read(&source).with_context(|| source.display().to_string())?;
        if fs::read(&copy).ok().as_ref() != Some(&bytes) {
            fs::create_dir_all(copy.parent().context("a file without a folder")?)?;
            fs::write(&copy, bytes).with_context(|| copy.display().to_string())?;
        }
    }
    Ok(wanted.len())
}

/// The files below `folder` that git does not ignore, by their paths from there, whether or not it lies in a
/// repository.
fn files(folder: &Path) -> Result<BTreeSet<String>> {
    let mut command = outside(folder);
    let is_repository = folder.join(".git").exists();
    let listed = if is_repository {
        capture(command.args(["ls-files", "--cached", "--others", "--exclude-standard"]))?
    } else {
        capture(Command::new("find").current_dir(folder).args([".", "-type", "f", "-printf", "%P\\n"]))?
    };
    // What was deleted and not committed yet is listed too.
    Ok(listed.lines().filter(|name| folder.join(name).is_file()).map(String::from).collect())
}

/// Git in `folder`, which may lie below a repository that it is no part of.
fn outside(folder: &Path) -> Command {
    let mut command = Command::new("git");
    command.env("GIT_CEILING_DIRECTORIES", folder.parent().unwrap_or(folder)).current_dir(folder);
    command
}

/// Puts the role into `tree`, or does what `options` says instead.
fn apply(tree: &Path, options: &[&str]) -> Result<()> {
    capture(outside(tree).arg("apply").args(options).arg(places::root().join(PATCH))).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patch_of_the_role_fits_the_tree() {
        apply(&places::root(), &["--check"]).unwrap();
    }
}
