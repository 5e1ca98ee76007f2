// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a machine holds: its processes by name, and the coordinator's descriptors by what they are of.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Instant;

use crate::support::COMMAND;

/// Commands, which come and go.
const COMMANDS: [&str; 3] = ["save-restore", "status", "inspect"];

/// All of it, at one moment.
#[derive(Debug, PartialEq, Eq)]
pub struct Held {
    processes: BTreeMap<String, usize>,
    descriptors: BTreeMap<String, usize>,
}

impl Held {
    /// Of the machine with the programs of this folder.
    pub fn by_machine(programs: &Path) -> Self {
        let (mut processes, mut descriptors) = (BTreeMap::new(), BTreeMap::new());
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let exe = fs::read_link(entry.path().join("exe")).unwrap_or_default();
            let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            // What cannot be read belongs to somebody else, or has just ended.
            let name = words.split(|byte| *byte == 0).nth(1).unwrap_or_default();
            let name = String::from_utf8_lossy(name).into_owned();
            if !exe.starts_with(programs) || COMMANDS.contains(&&*name) {
                continue;
            }
            if name == "coordinator" {
                for fd in fs::read_dir(entry.path().join("fd")).unwrap().flatten() {
                    let target = fs::read_link(fd.path()).unwrap_or_default();
                    // Sockets and the like are named by their number.
                    let target = target
                        .to_string_lossy()
                        .trim_end_matches(|c: char| "0123456789]".contains(c))
                        .to_owned();
                    *descriptors.entry(target).or_default() += 1;
                }
            }
            *processes.entry(name).or_default() += 1;
        }
        assert!(processes.contains_key("coordinator") && !descriptors.is_empty(), "{processes:?}");
        Self { processes, descriptors }
    }

    /// Waits until the machine holds this again: the connection of the last command, and the last process, are closed
    /// behind the answer.
    pub fn is_again(&self, programs: &Path) {
        let until = Instant::now() + COMMAND;
        loop {
            let now = Self::by_machine(programs);
            if now == *self {
                return;
            }
            assert!(Instant::now() < until, "it held {self:#?} and holds {now:#?}");
            std::thread::yield_now();
        }
    }
}
