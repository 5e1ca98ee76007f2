// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a taken-over process would try, one attempt per process: it dies with a report that names process, call and
//! arguments, or is refused, exactly as the table says.

use sandbox::probe::{self, Attempt};
use sandbox::spawn::Exit;
use sandbox::{Death, MemoryFiles};

use crate::harness::Case;
use crate::process::{Process, Role};

pub const CASES: &[Case] = &[
    ("coordinator_attempts_fail", || attempts(Role::Coordinator)),
    ("vcpu_attempts_fail", || attempts(Role::Vcpu)),
    ("smmu_attempts_fail", || attempts(Role::Smmu)),
    ("nvme_attempts_fail", || attempts(Role::Nvme)),
    ("attempt_in_a_thread_is_reported_with_the_thread", in_thread),
];

/// What is expected of an attempt.
#[derive(Debug, PartialEq)]
enum Fate {
    /// Dies; the report names this call.
    Dies(&'static str),
    /// Dies; the report has a number without a name.
    DiesUnnamed,
    /// The kernel kills without asking the process.
    Killed,
    /// Survives; refused with one of these.
    Refused(&'static [i32]),
    /// Survives, and it worked, which is said in the threat model to be harmless.
    Harmless,
}

fn fate(attempt: Attempt, role: Role) -> Fate {
    use Fate::{Dies, DiesUnnamed, Harmless, Killed, Refused};
    match (attempt, role) {
        // The coordinator's filter must let its children look for files before they are sealed. Landlock refuses.
        (Attempt::OpenRoot, Role::Coordinator) => Refused(&[libc::EACCES]),
        (Attempt::OpenForWriting, Role::Coordinator) => Refused(&[libc::EACCES, libc::EROFS]),
        // As must be handlers for its children to install; what is lost is a report and no right.
        (Attempt::Sigaction, Role::Coordinator) => Harmless,
        // A kernel without MFD_NOEXEC_SEAL: it is reported, and what would be executed has no more rights.
        (Attempt::ExecutableMemoryFile, Role::Coordinator)
            if MemoryFiles::of_kernel() == MemoryFiles::Executable =>
        {
            Harmless
        }
        (Attempt::ExecutableMemoryFile, _) => Dies("memfd_create"),
        (Attempt::Truncate, _) => Dies("truncate"),
        (Attempt::Clone3, _) => Refused(&[libc::ENOSYS]),
        (Attempt::ForeignAbi, _) if cfg!(target_arch = "x86_64") => Killed,
        (Attempt::ForeignAbi, _) => Refused(&[libc::ENOSYS]),
        (Attempt::UnknownNumber, _) => DiesUnnamed,
        (Attempt::OpenRoot | Attempt::OpenForWriting, _) => Dies("openat"),
        (Attempt::SocketInet | Attempt::SocketUnix, _) => Dies("socket"),
        (Attempt::Execve, _) => Dies("execve"),
        (Attempt::Fork | Attempt::NewUserNamespace, _) => Dies("clone"),
        (Attempt::Ptrace, _) => Dies("ptrace"),
        (Attempt::ProcessVmWrite, _) => Dies("process_vm_writev"),
        (Attempt::ForeignIoctl | Attempt::InputInjection, _) => Dies("ioctl"),
        (Attempt::MmapExec, _) => Dies("mmap"),
        (Attempt::MprotectExec, _) => Dies("mprotect"),
        (Attempt::MmapSharedMemory | Attempt::MmapPrivateFile | Attempt::MmapBelow, _) => Dies("mmap"),
        (Attempt::MremapOver, _) => Dies("mremap"),
        (Attempt::MuchMemory | Attempt::MuchAddressSpace, _) => Refused(&[libc::ENOMEM]),
        // These processes have no image.
        (Attempt::FarWrite, _) => Refused(&[libc::EBADF]),
        (Attempt::FutexLendingPriority, _) => Dies("futex"),
        (Attempt::RawPair, _) => Dies("socketpair"),
        (Attempt::Mount, _) => Dies("mount"),
        (Attempt::Unshare, _) => Dies("unshare"),
        (Attempt::Setns, _) => Dies("setns"),
        (Attempt::KillOther, _) => Dies("kill"),
        (Attempt::SignalSelf, _) => Dies("tgkill"),
        (Attempt::Bpf, _) => Dies("bpf"),
        (Attempt::IoUring, _) => Dies("io_uring_setup"),
        (Attempt::PerfEvent, _) => Dies("perf_event_open"),
        (Attempt::Userfaultfd, _) => Dies("userfaultfd"),
        (Attempt::Keyctl, _) => Dies("keyctl"),
        (Attempt::SetUid, _) => Dies("setuid"),
        (Attempt::Sigaction, _) => Dies("rt_sigaction"),
        (Attempt::Prctl, _) => Dies("prctl"),
        (other, _) => panic!("no fate is written down for {other}"),
    }
}

fn attempts(role: Role) {
    for attempt in probe::ALL {
        let mut process = Process::start(role);
        let answer = process.tell(&format!("probe {attempt}"));
        let expected = fate(attempt, role);
        match &expected {
            Fate::Refused(errnos) => {
                let right = errnos.iter().any(|errno| answer == format!("refused {errno}"));
                assert!(right, "{role:?} {attempt}: {answer:?}, {expected:?}");
                assert_eq!(process.tell("memory"), "done 1", "{attempt} harmed the process");
            }
            Fate::Harmless => assert_eq!(answer, "succeeded", "{role:?} {attempt}"),
            Fate::Killed => {
                assert_eq!(answer, "");
                let end = process.end();
                assert_eq!(end.exit, Exit::Signal(libc::SIGSYS), "{role:?} {attempt}: {end:?}");
            }
            Fate::Dies(_) | Fate::DiesUnnamed => {
                assert_eq!(answer, "", "{role:?} {attempt} survived");
                reported(role, attempt, &expected, process);
            }
        }
    }
}

fn reported(role: Role, attempt: Attempt, expected: &Fate, process: Process) {
    let end = process.end();
    assert_eq!(end.exit, Exit::Code(sandbox::report::EXIT_DENIED), "{role:?} {attempt}: {end:?}");
    let death = end.death.unwrap_or_else(|| panic!("{role:?} {attempt} left no report"));
    let Death::DeniedSyscall { profile, name, args, rule, .. } = &death else {
        panic!("{attempt}: {death}");
    };
    assert_eq!(*profile, role.name());
    assert!(rule.contains(role.name()), "{rule}");
    match expected {
        Fate::Dies(call) => assert_eq!(*name, Some(*call), "{attempt}: {death}"),
        _ => assert_eq!(*name, None, "{attempt}: {death}"),
    }
    // The arguments are the attempt's own.
    match attempt {
        Attempt::UnknownNumber => assert_eq!(args, &[1, 2, 3, 4, 5, 6]),
        Attempt::SocketInet => assert_eq!(args[..3], [2, 1, 0]),
        Attempt::SignalSelf => assert_eq!(args[..3], [1, 1, 9]),
        Attempt::MmapExec => {
            assert_eq!(args[1..5], [4096, 7, 0x22, u64::MAX]);
            assert!(
                rule.contains(
                    "prot = PROT_READ|PROT_WRITE|PROT_EXEC is not allowed: memory is never made executable"
                ),
                "{rule}"
            );
        }
        Attempt::Mount => assert!(rule.starts_with("not in profile"), "{rule}"),
        _ => {}
    }
}

fn in_thread() {
    let mut process = Process::start(Role::Coordinator);
    assert_eq!(process.tell("probe-in-thread socket-inet"), "");
    match process.end().death {
        Some(Death::DeniedSyscall { thread, name: Some("socket"), .. }) => assert!(thread > 1),
        other => panic!("{other:?}"),
    }
}
