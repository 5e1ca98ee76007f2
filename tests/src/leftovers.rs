// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a run of the product leaves on the machine: processes, sockets, mounts, shared-memory files.
//!
//! Taken before and after: whatever is in the second and not in the first is left over. A memfd lives as long as a
//! process holds it, so those still held are found through the processes' open files. Other virtual machines on the
//! host are ignored: only what `mine` accepts is listed.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use crate::processes;

/// Each thing as a line that a person can read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Leftovers {
    things: BTreeSet<String>,
}

/// What belongs to a run.
#[derive(Debug, Clone)]
pub struct Scope {
    /// Programs from this folder are the product's.
    pub programs: PathBuf,
    /// The folder of the control sockets.
    pub sockets: PathBuf,
}

impl Scope {
    /// Everything of the product that exists now.
    pub fn present(&self) -> Leftovers {
        self.present_beside(None)
    }

    /// The same without the processes of the machine that this launcher has.
    fn present_beside(&self, launcher: Option<u32>) -> Leftovers {
        let mut things = BTreeSet::new();
        let others = launcher.map(processes::of).unwrap_or_default();
        self.processes(&others.iter().map(|process| process.pid).collect(), &mut things);
        self.sockets(&mut things);
        things.extend(mounts());
        Leftovers { things }
    }

    /// What is there beyond `before`. A process that is ending may take up to `limit`.
    pub fn beyond(&self, before: &Leftovers, limit: Duration) -> Vec<String> {
        self.beyond_beside(before, None, limit)
    }

    /// The same without the processes of the machine that this launcher has.
    pub fn beyond_beside(&self, before: &Leftovers, launcher: Option<u32>, limit: Duration) -> Vec<String> {
        let deadline = Instant::now() + limit;
        loop {
            let present = self.present_beside(launcher);
            let more: Vec<String> = present.things.difference(&before.things).cloned().collect();
            if more.is_empty() || Instant::now() >= deadline {
                return more;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Processes of the product's programs but for `others`, and the product's memfds that they or this process hold.
    fn processes(&self, others: &BTreeSet<u32>, things: &mut BTreeSet<String>) {
        let Ok(entries) = fs::read_dir("/proc") else { return };
        for folder in entries.flatten().map(|entry| entry.path()) {
            let Some(pid) = folder.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok()) else {
                continue;
            };
            if others.contains(&pid) {
                continue;
            }
            match self.program_of(&folder) {
                Some(name) => things.insert(format!("process {pid} ({name})")),
                None if pid == std::process::id() => false,
                None => continue,
            };
            let Ok(files) = fs::read_dir(folder.join("fd")) else { continue };
            for target in files.flatten().filter_map(|file| fs::read_link(file.path()).ok()) {
                if target.to_string_lossy().starts_with("/memfd:bulkhead") {
                    things.insert(format!("memfd {} held by process {pid}", target.display()));
                }
            }
        }
    }

    /// The name of the product's program that a process runs. A sealed process hides the link to its file from
    /// other users, but never its command line.
    fn program_of(&self, process: &Path) -> Option<String> {
        if let Ok(file) = fs::read_link(process.join("exe")) {
            let name = file.strip_prefix(&self.programs).ok()?;
            return is_product(&name.to_string_lossy()).then(|| name.display().to_string());
        }
        let line = fs::read(process.join("cmdline")).ok()?;
        let first = line.split(|byte| *byte == 0).next()?;
        let name = Path::new(std::str::from_utf8(first).ok()?).file_name()?.to_string_lossy().into_owned();
        is_product(&name).then_some(name)
    }

    fn sockets(&self, things: &mut BTreeSet<String>) {
        let Ok(entries) = fs::read_dir(&self.sockets) else { return };
        things.extend(entries.flatten().map(|entry| format!("file {}", entry.path().display())));
    }
}

/// Every program of the product is called `bulkhead` or `bulkhead-ROLE`.
fn is_product(program: &str) -> bool {
    program == "bulkhead" || program.starts_with("bulkhead-")
}

/// The mounts that this process can see, by mount point; but for the network namespaces that a suite makes
/// ([`crate::hosts`]), perhaps another one at the same time.
fn mounts() -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    points.filter(|point| !point.starts_with("/run/netns")).map(|point| format!("mount {point}")).collect()
}

#[cfg(test)]
mod tests;
