// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which process uses a file: for the message that it is in use. Read from `/proc` with the user's rights, so it may
//! be unknown; only messages depend on it.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{major, minor};

use crate::printable;

/// Characters of a command line that are shown.
const COMMAND_LEN_MAX: usize = 80;

/// Describes the process that holds a lock (flock) on `file`.
pub fn of_lock(file: &File) -> Option<String> {
    pid_of_lock(file).map(describe)
}

/// Whether the process that took the lock on `file` still exists. The lock may outlive it in processes that inherited
/// the file.
pub fn of_lock_lives(file: &File) -> bool {
    pid_of_lock(file).is_some_and(|pid| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let state = status.lines().find_map(|line| line.strip_prefix("State:"));
        state.is_some_and(|state| !state.trim_start().starts_with(['Z', 'X']))
    })
}

fn pid_of_lock(file: &File) -> Option<i32> {
    let metadata = file.metadata().ok()?;
    let locks = fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| lock_holder(line, &metadata))
}

/// Describes a process that has the file at `path` open.
pub fn of_open_file(path: &Path) -> Option<String> {
    let metadata = fs::metadata(path).ok()?;
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let mut pids =
        fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.find(|pid| *pid != own && has_open(*pid, &metadata)).map(describe)
}

/// The holder in a line of `/proc/locks`, such as `1: FLOCK  ADVISORY  WRITE 1234 08:01:131090 0 EOF`, if it is about
/// the file. A line with an arrow is a waiter.
fn lock_holder(line: &str, metadata: &Metadata) -> Option<i32> {
    let mut words = line.split_whitespace().skip(1);
    if words.next() != Some("FLOCK") {
        return None;
    }
    let pid: i32 = words.nth(2)?.parse().ok()?;
    let (device, inode) = words.next()?.rsplit_once(':')?;
    if inode.parse() != Ok(metadata.ino()) {
        return None;
    }
    // Of some file systems (btrfs, overlayfs) the kernel shows another device here than to `stat`.
    let same = device == format!("{:02x}:{:02x}", major(metadata.dev()), minor(metadata.dev()));
    (same || has_open(pid, metadata)).then_some(pid)
}

fn has_open(pid: i32, metadata: &Metadata) -> bool {
    let is_it = |path: &Path| {
        fs::metadata(path).is_ok_and(|other| (other.dev(), other.ino()) == (metadata.dev(), metadata.ino()))
    };
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    fds.into_iter().any(|fd| is_it(&fd.path()))
}

fn describe(pid: i32) -> String {
    if pid == rustix::process::getpid().as_raw_nonzero().get() {
        return "this VM itself, which is given it twice".to_owned();
    }
    match command_of(pid) {
        Ok(command) if !command.is_empty() => format!("process {pid} ({command})"),
        Ok(_) | Err(_) => format!("process {pid}"),
    }
}

fn command_of(pid: i32) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(format!("/proc/{pid}/cmdline"))?.take(4096).read_to_end(&mut bytes)?;
    let words: Vec<String> =
        bytes.split(|byte| *byte == 0).filter(|word| !word.is_empty()).map(printable::line).collect();
    let mut words = words.iter().map(String::as_str);
    // Its folder says nothing that its name does not.
    let program = words.next().and_then(|program| program.rsplit('/').next());
    let command = program.into_iter().chain(words).collect::<Vec<_>>().join(" ");
    Ok(match command.char_indices().nth(COMMAND_LEN_MAX) {
        Some((end, _)) => format!("{}...", command.get(..end).unwrap_or_default()),
        None => command,
    })
}

#[cfg(test)]
mod tests {
    use rustix::fs::{FlockOperation, flock};

    use super::*;

    #[test]
    fn holder_of_a_lock_is_found_and_goes_with_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let other = File::open(file.path()).unwrap();
        assert_eq!(of_lock(&other), None);
        flock(file.as_file(), FlockOperation::NonBlockingLockExclusive).unwrap();
        let told = of_lock(&other).unwrap();
        assert!(told.starts_with("this VM itself"), "{told}");
        flock(file.as_file(), FlockOperation::Unlock).unwrap();
        assert_eq!(of_lock(&other), None);
    }

    #[test]
    fn holder_that_has_died_is_told_from_one_that_lives() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let other = File::open(file.path()).unwrap();
        assert!(!of_lock_lives(&other), "nobody has it");
        flock(file.as_file(), FlockOperation::NonBlockingLockExclusive).unwrap();
        assert!(of_lock_lives(&other));
        flock(file.as_file(), FlockOperation::Unlock).unwrap();
        // A process locks it, and leaves the open file to one that outlives it.
        let path = file.path().to_str().unwrap();
        let script = format!("exec 9<'{path}' && flock -n 9 && {{ sleep 60 >/dev/null 2>&1 & echo $!; }}");
        let started = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
        let heir = String::from_utf8(started.stdout).unwrap();
        let (locked, lives) =
            (flock(&other, FlockOperation::NonBlockingLockExclusive).is_err(), of_lock_lives(&other));
        std::process::Command::new("kill").arg(heir.trim()).status().unwrap();
        assert!(locked && !lives, "locked: {locked}, lives: {lives}, heir: {heir}");
    }

    #[test]
    fn holder_of_an_open_file_is_another_process() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(of_open_file(file.path()), None, "this process is not in its own way");
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .stdin(File::open(file.path()).unwrap())
            .spawn()
            .unwrap();
        let told = of_open_file(file.path());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(told, Some(format!("process {} (sleep 60)", child.id())));
    }

    #[test]
    fn lock_lines_of_others_and_of_those_who_wait_are_left_out() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let metadata = file.as_file().metadata().unwrap();
        let place = format!("{:02x}:{:02x}:{}", major(metadata.dev()), minor(metadata.dev()), metadata.ino());
        let holder = |line: &str| lock_holder(&line.replace("HERE", &place), &metadata);
        assert_eq!(holder("1: FLOCK  ADVISORY  WRITE 77 HERE 0 EOF"), Some(77));
        assert_eq!(holder("1: -> FLOCK  ADVISORY  WRITE 77 HERE 0 EOF"), None);
        assert_eq!(holder("1: POSIX  ADVISORY  WRITE 77 HERE 0 EOF"), None);
        assert_eq!(holder("1: FLOCK  ADVISORY  WRITE 77 HERE7 0 EOF"), None);
        assert_eq!(holder("garbage"), None);
    }
}
