// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Between clone and exec, in the new process: the steps that make the sandbox, in their order.
//!
//! Everything here is async-signal-safe: system calls on values prepared before clone, no allocation, no lock, no
//! panic. The first failure is written to the pipe and ends the process. In a sealed caller all of it runs under the
//! caller's seccomp filter (`profiles::coordinator`, "spawn_child_half").

use std::convert::Infallible;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::Signal;
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::record::{Record, RecordKind};
use super::{Identity, Step};
use crate::fds::Table;
use crate::profile::{Limits, RootKind};
use crate::{limits, root, sys};

/// All that the child needs, made ready by the parent.
pub(super) struct Plan<'a> {
    pub(super) program: BorrowedFd<'a>,
    pub(super) argv: sys::Argv<'a>,
    pub(super) table: Table,
    pub(super) limits: Limits,
    pub(super) root: RootKind,
    pub(super) identity: Identity,
    pub(super) errors: BorrowedFd<'a>,
    pub(super) errors_of_parent: BorrowedFd<'a>,
    pub(super) go: BorrowedFd<'a>,
    pub(super) go_of_parent: BorrowedFd<'a>,
}

/// Runs the steps and executes the program. Never returns.
pub(super) fn run(plan: &Plan<'_>) -> ! {
    let mut errors = plan.errors.as_raw_fd();
    sys::report_to_pipe(errors);
    let (step, errno) = match steps(plan, &mut errors) {
        Ok(never) => match never {},
        Err(failure) => failure,
    };
    sys::write_bytes(errors, &Record { step, kind: RecordKind::Errno, value: errno }.encode());
    sys::exit_group(1)
}

fn steps(plan: &Plan<'_>, errors: &mut RawFd) -> Result<Infallible, (Step, i32)> {
    let at = |step: Step| move |errno: Errno| (step, errno.raw_os_error());
    let raw = |step: Step| move |errno: i32| (step, errno);

    // The parent's ends, copied by clone: with them open neither side would see the other's end.
    sys::close_in_child(plan.errors_of_parent.as_raw_fd());
    sys::close_in_child(plan.go_of_parent.as_raw_fd());
    wait_for_go(plan.go).map_err(at(Step::Go))?;
    plan.identity.assume().map_err(at(Step::Identity))?;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(at(Step::ParentDeathSignal))?;
    // The parent may have died just before: then nobody reads the pipe.
    parent_alive(plan.errors).map_err(at(Step::ParentDeathSignal))?;
    rustix::process::setsid().map_err(at(Step::Session))?;

    if plan.root == RootKind::NewEmpty {
        root::build().map_err(|(step, errno)| (step, errno.raw_os_error()))?;
    }

    // The pipe and the program go above the table first; both are close-on-exec there.
    let above = plan.table.count();
    *errors = sys::dup_above(*errors, above).map_err(raw(Step::Descriptors))?;
    sys::report_to_pipe(*errors);
    let program = sys::dup_above(plan.program.as_raw_fd(), above).map_err(raw(Step::Descriptors))?;
    plan.table.install().map_err(raw(Step::Descriptors))?;
    limits::set(&plan.limits).map_err(at(Step::Limits))?;
    drop_capabilities().map_err(raw(Step::Capabilities))?;
    rustix::thread::set_no_new_privs(true).map_err(at(Step::NoNewPrivs))?;
    sys::set_signal_mask(&sys::SignalMask::empty());
    sys::write_bytes(*errors, &Record { step: Step::Exec, kind: RecordKind::AboutToExec, value: 0 }.encode());
    Err((Step::Exec, sys::execveat(program, &plan.argv)))
}

/// Waits until the parent has written the id maps. An end of the pipe without a byte means that it gave up or died.
fn wait_for_go(go: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let mut byte = [0u8; 1];
    loop {
        match rustix::io::read(go, &mut byte) {
            Ok(1) => return Ok(()),
            Ok(_) => return Err(Errno::PIPE),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

fn parent_alive(errors: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let mut polled = [PollFd::from_borrowed_fd(errors, PollFlags::empty())];
    rustix::event::poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    let [polled] = polled;
    if polled.revents().contains(PollFlags::ERR) { Err(Errno::PIPE) } else { Ok(()) }
}

/// The bounding set first, for it takes a capability to empty it; then the secure bits, the ambient set, and all.
fn drop_capabilities() -> Result<(), i32> {
    let mut number = 0;
    loop {
        match sys::drop_from_bounding_set(number) {
            Ok(()) => number += 1,
            Err(libc::EINVAL) if number > 0 => break,
            Err(errno) => return Err(errno),
        }
    }
    sys::set_securebits(SECUREBITS)?;
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    rustix::thread::clear_ambient_capability_set().map_err(|errno| errno.raw_os_error())?;
    rustix::thread::set_capabilities(None, sets).map_err(|errno| errno.raw_os_error())
}

/// NOROOT, NO_SETUID_FIXUP and NO_CAP_AMBIENT_RAISE, each with its lock, and the lock of KEEP_CAPS
/// (linux/securebits.h).
const SECUREBITS: u64 = 0b1110_1111;
