// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! User and group of the new process: the id maps of its user namespace, written by the parent through /proc.
//!
//! Root becomes an unprivileged id: one of the process's own, if the caller has one for it, else 65534. An ordinary
//! user stays who it is, or takes a subordinate id of its own, which a set-id program of the host maps (newuidmap). In
//! all cases one id is mapped and nothing else, so no id of the host but that one can be taken. Root of a namespace
//! that maps one id is an ordinary user outside, and is treated as one. From inside the coordinator there is no /proc:
//! the namespace gets no map at all, and the process is nobody in it. user_namespaces(7).

use std::io::{self, Write};
use std::process::{Command, Stdio};

use rustix::thread::{Gid, Uid};

use crate::profile::RootKind;

/// The id that a process started by root becomes unless it is given one of its own ("nobody" by long convention).
pub const UNPRIVILEGED_ID: u32 = 65534;

/// What is mapped, and what the child has to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// The caller is root: map this id and become it.
    Become(u32),
    /// The caller is an ordinary user, and this is a subordinate id of it.
    Subordinate(u32),
    /// The caller is an ordinary user: map its own ids.
    Own {
        /// User, as the process itself sees it.
        inside: u32,
        /// User.
        uid: u32,
        /// Group.
        gid: u32,
    },
    /// The caller cannot write maps: none.
    Unmapped,
}

impl Identity {
    /// What a process started by the caller will be; `own_id` is one for it alone.
    pub fn of_caller(root: RootKind, own_id: Option<u32>) -> Identity {
        if root == RootKind::Inherited {
            return Identity::Unmapped;
        }
        let uid = rustix::process::geteuid();
        let (number, gid) = (uid.as_raw(), rustix::process::getegid().as_raw());
        match own_id {
            Some(id) if uid.is_root() => Identity::Become(id),
            Some(id) => Identity::Subordinate(id),
            // There is no other id to become; 0 is not what it sees of itself.
            None if uid.is_root() && maps_one_id() => {
                Identity::Own { inside: UNPRIVILEGED_ID, uid: number, gid }
            }
            None if uid.is_root() => Identity::Become(UNPRIVILEGED_ID),
            None => Identity::Own { inside: number, uid: number, gid },
        }
    }

    /// Writes the maps of process `pid`, which waits for it. For the parent.
    pub fn write_maps(self, pid: i32) -> io::Result<()> {
        let write = |name: &str, text: String| {
            let path = format!("/proc/{pid}/{name}");
            std::fs::OpenOptions::new()
                .write(true)
                .open(&path)
                .and_then(|mut file| file.write_all(text.as_bytes()))
                .map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))
        };
        match self {
            Identity::Unmapped => Ok(()),
            Identity::Become(id) => {
                // setgroups stays possible: the child empties its list of groups before it becomes unprivileged.
                write("uid_map", format!("{id} {id} 1\n"))?;
                write("gid_map", format!("{id} {id} 1\n"))
            }
            Identity::Subordinate(id) => {
                map_by_program("newuidmap", pid, id)?;
                map_by_program("newgidmap", pid, id)
            }
            Identity::Own { inside, uid, gid } => {
                let inside_gid = if inside == uid { gid } else { inside };
                write("setgroups", "deny".to_owned())?;
                write("uid_map", format!("{inside} {uid} 1\n"))?;
                write("gid_map", format!("{inside_gid} {gid} 1\n"))
            }
        }
    }

    /// Becomes it. For the child; async-signal-safe. Capabilities in the new namespace stay: id 0 is not mapped in
    /// it, so leaving that id does not count as leaving root.
    pub fn assume(self) -> rustix::io::Result<()> {
        if let Identity::Become(id) | Identity::Subordinate(id) = self {
            let (gid, uid) = (Gid::from_raw(id), Uid::from_raw(id));
            rustix::thread::set_thread_groups(&[])?;
            rustix::thread::set_thread_res_gid(gid, gid, gid)?;
            rustix::thread::set_thread_res_uid(uid, uid, uid)?;
        }
        Ok(())
    }
}

/// The kernel lets no ordinary user map an id but its own. The host's program looks the range up in /etc/subuid or
/// subgid.
fn map_by_program(program: &str, pid: i32, id: u32) -> io::Result<()> {
    let words = [pid.to_string(), id.to_string(), id.to_string(), "1".to_owned()];
    let told = |why: String| io::Error::other(format!("{program} of the package `uidmap`: {why}"));
    let output = Command::new(program).args(words).stdin(Stdio::null()).output();
    let output = output.map_err(|error| told(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(told(String::from_utf8_lossy(&output.stderr).trim().escape_default().to_string()))
}

/// Whether this process's user namespace has one id in all: then its root is an ordinary user of the namespace outside.
pub(crate) fn maps_one_id() -> bool {
    let Ok(text) = std::fs::read_to_string("/proc/self/uid_map") else { return false };
    let counts = text.lines().map(|line| line.split_whitespace().nth(2).and_then(|count| count.parse().ok()));
    counts.collect::<Option<Vec<u64>>>().is_some_and(|counts| counts == [1])
}
