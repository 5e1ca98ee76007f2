// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The raw calls behind `probe`: what a taken-over process would try. Debug builds only.
//!
//! Each call is made with arguments that would do something real on an unsealed process but nothing destructive: a
//! forked child ends at once, signals go to process 2 of the own namespace or are number 0.

use std::io;

use super::process::exit_group;
use crate::probe::Attempt;

/// Makes the call; the errno when it was refused.
pub(crate) fn make(attempt: Attempt) -> Result<(), i32> {
    let call = |number: i64, args: [u64; 6]| raw(number, args);
    let path = |text: &std::ffi::CStr| text.as_ptr() as u64;
    let page = &raw const PAGE as u64;
    const AT_FDCWD: u64 = libc::AT_FDCWD as u64;
    match attempt {
        Attempt::OpenRoot => call(libc::SYS_openat, [AT_FDCWD, path(c"/"), 0, 0, 0, 0]),
        Attempt::OpenForWriting => call(libc::SYS_openat, [AT_FDCWD, path(c"/x"), 0o101, 0o600, 0, 0]),
        Attempt::Truncate => call(libc::SYS_truncate, [path(c"/x"), 0, 0, 0, 0, 0]),
        Attempt::SocketInet => call(libc::SYS_socket, [2, 1, 0, 0, 0, 0]),
        Attempt::SocketUnix => call(libc::SYS_socket, [1, 1, 0, 0, 0, 0]),
        Attempt::Execve => call(libc::SYS_execve, [path(c"/bin/sh"), 0, 0, 0, 0, 0]),
        Attempt::Fork => call(libc::SYS_clone, [libc::SIGCHLD as u64, 0, 0, 0, 0, 0]),
        Attempt::NewUserNamespace => {
            call(libc::SYS_clone, [(libc::CLONE_NEWUSER | libc::SIGCHLD) as u64, 0, 0, 0, 0, 0])
        }
        Attempt::Clone3 => call(libc::SYS_clone3, [page, 64, 0, 0, 0, 0]),
        Attempt::Ptrace => call(libc::SYS_ptrace, [libc::PTRACE_TRACEME as u64, 0, 0, 0, 0, 0]),
        Attempt::ProcessVmWrite => call(libc::SYS_process_vm_writev, [1, 0, 0, 0, 0, 0]),
        // KVM_CREATE_VM on the control channel: any number that no profile lists.
        Attempt::ForeignIoctl => call(libc::SYS_ioctl, [0, 0xae01, 0, 0, 0, 0]),
        Attempt::InputInjection => call(libc::SYS_ioctl, [0, 0x5412, page, 0, 0, 0]),
        Attempt::MmapExec => call(libc::SYS_mmap, [0, 4096, 7, 0x22, u64::MAX, 0]),
        Attempt::MprotectExec => call(libc::SYS_mprotect, [page & !0xfff, 4096, 5, 0, 0, 0]),
        // Memory that RLIMIT_DATA does not count: shared, of no file.
        Attempt::MmapSharedMemory => call(libc::SYS_mmap, [0, 4096, 3, 0x21, u64::MAX, 0]),
        Attempt::MmapPrivateFile => call(libc::SYS_mmap, [0, 4096, 3, 2, 1, 0]),
        Attempt::MmapBelow => call(libc::SYS_mmap, [0, 4096, 3, 0x122, u64::MAX, 0]),
        Attempt::MremapOver => call(libc::SYS_mremap, [page & !0xfff, 4096, 4096, 3, page & !0xfff, 0]),
        // 16 GiB, of which no page is touched; then of the crash page's file, far beyond its end.
        Attempt::MuchMemory => call(libc::SYS_mmap, [0, 16 << 30, 3, 0x4022, u64::MAX, 0]),
        Attempt::MuchAddressSpace => call(libc::SYS_mmap, [0, 16 << 40, 1, 1, 1, 0]),
        // Of the number that is the image in a process that has one.
        Attempt::FarWrite => call(libc::SYS_pwrite64, [3, page, 1, 20 << 30, 0, 0]),
        Attempt::FutexLendingPriority => call(libc::SYS_futex, [page, 6, 0, 0, 0, 0]),
        Attempt::RawPair => call(libc::SYS_socketpair, [1, 3, 0, page, 0, 0]),
        // Sealable and closed at exec, but without the flag that forbids executing it.
        Attempt::ExecutableMemoryFile => call(libc::SYS_memfd_create, [path(c"x"), 3, 0, 0, 0, 0]),
        Attempt::Mount => call(libc::SYS_mount, [path(c"none"), path(c"/"), path(c"tmpfs"), 0, 0, 0]),
        Attempt::Unshare => call(libc::SYS_unshare, [libc::CLONE_NEWUSER as u64, 0, 0, 0, 0, 0]),
        Attempt::Setns => call(libc::SYS_setns, [0, 0, 0, 0, 0, 0]),
        Attempt::KillOther => call(libc::SYS_kill, [2, 0, 0, 0, 0, 0]),
        Attempt::SignalSelf => call(libc::SYS_tgkill, [1, 1, libc::SIGKILL as u64, 0, 0, 0]),
        Attempt::Bpf => call(libc::SYS_bpf, [0, page, 0, 0, 0, 0]),
        Attempt::IoUring => call(libc::SYS_io_uring_setup, [1, page, 0, 0, 0, 0]),
        Attempt::PerfEvent => call(libc::SYS_perf_event_open, [page, 0, 0, 0, 0, 0]),
        Attempt::Userfaultfd => call(libc::SYS_userfaultfd, [0, 0, 0, 0, 0, 0]),
        Attempt::Keyctl => call(libc::SYS_keyctl, [0, 0, 0, 0, 0, 0]),
        Attempt::SetUid => call(libc::SYS_setuid, [0, 0, 0, 0, 0, 0]),
        Attempt::Sigaction => call(libc::SYS_rt_sigaction, [libc::SIGSYS as u64, page, 0, 8, 0, 0]),
        Attempt::Prctl => call(libc::SYS_prctl, [libc::PR_SET_TSC as u64, 1, 0, 0, 0, 0]),
        Attempt::ForeignAbi => foreign_abi(),
        Attempt::UnknownNumber => call(1023, [1, 2, 3, 4, 5, 6]),
    }
}

