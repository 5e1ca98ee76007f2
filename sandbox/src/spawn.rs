// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Parent half: a new process in new namespaces, with exactly the given descriptors, and nothing else.
//!
//! Callers: the launcher, for the coordinator (`RootKind::NewEmpty`), and the sealed coordinator, for all others
//! (`RootKind::Inherited`). Call it from a thread that lives as long as the child should: the child is
//! killed when that thread ends. All of it succeeds or no process is left: there is no weaker sandbox.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{Signal, WaitId, WaitIdOptions};

use crate::fds::Table;
use crate::names::Names;
use crate::profile::Profile;
use crate::{elf, sys};

mod child;
mod error;
mod identity;
mod record;

pub use error::{Cause, SpawnError, Step};
use identity::Identity;
pub use identity::UNPRIVILEGED_ID;
pub(crate) use identity::maps_one_id;
pub(crate) use record::denied_record;
use record::{RECORD_LEN, Record, RecordKind};

/// A process to be started. Its environment is empty.
#[derive(Clone, Copy, Debug)]
pub struct Spawn<'a> {
    /// The program: a static executable, open for reading.
    pub program: BorrowedFd<'a>,
    /// Its arguments, the program's name first. The names of its descriptors follow them.
    pub argv: &'a [&'a CStr],
    /// What it finds open, numbered 0, 1, 2, ... in this order: (name there, descriptor here).
    pub fds: &'a [(String, BorrowedFd<'a>)],
    /// Its rights.
    pub profile: &'a Profile,
    /// A user and group id of the host for it and what it starts, if there is one. Only where the caller may map it:
    /// for a profile with a root of its own.
    pub own_id: Option<u32>,
    /// The file `cgroup.procs` of a control group that it is to be in before it does anything.
    pub cgroup: Option<BorrowedFd<'a>>,
}

/// A process that was started. Dropping it does not end the process.
#[derive(Debug)]
pub struct Child {
    /// Readable when the process has ended. Close-on-exec.
    pub pidfd: OwnedFd,
    /// Its number in the caller's pid namespace.
    pub pid: i32,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It called exit with this code. A process that died of a denied call ends with [`crate::report::EXIT_DENIED`].
    Code(i32),
    /// A signal ended it.
    Signal(i32),
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Exit::Code(crate::report::EXIT_DENIED) => f.write_str("it ended itself after a refused system call"),
            Exit::Code(code) => write!(f, "exit code {code}"),
            // With its reporter in place a sealed process never dies of this signal but for a call of another ABI.
            Exit::Signal(libc::SIGSYS) => f.write_str(
                "SIGSYS: its parent's seccomp filter refused a call before its own reporter was in place, or it made a \
                 call of another ABI",
            ),
            Exit::Signal(libc::SIGKILL) => f.write_str("SIGKILL: killed, by its supervisor or for want of memory"),
            Exit::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// A process on its way to its program: whether it gets there is only known when it is finished. Dropping it does not
/// end the process.
#[derive(Debug)]
#[must_use]
pub struct Starting {
    child: Child,
    /// What it says until it has executed its program.
    errors: OwnedFd,
    profile: &'static str,
}

impl Starting {
    /// Waits until the program has been executed, with all of its sandbox in place. On failure no process is left.
    pub fn finish(self) -> Result<Child, SpawnError> {
        match outcome(&self.errors, &self.child) {
            Ok(()) => Ok(self.child),
            Err((step, cause)) => Err(SpawnError { step, profile: self.profile, cause }),
        }
    }
}

impl Spawn<'_> {
    /// Starts the process. When this returns `Ok` the program has been executed, with all of its sandbox in place.
    pub fn spawn(&self) -> Result<Child, SpawnError> {
        self.begin()?.finish()
    }

