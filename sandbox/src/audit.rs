// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A live process as /proc shows it, compared with its profile.
//!
//! [`observe`] reads /proc/PID and nothing that the process reports itself. A fact that cannot be read is an
//! [`Unreadable`] with the reason, never a silent pass: [`compare`] reports it. Sealed processes are not dumpable, so
//! the descriptor table of one can be listed by root only. Used by `bulkhead ps` and the tests of the system table.

use std::collections::BTreeMap;
use std::fmt;

use crate::profile::{Profile, RootKind};

pub mod filters;
mod maps;
mod read;

pub use maps::{Mapping, mappings};
pub use read::{descriptors, observe, program};

/// A fact that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// The file under /proc.
    pub file: String,
    /// Why not.
    pub why: String,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} cannot be read: {}", self.file, self.why)
    }
}

/// A fact, or why it is not known.
pub type Fact<T> = Result<T, Unreadable>;

/// The five capability sets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the kernel's own names")]
pub struct Capabilities {
    pub inheritable: u64,
    pub permitted: u64,
    pub effective: u64,
    pub bounding: u64,
    pub ambient: u64,
}

/// The relevant fields of /proc/PID/status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The command name, made printable.
    pub name: String,
    /// Real, effective, saved and file-system user id, as the observer sees them.
    pub uids: [u32; 4],
    /// 0 off, 1 strict, 2 filter.
    pub seccomp_mode: u32,
    /// How many filters are stacked; None on kernels before 5.9.
    pub seccomp_filters: Option<u32>,
    /// Whether exec can no longer add rights.
    pub no_new_privs: bool,
    /// The capability sets.
    pub capabilities: Capabilities,
    /// How many threads it has.
    pub threads: u32,
    /// Who traces it, in the observer's pid namespace; 0: nobody.
    pub tracer: i32,
    /// The process's number in each pid namespace, the observer's first.
    pub ns_pids: Vec<i32>,
}

/// One namespace: the process's and the observer's inode numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Of the process.
    pub id: u64,
    /// Inode number of the observer's own namespace of this kind.
    pub observer: u64,
}

/// One open descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Its number.
    pub fd: i32,
    /// What it is, as the kernel prints it, made printable: `socket:[123]`, `/memfd:ram (deleted)`,
    /// `anon_inode:[eventfd]`.
    pub target: String,
}

/// Soft and hard limit; None is unlimited.
pub type Limit = (Option<u64>, Option<u64>);

/// Everything observed of a process.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The process, in the observer's pid namespace.
    pub pid: i32,
    /// Whether the observer is in a user namespace of one id: its root is an ordinary user of the host then.
    pub one_id: bool,
    /// /proc/PID/status.
    pub status: Fact<Status>,
    /// /proc/PID/task/*/status: rights are a thread's own.
    pub thread_statuses: Fact<Vec<Status>>,
    /// Whether it can be dumped and traced by its own user, as the ownership of its files under /proc shows.
    pub dumpable: Fact<bool>,
    /// Each of user, mnt, pid, net, ipc, uts.
    pub namespaces: BTreeMap<&'static str, Fact<Namespace>>,
    /// The descriptor table, by number.
    pub descriptors: Fact<Vec<Descriptor>>,
    /// The names in its root directory.
    pub root_entries: Fact<Vec<String>>,
    /// The mounts in its namespace: (mount point, options, file system).
    pub mounts: Fact<Vec<(String, String, String)>>,
    /// The user id map's lines: (inside, outside, count).
    pub uid_map: Fact<Vec<(u32, u32, u32)>>,
    /// The group id map's lines.
    pub gid_map: Fact<Vec<(u32, u32, u32)>>,
    /// The limits, by the kernel's name ("Max open files").
    pub limits: Fact<BTreeMap<String, Limit>>,
}

/// A difference between a process and its profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drift {
    /// The property.
    pub what: &'static str,
    /// What is expected, and what was found.
    pub detail: String,
    /// Whether this is only a fact that could not be read.
    pub unread: bool,
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.detail)
    }
}

