// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Raw process calls: clone into namespaces, execveat, dup onto a number, close-on-exec ranges.
//!
//! All are async-signal-safe: they make one system call and touch no lock and no allocator. `spawn::child` calls most
//! of them between clone and exec; `locked` the last few. Manual pages: clone(2), execveat(2), close_range(2).

use std::ffi::{CStr, c_char};
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// The flags a process is started with: namespaces of its own, a pidfd, SIGCHLD at its end. In a register, where a
/// filter can hold them against exactly this value.
pub(crate) const SPAWN_FLAGS: u64 = (libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_PIDFD
    | libc::SIGCHLD) as u64;

/// Starts a process that runs `child(plan)` on a copy of this memory and never returns. `child` must do only what is
/// async-signal-safe: other threads of this process may have held any lock. Returns its pid and pidfd.
pub(crate) fn clone_process<P>(plan: &P, child: fn(&P) -> !) -> io::Result<(i32, OwnedFd)> {
    let mut pidfd: RawFd = -1;
    // SAFETY: without CLONE_VM the child has its own copy of all memory, so a null stack (continue on the copy of
    // this one) is right; `pidfd` is a live i32 that the kernel writes in the parent.
    let pid = unsafe { libc::syscall(libc::SYS_clone, SPAWN_FLAGS, 0usize, &raw mut pidfd, 0usize, 0usize) };
    match i32::try_from(pid) {
        Ok(0) => child(plan),
        Ok(pid) if pid > 0 => {
            // SAFETY: clone succeeded with CLONE_PIDFD, so the kernel stored a new descriptor that nobody else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok((pid, pidfd))
        }
        _ => Err(io::Error::last_os_error()),
    }
}

/// Executes the program behind `program` with an empty environment. Returns only the errno of a failure.
/// `argv` ends with a null pointer and the strings live in `words`.
pub(crate) fn execveat(program: RawFd, argv: &Argv) -> i32 {
    let environment: [*const c_char; 1] = [std::ptr::null()];
    // SAFETY: the path is a static C string, both vectors are null-terminated, and `Argv` keeps the strings alive.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program,
            c"".as_ptr(),
            argv.pointers.as_ptr(),
            environment.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    errno()
}

/// An argument vector made ready before clone.
pub(crate) struct Argv<'a> {
    pointers: Vec<*const c_char>,
    _words: &'a [&'a CStr],
}

impl<'a> Argv<'a> {
    pub(crate) fn new(words: &'a [&'a CStr]) -> Argv<'a> {
        let pointers = words.iter().map(|word| word.as_ptr()).chain([std::ptr::null()]).collect();
        Argv { pointers, _words: words }
    }
}

/// Makes `target` a duplicate of `source`, not close-on-exec, closing what `target` was.
pub(crate) fn dup_onto(source: RawFd, target: RawFd) -> Result<(), i32> {
    // SAFETY: dup3 takes two numbers. It is called between clone and exec only, where no Rust value that owns
    // `target` is ever used or dropped again.
    check(unsafe { libc::syscall(libc::SYS_dup3, source, target, 0) })
}

/// A close-on-exec duplicate of `source` at number `at_least` or above.
pub(crate) fn dup_above(source: RawFd, at_least: RawFd) -> Result<RawFd, i32> {
    // SAFETY: F_DUPFD_CLOEXEC takes a number and changes no existing descriptor.
    let fd = unsafe { libc::fcntl(source, libc::F_DUPFD_CLOEXEC, at_least) };
    if fd < 0 { Err(errno()) } else { Ok(fd) }
}

/// Marks every descriptor from `first` on close-on-exec.
pub(crate) fn close_on_exec_from(first: u32) -> Result<(), i32> {
    // SAFETY: with this flag close_range closes nothing; it sets a flag on descriptors.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) })
}

/// Whether the number `fd` is an open descriptor.
pub(crate) fn is_open(fd: RawFd) -> bool {
    // SAFETY: F_GETFD only reads a flag of whatever the number is.
    unsafe { libc::fcntl(fd, libc::F_GETFD) >= 0 }
}

/// Makes an inherited number an owned descriptor; the caller takes each number once, before anything else is opened.
pub(crate) fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: the caller found the number open and takes it once in the life of the process, so nobody else owns it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Takes capability `number` out of the bounding set; EINVAL says that there is no such capability.
pub(crate) fn drop_from_bounding_set(number: u32) -> Result<(), i32> {
    // SAFETY: this prctl takes numbers only.
    check(unsafe {
        libc::syscall(libc::SYS_prctl, libc::PR_CAPBSET_DROP, u64::from(number), 0u64, 0u64, 0u64)
    })
}

/// Locks the secure bits: user id 0 is no longer special, and nothing can change that.
pub(crate) fn set_securebits(bits: u64) -> Result<(), i32> {
    // SAFETY: this prctl takes numbers only.
    check(unsafe { libc::syscall(libc::SYS_prctl, libc::PR_SET_SECUREBITS, bits, 0u64, 0u64, 0u64) })
}

/// Ends the process at once, whatever its threads do.
pub(crate) fn exit_group(code: i32) -> ! {
    loop {
        // SAFETY: exit_group takes a number and does not return.
        unsafe { libc::syscall(libc::SYS_exit_group, code) };
    }
}

/// Whether the calling thread is the only one of its process. Needs no /proc: the kernel accepts CLONE_THREAD in
/// unshare, without any effect, precisely from a process with one thread.
pub(crate) fn only_thread() -> bool {
    // SAFETY: unshare(CLONE_THREAD) changes nothing.
    unsafe { libc::syscall(libc::SYS_unshare, libc::CLONE_THREAD) == 0 }
}

/// The Landlock ABI of the running kernel.
pub(crate) fn landlock_abi() -> io::Result<u32> {
    // SAFETY: with a null attribute, size 0 and the version flag the call only answers a number.
    let abi =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0usize, 1u32) };
    u32::try_from(abi).map_err(|_| io::Error::last_os_error())
}

/// Keeps the C library's allocator to its main arena. With more it opens files when threads meet in malloc: one under
/// /proc when an arena shrinks, one under /sys to count CPUs (glibc 2.39 and later); a sealed process may not. Small
/// blocks come from per-thread caches all the same.
pub(crate) fn one_arena() {
    // SAFETY: mallopt with M_ARENA_MAX stores a number.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// The calling thread's errno.
fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL)
}

fn check(answer: i64) -> Result<(), i32> {
    if answer < 0 { Err(errno()) } else { Ok(()) }
}

/// Writes a short record to a descriptor of this process; between clone and exec, where a failure cannot be reported.
pub(crate) fn write_bytes(fd: RawFd, bytes: &[u8]) {
    // SAFETY: the kernel reads `bytes.len()` bytes of a live slice.
    unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
}

/// Closes a number; between clone and exec only, where no Rust value that owns it is ever used or dropped again.
pub(crate) fn close_in_child(fd: RawFd) {
    // SAFETY: see above; a bad number is only an error that does not matter.
    unsafe { libc::close(fd) };
}