    /// Starts the process, and does not wait for its steps: several can be on their way at once.
    pub fn begin(&self) -> Result<Starting, SpawnError> {
        let failed = |step, cause| SpawnError { step, profile: self.profile.name, cause };
        elf::check(self.program).map_err(|why| failed(Step::Program, Cause::Text(why.to_string())))?;
        let plan = |why: String| failed(Step::Plan, Cause::Text(why));
        let names = Names::new(self.fds.iter().map(|(name, _)| name.clone()));
        let names = names.map_err(|why| plan(why.to_string()))?;
        let names = names.to_args().map_err(|why| plan(why.to_string()))?;
        let argv: Vec<&CStr> = self.argv.iter().copied().chain(names.iter().map(AsRef::as_ref)).collect();
        let table = Table::new(self.fds.iter().map(|(_, fd)| *fd)).map_err(plan)?;
        let identity = Identity::of_caller(self.profile.root, self.own_id);
        let pipes = || {
            rustix::pipe::pipe_with(PipeFlags::CLOEXEC)
                .map_err(|errno| failed(Step::Pipes, Cause::from(errno)))
        };
        let (errors, errors_of_child) = pipes()?;
        let (go_of_child, go) = pipes()?;
        let plan = child::Plan {
            program: self.program,
            argv: sys::Argv::new(&argv),
            table,
            limits: self.profile.limits,
            root: self.profile.root,
            identity,
            errors: errors_of_child.as_fd(),
            errors_of_parent: errors.as_fd(),
            go: go_of_child.as_fd(),
            go_of_parent: go.as_fd(),
        };
        let mask = sys::block_signals();
        let cloned = sys::clone_process(&plan, child::run);
        sys::set_signal_mask(&mask);
        let (pid, pidfd) = cloned.map_err(|error| failed(Step::Clone, Cause::Os(error)))?;
        let child = Child { pidfd, pid };
        drop((errors_of_child, go_of_child));

        let goes = identity
            .write_maps(pid)
            .map_err(|error| (Step::IdMaps, Cause::Os(error)))
            .and_then(|()| self.enter_cgroup(pid).map_err(|errno| (Step::Cgroup, Cause::from(errno))))
            .and_then(|()| rustix::io::write(&go, &[1]).map_err(|errno| (Step::Go, Cause::from(errno))));
        if let Err((step, cause)) = goes {
            // It waits to go. Each fails only for a process that is gone.
            let _ = child.kill().and_then(|()| child.wait());
            return Err(failed(step, cause));
        }
        Ok(Starting { child, errors, profile: self.profile.name })
    }

    /// Puts the process, which waits, into its control group.
    fn enter_cgroup(&self, pid: i32) -> rustix::io::Result<()> {
        let Some(file) = self.cgroup else { return Ok(()) };
        rustix::io::write(file, pid.to_string().as_bytes()).map(drop)
    }
}

/// Reads what the child says until it has executed its program. On failure no process is left.
fn outcome(errors: &OwnedFd, child: &Child) -> Result<(), (Step, Cause)> {
    let mut reached_exec = false;
    let failure = loop {
        let mut record = [0u8; RECORD_LEN];
        let mut polled = [PollFd::new(errors, PollFlags::IN)];
        match rustix::event::poll(&mut polled, Some(&DEADLINE)) {
            Ok(0) => {
                break (Step::Unknown, Cause::Text("the new process did not reach exec in 10 s".to_owned()));
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => break (Step::Unknown, Cause::from(errno)),
        }
        match rustix::io::read(errors, &mut record) {
            Ok(RECORD_LEN) => match Record::decode(record) {
                Record { kind: RecordKind::AboutToExec, .. } => reached_exec = true,
                Record { kind: RecordKind::Denied, step, value } => {
                    break (step, Cause::Denied(value.cast_unsigned()));
                }
                Record { kind: RecordKind::Errno, step, value } => {
                    break (step, Cause::Os(std::io::Error::from_raw_os_error(value)));
                }
            },
            Ok(0) if reached_exec => return Ok(()),
            Ok(_) => break (Step::Unknown, Cause::Text("the new process died before exec".to_owned())),
            Err(Errno::INTR) => {}
            Err(errno) => break (Step::Unknown, Cause::from(errno)),
        }
    };
    // Nothing may stay behind: neither a process nor a zombie.
    let ended = child.kill().and_then(|()| child.wait());
    match (failure, ended) {
        ((Step::Unknown, Cause::Text(text)), Ok(exit)) => {
            Err((Step::Unknown, Cause::Text(format!("{text} ({exit:?})"))))
        }
        (failure, _) => Err(failure),
    }
}

/// Enough for a host under heavy load; the steps themselves take about a millisecond.
const DEADLINE: rustix::event::Timespec = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };

impl Child {
    /// Kills the process, and with it all below it. Not an error when it has ended already.
    pub fn kill(&self) -> std::io::Result<()> {
        match rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Waits until the process has ended and reaps it.
    pub fn wait(&self) -> std::io::Result<Exit> {
        loop {
            match self.reap(WaitIdOptions::EXITED) {
                Ok(Some(exit)) => return Ok(exit),
                Ok(None) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Reaps the process if it has ended; None while it runs. Never blocks: for callers that wait on `pidfd`.
    pub fn try_wait(&self) -> std::io::Result<Option<Exit>> {
        Ok(self.reap(WaitIdOptions::EXITED | WaitIdOptions::NOHANG)?)
    }

    fn reap(&self, options: WaitIdOptions) -> rustix::io::Result<Option<Exit>> {
        let status = rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), options)?;
        Ok(status.and_then(|status| {
            status.exit_status().map(Exit::Code).or_else(|| status.terminating_signal().map(Exit::Signal))
        }))
    }
}

#[cfg(test)]
mod tests;
