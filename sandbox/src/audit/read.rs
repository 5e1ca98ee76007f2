// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Reading /proc/PID into an `Observed`: proc(5). No fact is guessed; what does not parse is unreadable.
//!
//! Names and link targets come from the observed process and are made printable. Readers are bounded by the
//! kernel's own formats; the process may end at any moment, which shows as unreadable facts.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::spawn::{UNPRIVILEGED_ID, maps_one_id};

use super::{Capabilities, Descriptor, Fact, Limit, Namespace, Observed, Status, Unreadable};

/// Namespaces every process of ours has of its own.
const NAMESPACES: [&str; 6] = ["user", "mnt", "pid", "net", "ipc", "uts"];

/// Observes process `pid` from outside.
pub fn observe(pid: i32) -> Observed {
    let proc = PathBuf::from(format!("/proc/{pid}"));
    let text = |name: &str| read(&proc.join(name));
    let one_id = maps_one_id();
    Observed {
        pid,
        one_id,
        status: text("status").and_then(|text| status(&text).ok_or_else(|| odd(&proc.join("status")))),
        thread_statuses: threads(&proc.join("task")),
        dumpable: dumpable(&proc.join("status"), one_id),
        namespaces: NAMESPACES.into_iter().map(|name| (name, namespace(&proc, name))).collect(),
        descriptors: descriptors(pid),
        root_entries: entries(&proc.join("root/")),
        mounts: text("mountinfo").and_then(|text| mounts(&text).ok_or_else(|| odd(&proc.join("mountinfo")))),
        uid_map: text("uid_map").and_then(|text| id_map(&text).ok_or_else(|| odd(&proc.join("uid_map")))),
        gid_map: text("gid_map").and_then(|text| id_map(&text).ok_or_else(|| odd(&proc.join("gid_map")))),
        limits: text("limits").and_then(|text| limits(&text).ok_or_else(|| odd(&proc.join("limits")))),
    }
}

/// The file that process `pid` executes, as the kernel prints it, made printable: for root and its own user to see, if
/// it is dumpable.
pub fn program(pid: i32) -> Fact<String> {
    let path = PathBuf::from(format!("/proc/{pid}/exe"));
    fs::read_link(&path)
        .map(|file| printable(&file.to_string_lossy()))
        .map_err(|error| unreadable(&path, error))
}

pub(super) fn unreadable(path: &Path, why: impl ToString) -> Unreadable {
    Unreadable { file: path.display().to_string(), why: why.to_string() }
}

pub(super) fn odd(path: &Path) -> Unreadable {
    unreadable(path, "it is not in the expected format")
}

fn read(path: &Path) -> Fact<String> {
    let bytes = fs::read(path).map_err(|error| unreadable(path, error))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

pub(super) fn status(text: &str) -> Option<Status> {
    let field =
        |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    let hex = |name: &str| u64::from_str_radix(field(name)?, 16).ok();
    let numbers = |name: &str| -> Option<Vec<i64>> {
        field(name)?.split_whitespace().map(|word| word.parse().ok()).collect()
    };
    let uids: Option<Vec<u32>> = numbers("Uid")?.into_iter().map(|id| u32::try_from(id).ok()).collect();
    let ns_pids: Option<Vec<i32>> = numbers("NSpid")?.into_iter().map(|id| i32::try_from(id).ok()).collect();
    Some(Status {
        name: printable(field("Name")?),
        uids: uids?.try_into().ok()?,
        seccomp_mode: field("Seccomp")?.parse().ok()?,
        seccomp_filters: match field("Seccomp_filters") {
            Some(count) => Some(count.parse().ok()?),
            None => None,
        },
        no_new_privs: match field("NoNewPrivs")? {
            "0" => false,
            "1" => true,
            _ => return None,
        },
        capabilities: Capabilities {
            inheritable: hex("CapInh")?,
            permitted: hex("CapPrm")?,
            effective: hex("CapEff")?,
            bounding: hex("CapBnd")?,
            ambient: hex("CapAmb")?,
        },
        threads: field("Threads")?.parse().ok()?,
        tracer: field("TracerPid")?.parse().ok()?,
        ns_pids: ns_pids?,
    })
}

/// The /proc files of a process that is not dumpable belong to root, those of any other to its own user. A process of
/// root cannot be distinguished, which counts as a difference.
fn dumpable(file: &Path, one_id: bool) -> Fact<bool> {
    // In a namespace without the host's root its files belong to the overflow id.
    let root = if one_id { UNPRIVILEGED_ID } else { 0 };
    fs::metadata(file).map(|facts| facts.uid() != root).map_err(|error| unreadable(file, error))
}

fn threads(directory: &Path) -> Fact<Vec<Status>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).map_err(|error| unreadable(directory, error))? {
        let path = entry.map_err(|error| unreadable(directory, error))?.path().join("status");
        match fs::read(&path) {
            Ok(bytes) => found.push(status(&String::from_utf8_lossy(&bytes)).ok_or_else(|| odd(&path))?),
            // Ended since the folder was listed.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => {}
            Err(error) => return Err(unreadable(&path, error)),
        }
    }
    Ok(found)
}

