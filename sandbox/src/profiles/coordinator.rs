// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The coordinator: supervisor, owner of shared memory, control API; an async runtime on one thread.
//!
//! A seccomp filter is inherited and can only shrink, so the coordinator's rules are its own, plus what its half
//! of `spawn` does, plus what a program does from exec to its own seal, plus its children's rules.
//! What that gives it beyond its own needs is harmless under Landlock and without capabilities
//! (`THREAT_MODEL.md` lists it). No new socket but a Unix pair, no path, no executable memory.

use crate::memory_file::{MemoryFiles, OLD_FLAGS};
use crate::profile::{Arch, Check, Limits, Profile, RootKind, Rule, union};
use crate::profiles::{common, nvme, smmu, vcpu_kvm, vcpu_soft, vfio, vfio_kernel};
use crate::sys::SPAWN_FLAGS;

pub fn profile(arch: Arch, memory_files: MemoryFiles) -> Profile {
    Profile {
        name: "coordinator",
        arch,
        root: RootKind::NewEmpty,
        // The kernel counts the threads of every process below against the coordinator's NPROC too.
        limits: Limits { nofile_count: 1024, nproc_count: 1024, fsize_len: None, locked_len: None },
        landlock_abi_min: super::LANDLOCK_ABI_MIN,
        memory_files: Some(memory_files),
        rules: union(&[
            &common::memory(),
            &common::threads(arch),
            &common::ending(),
            &common::descriptors(arch),
            &own(arch),
            &[memory_file(memory_files)],
            &spawn_child_half(),
            &exec_to_seal(arch),
            &vcpu_soft::rules(arch),
            &smmu::rules(arch),
            &vfio::rules(arch),
            &vfio_kernel::rules(arch),
            &nvme::rules(arch),
            &if arch == Arch::Aarch64 { vcpu_kvm::rules(arch) } else { Vec::new() },
        ]),
        absent: common::ABSENT,
    }
}

/// The runtime's reactor, the API socket handed in by the launcher, memory objects, and children.
fn own(arch: Arch) -> Vec<Rule> {
    let pair = "only a Unix socket pair may be made";
    let mut rules = vec![
        Rule::any("epoll_create1"),
        Rule::any("epoll_ctl"),
        Rule::any("epoll_pwait"),
        Rule::any("accept4"),
        Rule::any("getsockname"),
        Rule::any("getpeername"),
        Rule::any("getsockopt"),
        Rule::when("socketpair", &[Check::int(0, libc::AF_UNIX.cast_unsigned(), pair)]),
        Rule::any("pipe2"),
        Rule::any("ftruncate"),
        Rule::any("fallocate"),
        // `std::io::copy` between files tries this before it reads and writes.
        Rule::any("copy_file_range"),
        Rule::any("fsync"),
        Rule::any("fdatasync"),
        // F_SETFL: of the ends of pipes and of its own log, which it watches; no guest reaches this process.
        Rule::one_of(
            "fcntl",
            1,
            &[libc::F_ADD_SEALS.cast_unsigned(), libc::F_SETFL.cast_unsigned()],
            "only flags, duplicates and seals",
        ),
        Rule::when(
            "clone",
            &[Check::word(0, SPAWN_FLAGS, "a process is only started in namespaces of its own")],
        ),
        Rule::any("waitid"),
        Rule::when(
            "pidfd_send_signal",
            &[Check::int(1, libc::SIGKILL.cast_unsigned(), "children are only ever killed")],
        ),
    ];
    if arch == Arch::X86_64 {
        rules.push(Rule::any("epoll_wait"));
    }
    rules
}

/// Memory objects are never executable. A kernel older than Linux 6.3 does not know the flag and refuses it, which is
/// how makers of memory files find out; there exactly the flags that ours have are allowed as well.
fn memory_file(kind: MemoryFiles) -> Rule {
    let mut when =
        vec![vec![Check::with_bits(1, libc::MFD_NOEXEC_SEAL, "a memory file is never executable")]];
    if kind == MemoryFiles::Executable {
        when.push(vec![Check::int(1, OLD_FLAGS.bits(), "only the flags that memory files of ours have")]);
    }
    Rule { syscall: "memfd_create", when }
}

/// `spawn::child`: between clone and exec, in the new process, under this filter.
fn spawn_child_half() -> Vec<Rule> {
    vec![
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
        Rule::when(
            "execveat",
            &[Check::int(4, libc::AT_EMPTY_PATH.cast_unsigned(), "only an open descriptor may be executed")],
        ),
    ]
}

/// What a static program does from its first instruction to the end of its own `locked::seal`.
fn exec_to_seal(arch: Arch) -> Vec<Rule> {
    let mut rules = vec![
        Rule::any("set_tid_address"),
        own_limits(),
        Rule::any("rt_sigaction"),
        // The C library looks for /proc/self/maps and its own path: Landlock and the empty root refuse.
        Rule::any("openat"),
        Rule::any("readlinkat"),
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
        rules.push(Rule::any("readlink"));
    }
    rules
}

/// Limits of the calling process only.
fn own_limits() -> Rule {
    Rule::when("prlimit64", &[Check::int(0, 0, "only its own limits")])
}