/// Every difference between `observed` and `profile`; empty when all is right and all could be read.
pub fn compare(observed: &Observed, profile: &Profile) -> Vec<Drift> {
    let mut drifts = Drifts(Vec::new());
    if let Some(status) = drifts.known("status", &observed.status) {
        compare_status(&mut drifts, status, profile, observed.one_id);
        if let Some(threads) = drifts.known("threads", &observed.thread_statuses) {
            compare_threads(&mut drifts, status, threads);
        }
    }
    if let Some(dumpable) = drifts.known("dumpable", &observed.dumpable) {
        drifts.hold("dumpable", !dumpable, || "its own user can dump and trace it".to_owned());
    }
    for (name, namespace) in &observed.namespaces {
        if let Some(namespace) = drifts.known("namespace", namespace) {
            drifts.hold("namespace", namespace.id != namespace.observer, || {
                format!("{name} is the observer's own")
            });
        }
    }
    if let Some(entries) = drifts.known("root", &observed.root_entries) {
        drifts.hold("root", entries.is_empty(), || format!("not empty: {}", entries.join(", ")));
    }
    if let Some(mounts) = drifts.known("mounts", &observed.mounts) {
        compare_mounts(&mut drifts, mounts);
    }
    for (what, map) in [("uid_map", &observed.uid_map), ("gid_map", &observed.gid_map)] {
        if let Some(map) = drifts.known(what, map) {
            let right = match (profile.root, map.as_slice()) {
                (RootKind::Inherited, map) => map.is_empty(),
                (RootKind::NewEmpty, [(inside, _, 1)]) => *inside != 0,
                (RootKind::NewEmpty, _) => false,
            };
            drifts.hold(what, right, || format!("maps {map:?}, which is more than its one unprivileged id"));
        }
    }
    if let Some(limits) = drifts.known("limits", &observed.limits) {
        compare_limits(&mut drifts, limits, profile);
    }
    if let Err(why) = &observed.descriptors {
        drifts.unread("descriptors", why);
    }
    drifts.0
}

fn compare_status(drifts: &mut Drifts, status: &Status, profile: &Profile, one_id: bool) {
    drifts.hold("seccomp", status.seccomp_mode == 2, || {
        format!("mode {} and not 2 (filter)", status.seccomp_mode)
    });
    let least = profile.filter_count_min();
    drifts.hold("seccomp", status.seccomp_filters.is_none_or(|count| count >= least), || {
        format!("{:?} filters, at least {least} expected", status.seccomp_filters)
    });
    drifts.hold("tracer", status.tracer == 0, || format!("process {} traces it", status.tracer));
    drifts.hold("no_new_privs", status.no_new_privs, || "not set".to_owned());
    drifts.hold("capabilities", status.capabilities == Capabilities::default(), || {
        format!("not all empty: {:x?}", status.capabilities)
    });
    drifts.hold("user", one_id || !status.uids.contains(&0), || "it runs as the host's root".to_owned());
    drifts.hold("pid namespace", status.ns_pids.last() == Some(&1), || {
        format!("it is not process 1 of its own: {:?}", status.ns_pids)
    });
}

/// A thread that was there before its process was sealed would not be.
fn compare_threads(drifts: &mut Drifts, status: &Status, threads: &[Status]) {
    let rights =
        |of: &Status| (of.seccomp_mode, of.seccomp_filters, of.no_new_privs, of.capabilities, of.uids);
    for thread in threads {
        drifts.hold("threads", rights(thread) == rights(status), || {
            format!("thread {} has other rights than the first: {:?}", thread.name, rights(thread))
        });
    }
}

fn compare_mounts(drifts: &mut Drifts, mounts: &[(String, String, String)]) {
    let right = match mounts {
        [(point, options, kind)] => {
            let has = |option: &str| options.split(',').any(|known| known == option);
            point == "/" && kind == "tmpfs" && ["ro", "nosuid", "nodev", "noexec"].into_iter().all(has)
        }
        _ => false,
    };
    drifts.hold("mounts", right, || format!("not just one read-only empty root: {mounts:?}"));
}

fn compare_limits(drifts: &mut Drifts, limits: &BTreeMap<String, Limit>, profile: &Profile) {
    let expected = [
        ("Max open files", Some(profile.limits.nofile_count)),
        ("Max processes", Some(profile.limits.nproc_count)),
        ("Max file size", Some(profile.limits.fsize_len)),
        ("Max data size", Some(profile.limits.data_len)),
        ("Max address space", Some(profile.limits.address_len)),
        ("Max core file size", Some(0)),
        ("Max locked memory", profile.limits.locked_len),
        ("Max msgqueue size", Some(0)),
    ];
    for (name, most) in expected {
        let Some(most) = most else { continue };
        let found = limits.get(name);
        let within = |limit: Option<u64>| limit.is_some_and(|limit| limit <= most);
        let right = found.is_some_and(|(soft, hard)| within(*soft) && within(*hard));
        drifts.hold("limits", right, || format!("{name}: {found:?}, at most {most} expected"));
    }
}

struct Drifts(Vec<Drift>);

impl Drifts {
    fn hold(&mut self, what: &'static str, right: bool, detail: impl FnOnce() -> String) {
        if !right {
            self.0.push(Drift { what, detail: detail(), unread: false });
        }
    }

    fn unread(&mut self, what: &'static str, why: &Unreadable) {
        self.0.push(Drift { what, detail: why.to_string(), unread: true });
    }

    /// The fact, or a drift that says that it is not known.
    fn known<'a, T>(&mut self, what: &'static str, fact: &'a Fact<T>) -> Option<&'a T> {
        fact.as_ref().map_err(|why| self.unread(what, why)).ok()
    }
}

#[cfg(test)]
mod tests;
