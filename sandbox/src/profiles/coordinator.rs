// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The coordinator: supervisor, owner of shared memory, control API; an async runtime on one thread.
//!
//! A seccomp filter is inherited and can only shrink, so the coordinator's rules are its own, plus what its half
//! of `spawn` does, plus what a program does from exec to its own seal, plus its children's rules.
//! What that gives it beyond its own needs is harmless under Landlock and without capabilities
//! (`THREAT_MODEL.md` lists it). No new socket but a Unix pair, no path, no executable memory.

use crate::memory_file::{MemoryFiles, OLD_FLAGS};
use crate::profile::{Arch, Check, Limits, Profile, RootKind, Rule, needed_for, union};
use crate::profiles::common;
use crate::sys::SPAWN_FLAGS;

pub fn profile(arch: Arch, memory_files: MemoryFiles) -> Profile {
    let of_children: Vec<Rule> =
        super::of_children(arch).into_iter().flat_map(|profile| profile.rules).collect();
    Profile {
        name: "coordinator",
        arch,
        root: RootKind::NewEmpty,
        // Its runtime, and clients of the API. What it holds for a machine's processes, and their threads, which the
        // kernel counts against its NPROC too, are added for the machine. A process cannot have more memory than the
        // one that started it: these are the largest of any.
        limits: Limits {
            nofile_count: 256,
            nproc_count: 16,
            fsize_len: super::SAVED_LEN_MAX,
            data_len: 768 << 20,
            address_len: (768 << 20) + super::SHARED_LEN,
            locked_len: None,
        },
        landlock_abi_min: super::LANDLOCK_ABI_MIN,
        memory_files: Some(memory_files),
        rules: union(&[
            &common::memory(),
            &common::threads(),
            &common::ending(),
            &common::descriptors(),
            &own(arch),
            &[memory_file(memory_files)],
            &spawn_child_half(),
            &exec_to_seal(arch),
            &of_children,
        ]),
        absent: common::ABSENT,
    }
}

/// The runtime's reactor, the API socket handed in by the launcher, memory objects, and children.
fn own(arch: Arch) -> Vec<Rule> {
    let rules = vec![
        Rule::any("epoll_create1"),
        Rule::any("epoll_ctl"),
        Rule::any(if arch == Arch::X86_64 { "epoll_wait" } else { "epoll_pwait" }),
        Rule::any("eventfd2"),
        Rule::any("sendmsg").needed_for("descriptors, to the processes that it starts"),
        Rule::any("flock").needed_for("whose the images of a guest are that moves between hosts"),
        Rule::when("fadvise64", &[Check::int(3, POSIX_FADV_DONTNEED, "only cached pages are dropped")])
            .needed_for("nothing older is read of the images of a guest that moved here"),
        Rule::any("writev").needed_for("answers to clients of the API"),
        socket_pair().needed_for("channels and doorbells of the processes that it starts"),
        Rule::any("pipe2").needed_for("logs of the processes that it starts"),
        Rule::any("ftruncate").needed_for("lengths of shared objects"),
        Rule::any("lseek").needed_for("lengths of files"),
        // The libraries ask of a descriptor what it is. Neither call can be held to that: a path beside the descriptor
        // is in memory, where no filter looks. It would be looked up in the empty root.
        Rule::when("newfstatat", &[Check::with_bits(3, AT_EMPTY_PATH, BY_DESCRIPTOR)])
            .needed_for("the libraries look what a descriptor is"),
        Rule::when("statx", &[Check::with_bits(2, AT_EMPTY_PATH, BY_DESCRIPTOR)])
            .needed_for("the libraries look what a descriptor is"),
        // F_SETFL: of the ends of pipes and of its own log, which it watches; no guest reaches this process.
        Rule::one_of(
            "fcntl",
            1,
            &[libc::F_ADD_SEALS.cast_unsigned(), libc::F_SETFL.cast_unsigned()],
            "only flags, duplicates and seals",
        )
        .needed_for("seals of shared objects; pipes that it watches"),
        Rule::when(
            "clone",
            &[Check::word(0, SPAWN_FLAGS, "a process is only started in namespaces of its own")],
        )
        .needed_for("the processes of the VM"),
        Rule::any("waitid").needed_for("how a process of the VM ended"),
        Rule::when(
            "pidfd_send_signal",
            &[Check::int(1, libc::SIGKILL.cast_unsigned(), "children are only ever killed")],
        )
        .needed_for("a process of the VM is ended"),
    ];
    needed_for("the runtime's event loop", rules)
}

const AT_EMPTY_PATH: u32 = libc::AT_EMPTY_PATH.cast_unsigned();
const POSIX_FADV_DONTNEED: u32 = libc::POSIX_FADV_DONTNEED.cast_unsigned();
const BY_DESCRIPTOR: &str = "only an open descriptor is looked at";

