// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The mover's process: connected sockets, guest RAM as a file, the owed map, states, a private key.
//!
//! An async runtime with a thread for each lane. It makes no socket that reaches anything: those to the other host were
//! connected by somebody else. Of its files it maps the owed map alone: what it could do to guest RAM by a mapping it
//! may do by reading and writing, but a guest that writes at the same time cannot make it fault. Spawned by the sealed
//! coordinator, so every rule here is also the coordinator's.

use crate::profile::{Arch, Check, Limits, Profile, RootKind, Rule, union};
use crate::profiles::common;

pub fn profile(arch: Arch) -> Profile {
    Profile {
        name: "mover",
        arch,
        root: RootKind::Inherited,
        // Connections, those of strangers among them; a state of each process of the largest VM, in and out; the
        // runtime. A buffer of 1 MiB for each lane and direction, and what TLS has.
        limits: Limits {
            nofile_count: 256,
            nproc_count: 24,
            fsize_len: super::DEVICE_SAVED_LEN_MAX,
            data_len: 256 << 20,
            address_len: (256 << 20) + super::SHARED_LEN,
            locked_len: Some(0),
        },
        landlock_abi_min: super::LANDLOCK_ABI_MIN,
        memory_files: None,
        rules: rules(arch),
        absent: common::ABSENT,
    }
}

fn rules(arch: Arch) -> Vec<Rule> {
    // The owed map alone, instead of any shared file.
    let mut memory = common::memory();
    memory.retain(|rule| rule.syscall != "mmap");
    memory.push(common::map(&["owed-map"]));
    union(&[
        &memory,
        &common::threads(),
        &common::ending(),
        &common::descriptors(),
        &[
            Rule::any("epoll_create1").needed_for(RUNTIME),
            Rule::any("epoll_ctl").needed_for(RUNTIME),
            Rule::any(if arch == Arch::X86_64 { "epoll_wait" } else { "epoll_pwait" }).needed_for(RUNTIME),
            Rule::any("eventfd2").needed_for(RUNTIME),
            Rule::any("writev").needed_for("records of TLS, in several pieces"),
            signal_pair(),
        ],
    ])
}

const RUNTIME: &str = "the runtime's event loop";

/// A runtime that could be told of signals makes a pair for it, and is never told.
fn signal_pair() -> Rule {
    let pair = "only a Unix socket pair of streams may be made";
    let modes = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    let kind = Check {
        index: 1,
        mask: u64::from((!modes).cast_unsigned()),
        value: u64::from(libc::SOCK_STREAM.cast_unsigned()),
        narrow: true,
        why: pair,
        slot: None,
    };
    let checks = [Check::int(0, libc::AF_UNIX.cast_unsigned(), pair), kind, Check::int(2, 0, pair)];
    Rule::when("socketpair", &checks)
        .needed_for("the runtime makes a pair for signals, and is never sent one")
}
