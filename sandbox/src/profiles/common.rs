// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Calls shared by the roles, in groups that say what they are for.
//!
//! Invariants: nothing here makes memory executable, opens a path, makes a socket, or reaches another process.
//! A group is added to a role only for its stated purpose; what the groups lack ends the process.

use crate::profile::{Arch, Check, Rule};

const NEVER_EXEC: &str = "memory is never made executable";
const ONLY_SELF: &str = "a process may signal only itself, to abort";

/// Calls that answer ENOSYS in every role. `clone3` passes its flags through memory, where no filter can look;
/// the C library then falls back to `clone`, which has them in a register.
pub const ABSENT: &[&str] = &["clone3"];

/// The flags glibc starts a thread with (VM, FS, FILES, SIGHAND, THREAD, SYSVSEM, SETTLS, PARENT_SETTID,
/// CHILD_CLEARTID): exactly these, so that no new process and no namespace can come of it.
const THREAD_FLAGS: u64 = (libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM
    | libc::CLONE_SETTLS
    | libc::CLONE_PARENT_SETTID
    | libc::CLONE_CHILD_CLEARTID) as u64;

/// Allocation: the C library's allocator, thread stacks, shared-memory maps. Advice values include those that newer
/// C libraries use (guard pages since glibc 2.42) so that an upgrade does not end a process.
pub fn memory() -> Vec<Rule> {
    let advice = [
        libc::MADV_NORMAL,
        libc::MADV_WILLNEED,
        libc::MADV_DONTNEED,
        libc::MADV_FREE,
        libc::MADV_HUGEPAGE,
        libc::MADV_NOHUGEPAGE,
        libc::MADV_DONTDUMP,
        libc::MADV_POPULATE_READ,
        libc::MADV_POPULATE_WRITE,
        MADV_GUARD_INSTALL,
        MADV_GUARD_REMOVE,
    ]
    .map(i32::cast_unsigned);
    vec![
        Rule::any("brk"),
        Rule::when("mmap", &[Check::without(2, PROT_EXEC, NEVER_EXEC)]),
        Rule::when("mprotect", &[Check::without(2, PROT_EXEC, NEVER_EXEC)]),
        Rule::any("munmap"),
        Rule::any("mremap"),
        Rule::one_of("madvise", 2, &advice, "this kind of advice is not needed"),
    ]
}

const PROT_EXEC: u64 = libc::PROT_EXEC as u64;
const MADV_GUARD_INSTALL: i32 = 102;
const MADV_GUARD_REMOVE: i32 = 103;

/// Starting, parking, naming and ending threads; locks; sleeping; the clock when the vDSO cannot answer.
pub fn threads(arch: Arch) -> Vec<Rule> {
    let mut rules = vec![
        Rule::when("clone", &[Check::word(0, THREAD_FLAGS, "only a thread of this process may be started")]),
        // Answered ENOSYS by the second filter; a trap here would win over that answer.
        Rule::any("clone3"),
        Rule::any("set_robust_list"),
        Rule::any("rseq"),
        Rule::any("futex"),
        Rule::any("sched_yield"),
        Rule::any("sched_getaffinity"),
        Rule::any("getcpu"),
        Rule::any("gettid"),
        Rule::any("getpid"),
        Rule::any("nanosleep"),
        Rule::any("clock_nanosleep"),
        Rule::any("clock_gettime"),
        Rule::any("clock_getres"),
        Rule::any("gettimeofday"),
        Rule::any("getrandom"),
        Rule::one_of("prctl", 0, &[PR_SET_NAME, PR_SET_VMA], "only naming threads and memory is needed"),
        Rule::any("sigaltstack"),
        // glibc installs its two internal handlers at the first thread start; nobody here may send those signals.
        Rule::one_of(
            "rt_sigaction",
            0,
            &[32, 33],
            "only the C library's own handlers may change after sealing",
        ),
        Rule::any("exit"),
    ];
    if arch == Arch::X86_64 {
        rules.push(Rule::any("time"));
    }
    rules
}

const PR_SET_NAME: u32 = libc::PR_SET_NAME.cast_unsigned();
const PR_SET_VMA: u32 = libc::PR_SET_VMA.cast_unsigned();

/// Signals to and within the process itself, and its end. No handler can be installed: those of the
/// sandbox stay.
pub fn ending() -> Vec<Rule> {
    vec![
        Rule::any("rt_sigprocmask"),
        Rule::any("rt_sigreturn"),
        Rule::any("restart_syscall"),
        // abort() raises SIGABRT on itself; a sealed process is always pid 1 of its own pid namespace.
        Rule::when(
            "tgkill",
            &[Check::int(0, 1, ONLY_SELF), Check::int(2, libc::SIGABRT.cast_unsigned(), ONLY_SELF)],
        ),
        Rule::any("exit_group"),
    ]
}

/// Reading, writing and waiting on descriptors the process already has.
pub fn descriptors(arch: Arch) -> Vec<Rule> {
    let by_descriptor = "only an open descriptor may be looked at, no path";
    let mut rules = vec![
        Rule::any("read"),
        Rule::any("write"),
        Rule::any("readv"),
        Rule::any("writev"),
        Rule::any("pread64"),
        Rule::any("pwrite64"),
        Rule::any("lseek"),
        Rule::any("close"),
        Rule::any("fstat"),
        Rule::when("newfstatat", &[Check::with_bits(3, AT_EMPTY_PATH, by_descriptor)]),
        Rule::when("statx", &[Check::with_bits(2, AT_EMPTY_PATH, by_descriptor)]),
        Rule::one_of(
            "fcntl",
            1,
            &FCNTL,
            "only duplicates of descriptors, and a look at their flags and seals, are needed",
        ),
        Rule::any("ppoll"),
        Rule::any("eventfd2"),
        Rule::any("recvmsg"),
        Rule::any("sendmsg"),
        Rule::any("recvfrom"),
        Rule::when("sendto", &[Check::word(4, 0, "only a connected socket may be written to")]),
        Rule::any("shutdown"),
    ];
    if arch == Arch::X86_64 {
        rules.push(Rule::any("poll"));
    }
    rules
}

const AT_EMPTY_PATH: u32 = libc::AT_EMPTY_PATH.cast_unsigned();
/// Not F_SETFL: what it changes belongs to the open file, which another process may hold as well.
const FCNTL: [u32; 5] = [
    libc::F_DUPFD_CLOEXEC.cast_unsigned(),
    libc::F_GETFD.cast_unsigned(),
    libc::F_SETFD.cast_unsigned(),
    libc::F_GETFL.cast_unsigned(),
    libc::F_GET_SEALS.cast_unsigned(),
];

/// Taking the count of an eventfd that others hold as well, without ever waiting for one.
pub fn shared_eventfds() -> Vec<Rule> {
    vec![Rule::when(
        "preadv2",
        &[Check::int(5, libc::RWF_NOWAIT.cast_unsigned(), "only a read that does not wait")],
    )]
}