fn namespace(proc: &Path, name: &str) -> Fact<Namespace> {
    let id = |path: PathBuf| -> Fact<u64> {
        let link = fs::read_link(&path).map_err(|error| unreadable(&path, error))?;
        let link = link.to_string_lossy();
        // The kernel prints `net:[4026531840]`.
        link.strip_prefix(name)
            .and_then(|rest| rest.strip_prefix(":[")?.strip_suffix(']')?.parse().ok())
            .ok_or_else(|| odd(&path))
    };
    Ok(Namespace {
        id: id(proc.join("ns").join(name))?,
        observer: id(Path::new("/proc/self/ns").join(name))?,
    })
}

/// The descriptor table of process `pid`, by number.
pub fn descriptors(pid: i32) -> Fact<Vec<Descriptor>> {
    let directory = &PathBuf::from(format!("/proc/{pid}/fd"));
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).map_err(|error| unreadable(directory, error))? {
        let path = entry.map_err(|error| unreadable(directory, error))?.path();
        let fd = path.file_name().and_then(|name| name.to_str()?.parse().ok()).ok_or_else(|| odd(&path))?;
        match fs::read_link(&path) {
            Ok(target) => found.push(Descriptor { fd, target: printable(&target.to_string_lossy()) }),
            // Closed since the folder was listed: a coordinator closes its clients' connections at any time.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(unreadable(&path, error)),
        }
    }
    found.sort_by_key(|descriptor| descriptor.fd);
    Ok(found)
}

fn entries(directory: &Path) -> Fact<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).map_err(|error| unreadable(directory, error))? {
        let entry = entry.map_err(|error| unreadable(directory, error))?;
        names.push(printable(&entry.file_name().to_string_lossy()));
    }
    Ok(names)
}

/// Mount point, per-mount options and file system of each line of mountinfo.
pub(super) fn mounts(text: &str) -> Option<Vec<(String, String, String)>> {
    text.lines()
        .map(|line| {
            let (mount, filesystem) = line.split_once(" - ")?;
            let mut words = mount.split(' ').skip(4);
            let (point, options) = (words.next()?, words.next()?);
            let kind = filesystem.split(' ').next()?;
            Some((printable(point), options.to_owned(), kind.to_owned()))
        })
        .collect()
}

pub(super) fn id_map(text: &str) -> Option<Vec<(u32, u32, u32)>> {
    text.lines()
        .map(|line| {
            let mut words = line.split_whitespace().map(|word| word.parse().ok());
            Some((words.next()??, words.next()??, words.next()??))
        })
        .collect()
}

/// Names stand in 26 columns, then soft limit, hard limit and an optional unit.
pub(super) fn limits(text: &str) -> Option<BTreeMap<String, Limit>> {
    text.lines()
        .skip(1)
        .map(|line| {
            let (name, rest) = line.split_at_checked(26)?;
            let mut words = rest.split_whitespace().map(|word| match word {
                "unlimited" => Some(None),
                number => number.parse().ok().map(Some),
            });
            Some((name.trim().to_owned(), (words.next()??, words.next()??)))
        })
        .collect()
}
