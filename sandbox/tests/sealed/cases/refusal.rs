// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A sandbox that cannot be had in full is not had at all: spawning and sealing fail, and say at which step and why.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicU32, Ordering};

use sandbox::spawn::{Exit, SpawnError, Step};
use sandbox::{CrashPage, Death, Names, SealError, Spawn};

use crate::harness::Case;
use crate::process::{Process, Role, own_program};

pub const CASES: &[Case] = &[
    ("dynamic_program_is_refused_in_words", dynamic),
    ("program_that_is_no_program_is_refused", no_program),
    ("exec_failure_is_reported_through_the_pipe", exec_failure),
    ("bad_descriptor_tables_are_refused", bad_tables),
    ("sealing_without_spawn_is_refused", not_spawned),
    ("sealing_in_the_callers_root_is_refused", callers_root),
    ("sealing_with_another_thread_is_refused", || refused_inside("extra-thread", "another thread")),
    ("sealing_with_another_descriptor_is_refused", || {
        refused_inside("extra-descriptor", "is open and should not be")
    }),
    ("sealing_with_a_missing_descriptor_is_refused", || {
        refused_inside("count-too-high", "is not open and should be")
    }),
    ("sealing_without_a_descriptor_that_a_rule_is_about_is_refused", || {
        refused_inside("rule-without-descriptor", "which was not given")
    }),
    ("descriptors_are_owned_once", || refused_inside("inherited-twice", "were taken already")),
    ("own_filter_refusing_before_exec_is_named", own_filter_before_exec),
    ("own_filter_refusing_after_exec_is_explained", own_filter_after_exec),
    ("programs_without_the_right_to_execute_are_refused", || {
        refused_inside("programs", "may not execute any")
    }),
];

/// A coordinator whose filter lacks a call that starting a child needs.
fn coordinator_lacking(call: &str) -> (Process, CrashPage) {
    let program = own_program();
    let page = CrashPage::create().unwrap();
    let extra = [program.as_fd(), page.as_fd()];
    let mut process = Process::start_from("coordinator", call, program.as_fd(), &extra);
    assert_eq!(process.line(), "sealed");
    (process, page)
}

/// Refused before exec: the caller is told the call, and its own crash page stays clean of it.
fn own_filter_before_exec() {
    let (mut process, _page) = coordinator_lacking("setsid");
    assert_eq!(process.ask("spawn smmu"), "");
    let Some(Death::Panic { message, .. }) = process.end().death else { panic!("no panic is reported") };
    assert!(message.contains("the caller's own seccomp filter refused setsid"), "{message}");
}

/// Refused after exec, when the new program has no reporter yet: the exit says what it can be.
fn own_filter_after_exec() {
    let (mut process, page) = coordinator_lacking("set_tid_address");
    let answer = process.ask("spawn smmu");
    assert!(answer.starts_with("not sealed: SIGSYS: its parent's seccomp filter"), "{answer}");
    assert_eq!(sandbox::report::read(&page, &Role::Smmu.profile()), None);
}

fn spawn(program: BorrowedFd<'_>, role: Role, fds: &[(String, BorrowedFd<'_>)]) -> Result<(), SpawnError> {
    let profile = role.profile();
    Spawn { program, argv: &[c"x"], fds, profile: &profile, own_id: None, cgroup: None }.spawn().map(
        |child| {
            child.kill().unwrap();
            child.wait().unwrap();
        },
    )
}

/// This very program's headers, with an interpreter named in the first of them: a dynamic program as far as it is read.
fn dynamic() {
    const FIRST_PROGRAM_HEADER: usize = 64;
    const PT_INTERP: u32 = 3;
    let program = file_beginning_as_own_program(|start| {
        start[FIRST_PROGRAM_HEADER..FIRST_PROGRAM_HEADER + 4].copy_from_slice(&PT_INTERP.to_le_bytes());
    });
    let error = spawn(program.as_fd(), Role::Coordinator, &[]).unwrap_err();
    assert_eq!(error.step, Step::Program);
    assert!(error.to_string().contains("PT_INTERP") && error.to_string().contains("crt-static"), "{error}");
}

/// A nameless file with the first page of this program, changed by `change`.
fn file_beginning_as_own_program(change: impl FnOnce(&mut [u8])) -> File {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = std::env::temp_dir().join(format!("own-headers-{}-{number}", std::process::id()));
    let mut start = vec![0; 4096];
    std::io::Read::read_exact(&mut own_program(), &mut start).unwrap();
    change(&mut start);
    std::fs::write(&name, &start).unwrap();
    let program = File::open(&name).unwrap();
    std::fs::remove_file(&name).unwrap();
    program
}

fn no_program() {
    let text = File::open("/proc/self/status").unwrap();
    let error = spawn(text.as_fd(), Role::Coordinator, &[]).unwrap_err();
    assert!(error.step == Step::Program && error.to_string().contains("not a 64-bit ELF"), "{error}");
    let path = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open("/proc/self/exe").unwrap();
    let error = spawn(path.as_fd(), Role::Coordinator, &[]).unwrap_err();
    assert!(error.step == Step::Program && error.to_string().contains("O_PATH"), "{error}");
}

/// A static executable by its headers, which the kernel then refuses: the errno comes back from behind clone.
pub fn exec_failure() {
    let program = file_beginning_as_own_program(|_| {});
    let error = spawn(program.as_fd(), Role::Coordinator, &[]).unwrap_err();
    assert_eq!((error.step, error.errno()), (Step::Exec, Some(libc::EACCES)), "{error}");
    assert!(error.to_string().contains("executable by the user"), "{error}");
}

fn bad_tables() {
    let program = own_program();
    let fd = program.as_fd();
    let many: Vec<String> = (0..257).map(|number| format!("number:{number}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    for (names, word) in [
        (&["control", "control"][..], "two descriptors are called `control`"),
        (&["control", "crash-page", "ram", "log"], "the `log`"),
        (&["con\0trol"], "cannot be the name"),
        (&many, "at most"),
    ] {
        let fds: Vec<_> = names.iter().map(|name| ((*name).to_owned(), fd)).collect();
        let error = spawn(fd, Role::Coordinator, &fds).unwrap_err();
        assert!(error.step == Step::Plan && error.to_string().contains(word), "{error}");
    }
}

fn not_spawned() {
    let page = CrashPage::create().unwrap();
    // 3 is open (the page at least is above the standard streams), so this process has too many.
    let error = sandbox::seal(&Role::Smmu.profile(), &Names::default(), page).unwrap_err();
    assert!(matches!(error, SealError::Descriptors(_)), "{error}");
}

/// A profile that inherits its root, started by a process that has the host's: the child finds out and refuses.
fn callers_root() {
    let mut process = Process::start_from("smmu", "", own_program().as_fd(), &[]);
    assert_eq!(process.line(), "");
    let end = process.end();
    assert_eq!(end.exit, Exit::Code(101));
    assert!(end.log.contains("sealing, root: "), "{}", end.log);
}

fn refused_inside(fault: &str, words: &str) {
    let program = own_program();
    let page = CrashPage::create().unwrap();
    let extra = [program.as_fd(), page.as_fd()];
    let mut process = Process::start_from("coordinator", fault, program.as_fd(), &extra);
    assert_eq!(process.line(), "");
    let end = process.end();
    assert_eq!(end.exit, Exit::Code(101));
    assert!(end.log.contains(words), "{}", end.log);
}
