// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Runs other programs, with errors that name the program and show the end of its output.
//!
//! Invariant: no task ignores an exit code. Output is captured unless the caller asks to show it.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use anyhow::{Context, Result, bail};

/// Lines of a failed program's output that go into the error.
const TAIL_LINES: usize = 12;

/// Runs `command` and returns what it wrote to standard output.
pub fn capture(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    if !output.status.success() {
        bail!("{} ended with {}\n{}", name(command), output.status, tail(&output));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs `command` with the terminal's own input and output; true if it ended with exit code 0.
pub fn show(command: &mut Command) -> Result<bool> {
    let status = command.status().with_context(|| start_failed(command))?;
    Ok(status.success())
}

fn output(command: &mut Command) -> Result<Output> {
    command.stdin(Stdio::null()).output().with_context(|| start_failed(command))
}

fn start_failed(command: &Command) -> String {
    format!("{} could not be started", name(command))
}

fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

/// The last lines a program wrote, errors after ordinary output.
fn tail(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let first = lines.len().saturating_sub(TAIL_LINES);
    lines.iter().skip(first).map(|line| format!("  | {line}")).collect::<Vec<_>>().join("\n")
}

/// Where the shell would find `program`, if anywhere.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| is_program(file))
}

fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

/// Writes `content` to `file` so that a reader sees the old file or the new one, never a part.
pub fn write_whole(file: &Path, content: &[u8]) -> Result<()> {
    use std::io::Write;
    let folder = file.parent().with_context(|| format!("{} has no folder above it", file.display()))?;
    std::fs::create_dir_all(folder)
        .with_context(|| format!("folder {} could not be made", folder.display()))?;
    let mut part = tempfile::NamedTempFile::new_in(folder)
        .with_context(|| format!("no temporary file in {}", folder.display()))?;
    part.write_all(content).with_context(|| format!("{} could not be written", file.display()))?;
    set_mode(part.path(), 0o644)?;
    part.persist(file).with_context(|| format!("{} could not be put in place", file.display()))?;
    Ok(())
}

/// Sets the permission bits of `file`.
pub fn set_mode(file: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(mode))
        .with_context(|| format!("permissions of {} could not be set", file.display()))
}

/// Removes `folder` and all in it; a missing one is fine.
pub fn remove_folder(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("{} could not be removed", folder.display())),
    }
}
