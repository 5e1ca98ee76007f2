// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The processes of a machine as the host has them: the launcher's descendants, found in `/proc`.
//!
//! Unlike `bulkhead ps` this needs no coordinator that answers: one that is being started, or is stopped, does not.

use std::collections::BTreeMap;
use std::fs;

use rustix::process::{Pid, Signal, kill_process};

/// A process, by what its command line says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its number on this host.
    pub pid: u32,
    /// Its first argument, such as `smmu0`; of one that does not run its program yet, that of its parent.
    pub name: String,
}

/// The launcher and all of its descendants, parents before their children.
pub fn of(launcher: u32) -> Vec<Process> {
    let mut children = BTreeMap::<u32, Vec<u32>>::new();
    for pid in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = pid.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if let Some(parent) = parent_of(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = vec![launcher];
    let mut next = 0;
    while let Some(pid) = found.get(next) {
        found.extend(children.remove(pid).into_iter().flatten());
        next += 1;
    }
    found.into_iter().map(|pid| Process { pid, name: name_of(pid) }).collect()
}

/// The process of this name, if there is one: a parent rather than a child that does not run its program yet.
pub fn named(launcher: u32, name: &str) -> Option<u32> {
    of(launcher).into_iter().find(|process| process.name == name).map(|process| process.pid)
}

/// Sends it a signal. False: it has ended.
pub fn signal(pid: u32, signal: Signal) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| kill_process(pid, signal).is_ok())
}

/// The fourth field of proc_pid_stat(5); the second is in parentheses, and may have any characters.
fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

fn name_of(pid: u32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let word = line.split(|byte| *byte == 0).nth(1).unwrap_or_default();
    String::from_utf8_lossy(word).into_owned()
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::{Duration, Instant};

    use rustix::process::Signal;

    use super::{named, of, signal};

    #[test]
    fn process_is_found_among_the_descendants_by_its_first_argument() {
        let mut child = Command::new("sh").args(["-c", "sleep 60 & sleep 61; :"]).spawn().unwrap();
        let until = Instant::now() + Duration::from_secs(10);
        let sleeping = loop {
            assert!(Instant::now() < until, "{:?}", of(child.id()));
            if let (Some(one), Some(other)) = (named(child.id(), "60"), named(child.id(), "61")) {
                break [one, other];
            }
        };
        assert_eq!(named(child.id(), "-c"), Some(child.id()), "a parent before its children");
        assert_eq!(named(child.id(), "62"), None);
        assert!(of(std::process::id()).iter().any(|process| process.pid == sleeping[0]));
        for pid in sleeping {
            assert!(signal(pid, Signal::KILL));
        }
        child.wait().unwrap();
    }
}
