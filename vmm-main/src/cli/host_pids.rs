// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From the coordinator's process numbers to the host's.
//!
//! The coordinator is in a pid namespace and knows only that one's numbers. The kernel gives both: a process's
//! `NSpid` line lists its number in every namespace from the reader's own downwards. The search is limited to
//! descendants of the launcher, whose number comes from the control socket's peer credentials, so a process of
//! another VM with the same inner number is never taken for ours.

use std::collections::BTreeMap;

/// One process as `/proc/PID/status` describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    parent: i32,
    /// From the reader's namespace to the process's own.
    numbers: Vec<i32>,
}

/// The host's number for each of the numbers in the coordinator's namespace.
pub fn map(launcher: i32) -> BTreeMap<i32, i32> {
    let mut entries = BTreeMap::new();
    let folders = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in folders.filter_map(|folder| folder.file_name().to_str()?.parse::<i32>().ok()) {
        // A process may end while we look: then it is not in the table.
        if let Some(entry) =
            std::fs::read_to_string(format!("/proc/{pid}/status")).ok().and_then(|text| parse(&text))
        {
            entries.insert(pid, entry);
        }
    }
    descend(&entries, launcher)
}

fn descend(entries: &BTreeMap<i32, Entry>, launcher: i32) -> BTreeMap<i32, i32> {
    // The coordinator is the launcher's child with one more namespace, in which it is number 1.
    let depth = entries.get(&launcher).map_or(1, |entry| entry.numbers.len());
    let coordinator = entries.iter().find(|(_, entry)| {
        entry.parent == launcher
            && entry.numbers.len() == depth.saturating_add(1)
            && entry.numbers.last() == Some(&1)
    });
    let Some((&coordinator, _)) = coordinator else { return BTreeMap::new() };
    let inner = |entry: &Entry| entry.numbers.get(depth).copied();
    entries
        .iter()
        .filter(|(pid, entry)| **pid == coordinator || entry.parent == coordinator)
        .filter_map(|(pid, entry)| Some((inner(entry)?, *pid)))
        .collect()
}

fn parse(status: &str) -> Option<Entry> {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    let parent = field("PPid:")?.trim().parse().ok()?;
    let numbers: Vec<i32> =
        field("NSpid:")?.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
    Some(Entry { parent, numbers })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_pids_are_found_below_the_right_launcher_only() {
        let status =
            |parent: i32, numbers: &str| parse(&format!("Name:\tx\nPPid:\t{parent}\nNSpid:\t{numbers}\n"));
        let entries: BTreeMap<i32, Entry> = [
            (10, status(1, "10")),
            (11, status(10, "11 1")),
            (12, status(11, "12 2 1")),
            (13, status(11, "13 7 1")),
            // A second VM with the same inner numbers.
            (20, status(1, "20")),
            (21, status(20, "21 1")),
            (22, status(21, "22 2 1")),
            // An ordinary child of the first launcher.
            (30, status(10, "30")),
        ]
        .into_iter()
        .map(|(pid, entry)| (pid, entry.unwrap()))
        .collect();
        assert_eq!(descend(&entries, 10), BTreeMap::from([(1, 11), (2, 12), (7, 13)]));
        assert_eq!(descend(&entries, 20), BTreeMap::from([(1, 21), (2, 22)]));
        assert_eq!(descend(&entries, 99), BTreeMap::new());
    }

    #[test]
    fn host_pids_of_garbage_is_nothing() {
        assert_eq!(parse("PPid:\tx\nNSpid:\t1\n"), None);
        assert_eq!(parse("PPid:\t1\n"), None);
    }
}