/// A connection, a channel of messages that keeps their order, or a doorbell.
fn socket_pair() -> Rule {
    let pair = "only a Unix socket pair, of streams, ordered messages or datagrams, may be made";
    let of_type = |kind: i32| {
        let modes = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        let mask = u64::from((!modes).cast_unsigned());
        let kind = Check {
            index: 1,
            mask,
            value: u64::from(kind.cast_unsigned()),
            narrow: true,
            why: pair,
            slot: None,
        };
        vec![Check::int(0, libc::AF_UNIX.cast_unsigned(), pair), kind, Check::int(2, 0, pair)]
    };
    let kinds = [libc::SOCK_STREAM, libc::SOCK_SEQPACKET, libc::SOCK_DGRAM];
    Rule::alternatives("socketpair", kinds.map(of_type).to_vec())
}

/// Memory objects are never executable. A kernel older than Linux 6.3 does not know the flag and refuses it, which is
/// how makers of memory files find out; there exactly the flags that ours have are allowed as well.
fn memory_file(kind: MemoryFiles) -> Rule {
    let mut when =
        vec![vec![Check::with_bits(1, libc::MFD_NOEXEC_SEAL, "a memory file is never executable")]];
    if kind == MemoryFiles::Executable {
        when.push(vec![Check::int(1, OLD_FLAGS.bits(), "only the flags that memory files of ours have")]);
    }
    Rule::alternatives("memfd_create", when).needed_for("shared objects, states, crash pages")
}

/// `spawn::child`: between clone and exec, in the new process, under this filter.
fn spawn_child_half() -> Vec<Rule> {
    let rules = vec![
        Rule::any("setsid"),
        Rule::any("dup3"),
        Rule::any("close_range"),
        Rule::any("capset"),
        own_limits(),
        Rule::one_of(
            "prctl",
            0,
            &[
                libc::PR_SET_PDEATHSIG.cast_unsigned(),
                libc::PR_CAPBSET_DROP.cast_unsigned(),
                libc::PR_SET_SECUREBITS.cast_unsigned(),
                libc::PR_CAP_AMBIENT.cast_unsigned(),
                libc::PR_SET_NO_NEW_PRIVS.cast_unsigned(),
            ],
            "only giving up rights is needed",
        ),
        // As above, a path beside the descriptor would be looked up in the empty root; whatever is found, Landlock lets
        // the given programs alone be executed.
        Rule::when("execveat", &[Check::int(4, AT_EMPTY_PATH, "only an open descriptor is executed")]),
    ];
    needed_for("a process that it starts, between clone and execveat", rules)
}

/// What a static program does from its first instruction to the end of its own `locked::seal`.
fn exec_to_seal(arch: Arch) -> Vec<Rule> {
    let mut rules = vec![
        Rule::any("set_tid_address"),
        own_limits(),
        Rule::any("rt_sigaction"),
        Rule::any("openat").needed_for(LOOKS),
        Rule::any("readlinkat").needed_for(LOOKS),
        Rule::any("fstatfs"),
        Rule::any("capget"),
        Rule::when(
            "unshare",
            &[Check::word(0, libc::CLONE_THREAD as u64, "only asking whether one thread runs")],
        ),
        Rule::any("landlock_create_ruleset"),
        Rule::any("landlock_restrict_self"),
        Rule::when(
            "seccomp",
            &[
                Check::int(0, libc::SECCOMP_SET_MODE_FILTER, "only another filter may be stacked"),
                Check::int(1, 0, "no flag is needed"),
            ],
        ),
        Rule::one_of(
            "prctl",
            0,
            &[
                libc::PR_SET_DUMPABLE.cast_unsigned(),
                libc::PR_GET_DUMPABLE.cast_unsigned(),
                libc::PR_CAPBSET_READ.cast_unsigned(),
                libc::PR_GET_NO_NEW_PRIVS.cast_unsigned(),
                libc::PR_GET_SECUREBITS.cast_unsigned(),
            ],
            "only verifying that rights are gone",
        ),
    ];
    if arch == Arch::X86_64 {
        // Thread pointer at start, and the questions about shadow stacks.
        let codes = [0x1002, 0x3001, 0x5001, 0x5002, 0x5003, 0x5005];
        rules.push(Rule::one_of("arch_prctl", 0, &codes, "only the thread pointer and shadow stacks"));
        rules.push(Rule::any("readlink").needed_for(LOOKS));
        rules.push(
            Rule::any("poll").needed_for("the standard library looks whether its descriptors are open"),
        );
    }
    needed_for("a program that it starts, until that is sealed", rules)
}

const LOOKS: &str = "the C library looks for its maps and its path: Landlock and the empty root refuse";

/// Limits of the calling process only.
fn own_limits() -> Rule {
    Rule::when("prlimit64", &[Check::int(0, 0, "only its own limits")])
}
