// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Stopping another process for a moment to read its seccomp filters: ptrace(2), PTRACE_SECCOMP_GET_FILTER.
//!
//! The process is seized, which sends it no signal, interrupted, and let go on. Should this process die meanwhile, the
//! kernel lets the other one go on.

use std::io;
use std::ptr;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Linux, include/uapi/linux/ptrace.h.
const PTRACE_SECCOMP_GET_FILTER: libc::c_uint = 0x420c;
/// How long a process may take to stop: one that waits in the kernel for a device may take for ever.
const STOP_SPAN: Duration = Duration::from_secs(2);
/// Between two looks at whether it has stopped.
const LOOK_INTERVAL: Duration = Duration::from_micros(50);

/// A process that stands still, until this is dropped.
pub(crate) struct Stopped {
    pid: libc::pid_t,
}

impl Stopped {
    /// Stops the main thread of process `pid`.
    pub(crate) fn new(pid: libc::pid_t) -> io::Result<Stopped> {
        // SAFETY: PTRACE_SEIZE takes a number and options; no memory of ours is touched.
        check(unsafe {
            libc::ptrace(libc::PTRACE_SEIZE, pid, ptr::null_mut::<u8>(), ptr::null_mut::<u8>())
        })?;
        let stopped = Stopped { pid };
        // SAFETY: PTRACE_INTERRUPT takes a number; no memory of ours is touched.
        check(unsafe {
            libc::ptrace(libc::PTRACE_INTERRUPT, pid, ptr::null_mut::<u8>(), ptr::null_mut::<u8>())
        })?;
        let until = Instant::now() + STOP_SPAN;
        loop {
            let mut status = 0;
            // SAFETY: `status` is a live integer that the kernel writes.
            match unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL | libc::WNOHANG) } {
                0 if Instant::now() >= until => return Err(io::ErrorKind::TimedOut.into()),
                0 => sleep(LOOK_INTERVAL),
                -1 => return Err(io::Error::last_os_error()),
                _ if libc::WIFSTOPPED(status) && status >> 16 == libc::PTRACE_EVENT_STOP => {
                    return Ok(stopped);
                }
                // A signal of the process's own came first: it gets that, and the stop is still to come.
                _ if libc::WIFSTOPPED(status) => stopped.go_on(libc::WSTOPSIG(status))?,
                _ => return Err(io::Error::from_raw_os_error(libc::ESRCH)),
            }
        }
    }

    /// Lets it go on with a signal.
    fn go_on(&self, signal: libc::c_int) -> io::Result<()> {
        // SAFETY: PTRACE_CONT takes two numbers; no memory of ours is touched.
        check(unsafe { libc::ptrace(libc::PTRACE_CONT, self.pid, ptr::null_mut::<u8>(), signal) })
    }

    /// Its filter of this number, each instruction as the kernel has it; none: it has fewer.
    pub(crate) fn filter(&self, number: usize) -> io::Result<Option<Vec<u64>>> {
        let ask = |buffer: *mut u64| {
            // SAFETY: with a null pointer the kernel only counts; else `buffer` has room for all instructions of this
            // filter, of which there are as many as were counted: the process stands still.
            unsafe { libc::ptrace(PTRACE_SECCOMP_GET_FILTER, self.pid, number, buffer) }
        };
        let len = match usize::try_from(ask(ptr::null_mut())) {
            Ok(len) => len,
            Err(_) => {
                let error = io::Error::last_os_error();
                return if error.raw_os_error() == Some(libc::ENOENT) { Ok(None) } else { Err(error) };
            }
        };
        // A `struct sock_filter` has eight bytes.
        let mut instructions = vec![0u64; len];
        check(ask(instructions.as_mut_ptr()))?;
        Ok(Some(instructions))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // SAFETY: PTRACE_DETACH takes a number; no memory of ours is touched. If the process has not stopped the
        // kernel refuses, and lets it go when this one ends.
        let gone = unsafe {
            libc::ptrace(libc::PTRACE_DETACH, self.pid, ptr::null_mut::<u8>(), ptr::null_mut::<u8>())
        };
        if gone < 0 {
            // It may have ended: its parent is told when we have been.
            // SAFETY: without a place for the status the kernel writes nothing.
            unsafe { libc::waitpid(self.pid, ptr::null_mut(), libc::__WALL | libc::WNOHANG) };
        }
    }
}

fn check(answer: libc::c_long) -> io::Result<()> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
