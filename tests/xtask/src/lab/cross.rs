// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Building for arm64: the programs that ship, the lab's runner, and the test programs that run in the lab.
//!
//! The linker is the C cross compiler, the machine's own or the one unpacked in the cache. What was built is
//! put into the lab without its debug information, which is most of its size.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use ::tests::{
    command::{capture, set_mode, write_whole},
    places,
    tools::Ready,
};
use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::{check::arm64, product::cargo};

/// The architecture of the lab, as Rust calls it.
const TARGET: &str = "aarch64-unknown-linux-gnu";

/// The packages whose programs ship, and the lab's runner.
const PACKAGES: [&str; 7] = ["vmm-main", "vcpu", "dev-smmu", "dev-vfio", "dev-nvme", "mover", "lab"];

/// With debug assertions, and so with the attempts that only a debug build can be asked for; but a CPU in software
/// runs unoptimised code many times slower, and debug information would be stripped anyway.
const PROFILE: [(&str, &str); 2] =
    [("CARGO_PROFILE_DEV_OPT_LEVEL", "1"), ("CARGO_PROFILE_DEV_DEBUG", "none")];

/// Test programs: the package, and the name of its test.
const SUITES: [(&str, &str); 7] = [
    ("vmm-main", "isolation"),
    ("tests", "isolation"),
    ("tests", "faults"),
    ("sandbox", "sealed"),
    ("dev-vfio", "nested"),
    ("dev-vfio", "mtty"),
    ("dev-vfio", "mock"),
];

/// Packages whose unit tests run in the lab too: those that need KVM.
const UNITS: [&str; 1] = ["vcpu"];

/// A built file and the name it has in the lab.
pub struct Built {
    pub name: String,
    pub file: PathBuf,
}

/// What one build gave.
pub struct Everything {
    /// The programs that ship, and the runner, under their own names.
    pub programs: Vec<Built>,
    /// The suites, each named `PACKAGE-TEST`, or `PACKAGE-unit` for its unit tests.
    pub suites: Vec<Built>,
}

/// What cargo says about each thing that it built.
#[derive(Deserialize, Clone)]
struct Message {
    target: Option<Target>,
    package_id: Option<String>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize, Clone)]
struct Target {
    name: String,
    kind: Vec<String>,
}

/// An error that says what to do if this machine's Rust cannot build for the lab.
pub fn library() -> Result<()> {
    ensure!(
        arm64::has_library(Command::new("rustc")),
        "Rust's standard library for {TARGET} is not installed (`rustup target add {TARGET}`)"
    );
    Ok(())
}

/// Builds all programs and suites, in one go: cargo would choose the features of shared crates anew for each of
/// several. Unit tests can only be asked for apart.
pub fn build(linker: &Ready) -> Result<Everything> {
    let mut all = command(linker, "build")?;
    let packages: BTreeSet<&str> = PACKAGES.into_iter().chain(SUITES.map(|(package, _)| package)).collect();
    let tests: BTreeSet<&str> = SUITES.into_iter().map(|(_, test)| test).collect();
    all.arg("--bins");
    for package in packages {
        all.args(["--package", package]);
    }
    for test in tests {
        all.args(["--test", test]);
    }
    let mut units = command(linker, "test")?;
    units.args(["--no-run", "--lib"]);
    for package in UNITS {
        units.args(["--package", package]);
    }

    let mut everything = Everything { programs: Vec::new(), suites: Vec::new() };
    for Message { target, package_id, executable } in [made(&mut all)?, made(&mut units)?].concat() {
        let (Some(target), Some(id), Some(file)) = (target, package_id, executable) else { continue };
        if target.kind == ["bin"] {
            everything.programs.push(Built { name: target.name, file });
        } else if target.kind == ["test"] {
            let suite = SUITES.iter().find(|(package, test)| target.name == *test && is(&id, package));
            let name = suite.map(|(package, test)| format!("{package}-{test}"));
            everything.suites.extend(name.map(|name| Built { name, file }));
        } else if let Some(package) = UNITS.iter().find(|package| is(&id, package)) {
            everything.suites.push(Built { name: format!("{package}-unit"), file });
        }
    }
    let names = SUITES.iter().map(|(package, test)| format!("{package}-{test}"));
    for name in names.chain(UNITS.map(|package| format!("{package}-unit"))) {
        ensure!(everything.suites.iter().any(|suite| suite.name == name), "cargo built no suite {name}");
    }
    Ok(everything)
}

/// What a build says that it made.
fn made(command: &mut Command) -> Result<Vec<Message>> {
    let output =
        command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("cargo did not start")?;
    ensure!(output.status.success(), "the build for {TARGET} failed");
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

/// True if cargo's id of a package, `path+file:///FOLDER#VERSION` or `...#NAME@VERSION`, is that of `package`.
fn is(id: &str, package: &str) -> bool {
    let (folder, rest) = id.split_once('#').unwrap_or((id, ""));
    match rest.split_once('@') {
        Some((name, _)) => name == package,
        None => folder.rsplit('/').next() == Some(package),
    }
}

/// A copy of `file` without debug information in `folder`, made again only when `file` has changed.
pub fn stripped(linker: &Ready, file: &Path, folder: &Path) -> Result<PathBuf> {
    let name = file.file_name().context("a program without a name")?;
    let copy = folder.join(name);
    let age = |file: &Path| file.metadata().and_then(|data| data.modified()).ok();
    if age(&copy).is_some_and(|copied| age(file).is_some_and(|made| made <= copied)) {
        return Ok(copy);
    }
    fs::create_dir_all(folder).with_context(|| format!("{} could not be made", folder.display()))?;
    capture(linker.beside("aarch64-linux-gnu-strip").arg("-o").arg(&copy).arg(file))?;
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).context("a program's permissions")?;
    Ok(copy)
}

/// `cargo TASK`, set up to build for the lab.
fn command(linker: &Ready, task: &str) -> Result<Command> {
    // Cargo takes one program as a linker, and no environment for it: a script brings the two together.
    let script = places::target().join("lab/linker.sh");
    let gcc = linker.command();
    let mut text = String::from("#!/bin/sh\n");
    for (name, value) in gcc.get_envs() {
        let value = value.unwrap_or_default();
        text.push_str(&format!("export {}='{}'\n", name.display(), value.display()));
    }
    text.push_str(&format!("exec '{}' \"$@\"\n", gcc.get_program().display()));
    // Cargo links everything anew after its linker has changed.
    if fs::read_to_string(&script).ok().as_deref() != Some(&text) {
        write_whole(&script, text.as_bytes())?;
        set_mode(&script, 0o755)?;
    }
    let mut command = cargo();
    command.args([task, "--target", TARGET, "--message-format", "json-render-diagnostics"]);
    command.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", &script);
    // A library's own C and assembly (ciphers).
    command.env("CC_aarch64_unknown_linux_gnu", &script);
    command.envs(PROFILE);
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::is;

    #[test]
    fn package_is_known_by_its_name_or_its_folder() {
        assert!(is("path+file:///src/bulkhead/vmm-main#0.1.0", "vmm-main"));
        assert!(is("path+file:///src/bulkhead/tests/lab#inner@0.1.0", "inner"));
        assert!(!is("path+file:///src/bulkhead/tests/lab#inner@0.1.0", "lab"));
        assert!(!is("path+file:///src/bulkhead/dev-vfio#0.1.0", "vfio"));
    }
}
