// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Who the new process is: the ids of its user namespace, written by the parent through /proc.
//!
//! Root becomes the unprivileged id 65534; an ordinary user stays who it is. In both cases one id is mapped and
//! nothing else, so no id of the host but that one can be taken. From inside the coordinator there is no
//! /proc: the namespace gets no map at all, and the process is nobody in it. user_namespaces(7).

use std::io::{self, Write};

use rustix::thread::{Gid, Uid};

use crate::profile::RootKind;

/// The id that a process started by root becomes ("nobody" by long convention).
pub const UNPRIVILEGED_ID: u32 = 65534;

/// What is mapped, and what the child has to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// The caller is root: map 65534 and become it.
    BecomeUnprivileged,
    /// The caller is an ordinary user: map its own ids.
    Own {
        /// User.
        uid: u32,
        /// Group.
        gid: u32,
    },
    /// The caller cannot write maps: none.
    Unmapped,
}

impl Identity {
    /// What a process started by the caller will be.
    pub fn of_caller(root: RootKind) -> Identity {
        if root == RootKind::Inherited {
            return Identity::Unmapped;
        }
        let uid = rustix::process::geteuid();
        if uid.is_root() {
            Identity::BecomeUnprivileged
        } else {
            Identity::Own { uid: uid.as_raw(), gid: rustix::process::getegid().as_raw() }
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
            Identity::BecomeUnprivileged => {
                // setgroups stays possible: the child empties its list of groups before it becomes unprivileged.
                write("uid_map", format!("{UNPRIVILEGED_ID} {UNPRIVILEGED_ID} 1\n"))?;
                write("gid_map", format!("{UNPRIVILEGED_ID} {UNPRIVILEGED_ID} 1\n"))
            }
            Identity::Own { uid, gid } => {
                write("setgroups", "deny".to_owned())?;
                write("uid_map", format!("{uid} {uid} 1\n"))?;
                write("gid_map", format!("{gid} {gid} 1\n"))
            }
        }
    }

    /// Becomes it. For the child; async-signal-safe. Capabilities in the new namespace stay: id 0 is not mapped in
    /// it, so leaving that id does not count as leaving root.
    pub fn assume(self) -> rustix::io::Result<()> {
        if self == Identity::BecomeUnprivileged {
            let (gid, uid) = (Gid::from_raw(UNPRIVILEGED_ID), Uid::from_raw(UNPRIVILEGED_ID));
            rustix::thread::set_thread_groups(&[])?;
            rustix::thread::set_thread_res_gid(gid, gid, gid)?;
            rustix::thread::set_thread_res_uid(uid, uid, uid)?;
        }
        Ok(())
    }
}
