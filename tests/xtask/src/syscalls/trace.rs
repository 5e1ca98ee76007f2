// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `strace`'s files, one for each thread, read as: which sealed process made which calls.
//!
//! A process is known by what it executes; its threads by the call that made them. Calls count once the process has
//! installed both of its filters. What a child does before that is done under the coordinator's filter, and counts
//! there.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use anyhow::{Context, Result};

/// The filters of one sealing.
const FILTERS: usize = 2;
/// A thread shares its process: CLONE_THREAD.
const THREAD: u64 = 0x1_0000;
/// What a sealed process begins with, and the name of its profile.
const PROGRAMS: [(&str, &str); 5] = [
    ("[\"bulkhead\", \"coordinator\"", COORDINATOR),
    ("[\"bulkhead-vcpu-soft\"", "vcpu-soft"),
    ("[\"bulkhead-smmu\"", "smmu"),
    ("[\"bulkhead-vfio\"", "vfio"),
    ("[\"bulkhead-nvme\"", "nvme"),
];
const COORDINATOR: &str = "coordinator";

/// Program and arguments that run another under `strace`, with its files in `folder`.
pub fn command(folder: &Path) -> Vec<String> {
    let files = folder.join("of");
    let words =
        ["strace", "-ff", "-qq", "-X", "raw", "-e", "signal=none", "--pidns-translation", "-s", "64", "-o"];
    words.into_iter().map(String::from).chain([files.display().to_string()]).collect()
}

/// The calls of each profile's processes.
#[derive(Debug, Default)]
pub struct Used(BTreeMap<&'static str, BTreeSet<String>>);

impl Used {
    /// The profiles whose processes were seen.
    pub fn profiles(&self) -> impl Iterator<Item = &'static str> {
        self.0.keys().copied()
    }

    /// Whether a process of this profile made the call.
    pub fn has(&self, profile: &str, syscall: &str) -> bool {
        self.0.get(profile).is_some_and(|calls| calls.contains(syscall))
    }

    /// Adds what stands in the files in `folder`.
    pub fn add(&mut self, folder: &Path) -> Result<()> {
        let mut threads = BTreeMap::new();
        for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            let number = path.extension().and_then(|number| number.to_str()?.parse().ok());
            let number: u32 = number.with_context(|| format!("{} is no trace", path.display()))?;
            threads.insert(number, String::from_utf8_lossy(&fs::read(&path)?).into_owned());
        }
        self.add_threads(&threads);
        Ok(())
    }

    fn add_threads(&mut self, threads: &BTreeMap<u32, String>) {
        let made: BTreeMap<u32, u32> = threads
            .iter()
            .flat_map(|(maker, text)| text.lines().filter_map(made_thread).map(|thread| (thread, *maker)))
            .collect();
        for (number, text) in threads {
            let mut process = *number;
            while let Some(maker) = made.get(&process) {
                process = *maker;
            }
            let Some(profile) = threads.get(&process).and_then(|text| text.lines().find_map(executed)) else {
                continue;
            };
            // A thread is made by a process that is sealed.
            let mut missing = if process == *number { FILTERS } else { 0 };
            for line in text.lines() {
                let Some(call) = name(line) else { continue };
                let counted = match missing {
                    0 => Some(profile),
                    // Under the filters of the process that starts it, but for the first of all.
                    _ if profile != COORDINATOR => Some(COORDINATOR),
                    _ => None,
                };
                if let Some(profile) = counted {
                    self.0.entry(profile).or_default().insert(call.to_owned());
                }
                if call == "seccomp" && line.trim_end().ends_with("= 0") {
                    missing = missing.saturating_sub(1);
                }
            }
        }
    }
}

/// The call that a line is about.
fn name(line: &str) -> Option<&str> {
    let (name, _) = line.split_once('(')?;
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    (!name.is_empty() && name.chars().all(is_name)).then_some(name)
}

/// The thread that a line made, as the tracer numbers it.
fn made_thread(line: &str) -> Option<u32> {
    let (call, answer) = line.rsplit_once(" = ")?;
    let (_, flags) = call.strip_prefix("clone")?.split_once("flags=0x")?;
    let digits = flags.find(|c: char| !c.is_ascii_hexdigit()).and_then(|end| flags.get(..end))?;
    (u64::from_str_radix(digits, 16).ok()? & THREAD != 0).then_some(())?;
    // `7 /* 31415 in strace's PID NS */` where the process has numbers of its own.
    let own = answer.split_once("/* ").map_or(answer, |(_, rest)| rest);
    own.split_whitespace().next()?.parse().ok()
}

/// The profile of the program that a line has executed.
fn executed(line: &str) -> Option<&'static str> {
    line.strip_prefix("execveat(").filter(|rest| rest.trim_end().ends_with("= 0"))?;
    PROGRAMS.iter().find(|(begin, _)| line.contains(begin)).map(|(_, profile)| *profile)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_count_for_the_process_that_is_sealed_and_before_for_its_maker() {
        let texts = [
            (10, "execve(\"/x\") = 0\nsocket(0x1) = 3\nclone(child_stack=NULL, flags=0x7c021000|17) = 11\n"),
            (
                11,
                "setsid() = 1\nexecveat(5, \"\", [\"bulkhead\", \"coordinator\"], 0x1) = 0\nopenat(1) = 2\nseccomp(0x1) = 0\nseccomp(0x1) = 0\n\
                  epoll_ctl(1) = 0\nclone(child_stack=NULL, flags=0x7c021011) = 2 /* 12 in strace's PID NS */\n",
            ),
            (
                12,
                "setsid() = 1\nexecveat(5, \"\", [\"bulkhead-smmu\", \"smmu0\"], 0x1) = 0\nseccomp(0x1) = -1\nseccomp(0x1) = 0\n\
                  landlock_create_ruleset(0) = 1\nseccomp(0x1) = 0\nclone(child_stack=0x1, flags=0x3d0f00, tls=0x1) = 3 /* 13 in strace's PID NS */\nfstat(1) = ?\n",
            ),
            (13, "rseq(0x1) = 0\n+++ exited with 0 +++\n"),
        ];
        let mut used = Used::default();
        used.add_threads(&texts.map(|(number, text)| (number, text.to_owned())).into());
        let of = |profile: &str| used.0.get(profile).unwrap().iter().map(String::as_str).collect::<Vec<_>>();
        assert_eq!(of("smmu"), ["clone", "fstat", "rseq"]);
        assert_eq!(
            of("coordinator"),
            ["clone", "epoll_ctl", "execveat", "landlock_create_ruleset", "seccomp", "setsid"]
        );
        assert!(used.profiles().eq(["coordinator", "smmu"]), "the launcher has no profile");
    }
}
