// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Calls shared by the roles, in groups that say what they are for.
//!
//! Invariants: nothing here makes memory executable, opens a path, makes a socket, or reaches another process.
//! A group is added to a role only for its stated purpose; what the groups lack ends the process.

use crate::profile::{Check, Rule};

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
        map(&[]),
        Rule::when("mprotect", &[data_only()]),
        Rule::any("munmap"),
        // What grows may move; nothing is put over what is mapped already.
        Rule::when("mremap", &[Check::only_bits(3, libc::MREMAP_MAYMOVE.cast_unsigned(), NO_SUCH_MAPPING)]),
        Rule::one_of("madvise", 2, &advice, "this kind of advice is not needed"),
    ]
}

/// Memory of the process's own, and files shared with others: the descriptors of these names only, if there are any.
///
/// Private memory is what RLIMIT_DATA counts. That of no file but shared would be neither that nor a memory file's, and
/// no limit but the address space's would hold it. Nothing is mapped below what is there (GROWSDOWN), pinned (LOCKED),
/// filled at once (POPULATE), or in huge pages of a pool (HUGETLB).
pub fn map(files: &[&'static str]) -> Rule {
    let own = [
        data_only(),
        Check::with_bits(3, PRIVATE | ANONYMOUS, NO_SUCH_MAPPING),
        Check::only_bits(3, PRIVATE | ANONYMOUS | STACK | NORESERVE | FIXED, NO_SUCH_MAPPING),
    ];
    let shared = [
        data_only(),
        Check::with_bits(3, SHARED, NO_SUCH_MAPPING),
        Check::only_bits(3, SHARED | NORESERVE, NO_SUCH_MAPPING),
    ];
    let shared = match files {
        [] => vec![shared.to_vec()],
        files => Rule::on("mmap", 4, files, NOT_THIS_FILE, &shared).when,
    };
    Rule { syscall: "mmap", when: [vec![own.to_vec()], shared].concat() }
}

/// Readable, writable, or neither.
fn data_only() -> Check {
    Check::only_bits(2, (libc::PROT_READ | libc::PROT_WRITE).cast_unsigned(), NEVER_EXEC)
}

const NO_SUCH_MAPPING: &str = "only private memory, or a file shared with other processes, is mapped";
const NOT_THIS_FILE: &str = "of this process's files only listed ones are mapped: never guest RAM";
const PRIVATE: u32 = libc::MAP_PRIVATE.cast_unsigned();
const SHARED: u32 = libc::MAP_SHARED.cast_unsigned();
const ANONYMOUS: u32 = libc::MAP_ANONYMOUS.cast_unsigned();
const STACK: u32 = libc::MAP_STACK.cast_unsigned();
const NORESERVE: u32 = libc::MAP_NORESERVE.cast_unsigned();
/// The C library gives memory of a heap back to the kernel by mapping nothing over it.
const FIXED: u32 = libc::MAP_FIXED.cast_unsigned();
const MADV_GUARD_INSTALL: i32 = 102;
const MADV_GUARD_REMOVE: i32 = 103;

/// Starting, parking, naming and ending threads; locks; the clock when the vDSO cannot answer.
pub fn threads() -> Vec<Rule> {
    vec![
        Rule::when("clone", &[Check::word(0, THREAD_FLAGS, "only a thread of this process may be started")]),
        // Answered ENOSYS by the second filter; a trap here would win over that answer.
        Rule::any("clone3"),
        Rule::any("set_robust_list"),
        Rule::any("rseq"),
        waiting_on_memory(),
        Rule::any("sched_yield"),
        Rule::any("sched_getaffinity"),
        Rule::any("gettid"),
        // Where the vDSO has no clock to read.
        Rule::any("clock_gettime"),
        Rule::any("getrandom"),
        Rule::one_of("prctl", 0, &[PR_SET_NAME], "only naming threads is needed"),
        Rule::any("sigaltstack"),
        // glibc installs its two internal handlers at the first thread start; nobody here may send those signals.
        Rule::one_of(
            "rt_sigaction",
            0,
            &[32, 33],
            "only the C library's own handlers may change after sealing",
        ),
        Rule::any("exit"),
    ]
}

/// Waiting for a word of memory and waking who waits, within the process and over shared memory, with either clock.
/// None that lends priority, moves waiters or operates on words: those are the futex code's rarer half, and no library
/// of ours uses them.
fn waiting_on_memory() -> Rule {
    let operation = |op: i32| {
        let mask = u64::from((!(libc::FUTEX_PRIVATE_FLAG | libc::FUTEX_CLOCK_REALTIME)).cast_unsigned());
        let value = u64::from(op.cast_unsigned());
        let why = "only waiting and waking are needed";
        vec![Check { index: 1, mask, value, narrow: true, why, slot: None }]
    };
    let all = [libc::FUTEX_WAIT, libc::FUTEX_WAKE, libc::FUTEX_WAIT_BITSET, libc::FUTEX_WAKE_BITSET];
    Rule { syscall: "futex", when: all.map(operation).to_vec() }
}

const PR_SET_NAME: u32 = libc::PR_SET_NAME.cast_unsigned();

/// Signals to and within the process itself, and its end. No handler can be installed: those of the
/// sandbox stay, and none of them returns.
pub fn ending() -> Vec<Rule> {
    vec![
        Rule::any("rt_sigprocmask"),
        // A wait goes on by it after the process was stopped and continued (SIGSTOP, SIGCONT).
        Rule::any("restart_syscall"),
        Rule::any("getpid"),
        // abort() raises SIGABRT on itself; a sealed process is always pid 1 of its own pid namespace.
        Rule::when(
            "tgkill",
            &[Check::int(0, 1, ONLY_SELF), Check::int(2, libc::SIGABRT.cast_unsigned(), ONLY_SELF)],
        ),
        Rule::any("exit_group"),
    ]
}

/// What [`channels`] has, and doorbells and streams without descriptors, which are read by `recvfrom`.
pub fn descriptors() -> Vec<Rule> {
    let mut rules = channels();
    rules.push(Rule::any("recvfrom"));
    rules
}

/// Reading, writing and waiting on descriptors the process already has, channels of messages among them; saving into
/// and restoring from a memory file.
pub fn channels() -> Vec<Rule> {
    vec![
        Rule::any("read"),
        Rule::any("write"),
        Rule::any("pread64"),
        Rule::any("pwrite64"),
        Rule::any("close"),
        // By its own number: no call that would take a path beside a descriptor.
        Rule::any("fstat"),
        Rule::one_of(
            "fcntl",
            1,
            &FCNTL,
            "only duplicates of descriptors, and a look at their flags and seals, are needed",
        ),
        Rule::any("ppoll"),
        Rule::any("recvmsg"),
        // Without descriptors: what may send those has `sendmsg` as well.
        connected_send(),
        Rule::any("shutdown"),
    ]
}

fn connected_send() -> Rule {
    Rule::when("sendto", &[Check::word(4, 0, "only a connected socket may be written to")])
}

/// Not F_SETFL: what it changes belongs to the open file, which another process may hold as well.
const FCNTL: [u32; 4] = [
    libc::F_DUPFD_CLOEXEC.cast_unsigned(),
    libc::F_GETFD.cast_unsigned(),
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
