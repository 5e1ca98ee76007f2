// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a process has mapped: /proc/PID/maps, proc(5).

use std::fs;
use std::path::PathBuf;

use super::Fact;
use super::read::{odd, printable, unreadable};

/// A range of a process's addresses, as far as an audit looks at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Its bytes.
    pub len: u64,
    /// Whether it can be written.
    pub is_writable: bool,
    /// Whether it can be executed.
    pub is_executable: bool,
    /// Whether others see what is written to it.
    pub is_shared: bool,
    /// The file, as the kernel prints it, made printable; empty where there is none.
    pub file: String,
}

/// The mappings of process `pid`, which are for root and a process's own user to see, if it is dumpable.
pub fn mappings(pid: i32) -> Fact<Vec<Mapping>> {
    let path = PathBuf::from(format!("/proc/{pid}/maps"));
    let bytes = fs::read(&path).map_err(|error| unreadable(&path, error))?;
    parse(&String::from_utf8_lossy(&bytes)).ok_or_else(|| odd(&path))
}

pub(super) fn parse(text: &str) -> Option<Vec<Mapping>> {
    text.lines().map(line).collect()
}

fn line(line: &str) -> Option<Mapping> {
    let mut words = line.splitn(6, ' ');
    let (from, to) = words.next()?.split_once('-')?;
    let bound = |text| u64::from_str_radix(text, 16).ok();
    let [_, write, execute, kind] = *words.next()?.as_bytes() else { return None };
    // Offset, device, inode; then spaces up to the name.
    let file = words.nth(3).unwrap_or_default().trim_start();
    Some(Mapping {
        len: bound(to)?.checked_sub(bound(from)?)?,
        is_writable: write == b'w',
        is_executable: execute == b'x',
        is_shared: kind == b's',
        file: printable(file),
    })
}
