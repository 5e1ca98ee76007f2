// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Calls shared by the roles, in groups that say what they are for.
//!
//! Invariants: nothing here makes memory executable, opens a path, makes a socket, or reaches another process.
//! A group is added to a role only for its stated purpose; what the groups lack ends the process.

use crate::profile::{Check, Rule, needed_for};

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
    let rules = vec![
        Rule::any("brk"),
        map(&[]),
        Rule::when("mprotect", &[data_only()]),
        Rule::any("munmap"),
        // What grows may move; nothing is put over what is mapped already.
        Rule::when("mremap", &[Check::only_bits(3, libc::MREMAP_MAYMOVE.cast_unsigned(), NO_SUCH_MAPPING)])
            .needed_for("a large block of the allocator's grows"),
        Rule::one_of("madvise", 2, &advice, "this kind of advice is not needed"),
    ];
    needed_for("the allocator, and stacks of threads", rules)
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
    Rule::alternatives("mmap", [vec![own.to_vec()], shared].concat())
        .needed_for("private memory, and objects that are shared with other processes")
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
    let rules = vec![
        Rule::when("clone", &[Check::word(0, THREAD_FLAGS, "only a thread of this process may be started")]),
        // A trap here would win over the answer.
        Rule::any("clone3")
            .needed_for("answered ENOSYS by another filter, so that the C library takes clone"),
        Rule::any("set_robust_list"),
        Rule::any("rseq"),
        waiting_on_memory(),
        Rule::any("sched_yield"),
        Rule::any("sched_getaffinity"),
        Rule::any("gettid"),
        Rule::any("clock_gettime").needed_for("clocks, where the vDSO has none to read"),
        Rule::any("getrandom").needed_for("seeds of hash tables, and random numbers"),
        Rule::one_of("prctl", 0, &[PR_SET_NAME], "only naming threads is needed"),
        Rule::any("sigaltstack"),
        // Nobody here may send those signals.
        Rule::one_of(
            "rt_sigaction",
            0,
            &[32, 33],
            "only the C library's own handlers may change after sealing",
        )
        .needed_for("the C library's two handlers, at the start of the first thread"),
        Rule::any("exit"),
    ];
    needed_for("starting, naming, parking and ending threads", rules)
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
    Rule::alternatives("futex", all.map(operation).to_vec())
        .needed_for("waiting for a word of memory, and waking who waits")
}

const PR_SET_NAME: u32 = libc::PR_SET_NAME.cast_unsigned();

/// Signals to and within the process itself, and its end. No handler can be installed: those of the
/// sandbox stay, and none of them returns.
pub fn ending() -> Vec<Rule> {
    let rules = vec![
        Rule::any("rt_sigprocmask"),
        Rule::any("restart_syscall").needed_for("a wait goes on after the process was stopped and continued"),
        Rule::any("getpid"),
        // abort() raises SIGABRT on itself; a sealed process is always pid 1 of its own pid namespace.
        Rule::when(
            "tgkill",
            &[Check::int(0, 1, ONLY_SELF), Check::int(2, libc::SIGABRT.cast_unsigned(), ONLY_SELF)],
        ),
        Rule::any("exit_group"),
    ];
    needed_for("the end of the process, and abort", rules)
}

/// What [`channels`] has, and doorbells and streams without descriptors, which are read by `recvfrom`.
pub fn descriptors() -> Vec<Rule> {
    let mut rules = channels();
    rules.push(Rule::any("recvfrom").needed_for("doorbells, and streams without descriptors"));
    rules
}

/// Reading, writing and waiting on descriptors the process already has, channels of messages among them; saving into
/// and restoring from a memory file.
pub fn channels() -> Vec<Rule> {
    let rules = vec![
        Rule::any("read"),
        Rule::any("write"),
        Rule::any("pread64").needed_for("a state is restored from a memory file"),
        Rule::any("pwrite64").needed_for("a state is saved into a memory file"),
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
        Rule::any("shutdown").needed_for("a peer that breaks the contract is cut off"),
    ];
    needed_for("descriptors that the process has: channels, logs, memory files", rules)
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
    vec![
        Rule::when(
            "preadv2",
            &[Check::int(5, libc::RWF_NOWAIT.cast_unsigned(), "only a read that does not wait")],
        )
        .needed_for("the count of an eventfd that others hold as well"),
    ]
}