/// Zeroes in a page of their own: an argument that points at readable memory.
#[repr(align(4096))]
struct Zeroes(#[expect(dead_code, reason = "only its address is used")] [u8; 4096]);
static PAGE: Zeroes = Zeroes([0; 4096]);

fn raw(number: i64, args: [u64; 6]) -> Result<(), i32> {
    let [a, b, c, d, e, f] = args;
    // SAFETY: every call above points at nothing but static memory, and none makes existing memory invalid: a forked
    // child leaves at once, and a page made executable stays readable.
    let answer = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if answer == 0 && number == libc::SYS_clone {
        exit_group(0);
    }
    if answer < 0 { Err(io::Error::last_os_error().raw_os_error().unwrap_or(0)) } else { Ok(()) }
}

/// A call by the 32-bit gate: the same numbers mean other calls there, which a careless filter lets through.
#[cfg(target_arch = "x86_64")]
fn foreign_abi() -> Result<(), i32> {
    let answer: i64;
    // SAFETY: int 0x80 with number 20 is getpid of the 32-bit table: it takes nothing and clobbers only rax (and r8 to
    // r11 on some kernels, which are declared).
    unsafe {
        std::arch::asm!(
            "int 0x80",
            inlateout("rax") 20i64 => answer,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    if answer < 0 { Err(i32::try_from(-answer).unwrap_or(0)) } else { Ok(()) }
}

/// A 64-bit program cannot make 32-bit calls on arm64: there is nothing to try.
#[cfg(target_arch = "aarch64")]
fn foreign_abi() -> Result<(), i32> {
    Err(libc::ENOSYS)
}
