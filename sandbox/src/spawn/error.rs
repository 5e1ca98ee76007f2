// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What can go wrong in `spawn`, step by step, with what to do about it.
//!
//! The child can only send two numbers through a pipe, so a step is a number and an error is an errno; the words
//! are put together here, in the parent.

use std::fmt;
use std::io;

use crate::profile::Arch;
use crate::syscalls;

/// A step of starting a process, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[expect(missing_docs, reason = "`Step::what` says it of each")]
pub enum Step {
    Plan = 1,
    Program,
    Pipes,
    Clone,
    IdMaps,
    Go,
    Identity,
    ParentDeathSignal,
    Session,
    PrivateMounts,
    RootFilesystem,
    RootMount,
    PivotRoot,
    DetachOldRoot,
    WorkingDirectory,
    Descriptors,
    Limits,
    Capabilities,
    NoNewPrivs,
    Exec,
    Unknown,
    Cgroup,
}

const ALL: [Step; 22] = [
    Step::Plan,
    Step::Program,
    Step::Pipes,
    Step::Clone,
    Step::IdMaps,
    Step::Go,
    Step::Identity,
    Step::ParentDeathSignal,
    Step::Session,
    Step::PrivateMounts,
    Step::RootFilesystem,
    Step::RootMount,
    Step::PivotRoot,
    Step::DetachOldRoot,
    Step::WorkingDirectory,
    Step::Descriptors,
    Step::Limits,
    Step::Capabilities,
    Step::NoNewPrivs,
    Step::Exec,
    Step::Unknown,
    Step::Cgroup,
];

impl Step {
    /// The step of this number; `Unknown` for any other.
    pub(super) fn from_number(number: u8) -> Step {
        ALL.into_iter().find(|step| *step as u8 == number).unwrap_or(Step::Unknown)
    }

    /// What the step does, in words.
    pub fn what(self) -> &'static str {
        match self {
            Step::Plan => "checking the descriptor table",
            Step::Program => "checking the program",
            Step::Pipes => "making the start pipes",
            Step::Clone => "cloning into new user, mount, pid, network, IPC and UTS namespaces",
            Step::IdMaps => "writing the id maps of the new user namespace",
            Step::Go => "waiting for the parent's go",
            Step::Identity => "becoming an unprivileged user",
            Step::ParentDeathSignal => "tying the process to its parent's life",
            Step::Session => "starting a session of its own",
            Step::PrivateMounts => "making mounts private",
            Step::RootFilesystem => "making the empty root file system",
            Step::RootMount => "mounting the empty root",
            Step::PivotRoot => "pivoting into the empty root",
            Step::DetachOldRoot => "detaching the old root",
            Step::WorkingDirectory => "entering the empty root",
            Step::Descriptors => "arranging the descriptors",
            Step::Limits => "setting resource limits",
            Step::Capabilities => "dropping capabilities",
            Step::NoNewPrivs => "forbidding new privileges",
            Step::Exec => "executing the program",
            Step::Cgroup => "entering its control group",
            Step::Unknown => "preparing the new process",
        }
    }
}

/// Why a step failed.
#[derive(Debug)]
pub enum Cause {
    /// The kernel refused.
    Os(io::Error),
    /// The caller's own seccomp filter refused this system call.
    Denied(u32),
    /// It was found out before or after, in words.
    Text(String),
}

impl From<rustix::io::Errno> for Cause {
    fn from(errno: rustix::io::Errno) -> Cause {
        Cause::Os(errno.into())
    }
}

/// A process that was not started. None is left behind.
#[derive(Debug)]
pub struct SpawnError {
    /// The step that failed.
    pub step: Step,
    /// The role.
    pub profile: &'static str,
    /// Why.
    pub cause: Cause,
}

impl SpawnError {
    /// The errno, where the kernel gave one.
    pub fn errno(&self) -> Option<i32> {
        match &self.cause {
            Cause::Os(error) => error.raw_os_error(),
            Cause::Denied(_) | Cause::Text(_) => None,
        }
    }

    /// The likely reason and what to do about it.
    fn advice(&self) -> Option<&'static str> {
        match (self.step, self.errno()) {
            (Step::Clone, Some(libc::ENOSPC)) => Some(
                "user namespaces are switched off or used up, or nested 32 deep: raise `sysctl user.max_user_namespaces` \
                 (and max_pid_namespaces, max_mnt_namespaces, max_net_namespaces)",
            ),
            (Step::Clone, Some(libc::EPERM)) => Some(
                "unprivileged user namespaces are forbidden here: `sysctl kernel.unprivileged_userns_clone=1` (Debian), \
                 `sysctl kernel.apparmor_restrict_unprivileged_userns=0` or an AppArmor profile for this program (Ubuntu), \
                 in a container allow clone in its seccomp profile; nor can it be done from inside a chroot",
            ),
            (Step::Clone, Some(libc::EINVAL)) => Some(
                "the kernel is built without one of the namespaces (CONFIG_USER_NS, PID_NS, NET_NS, IPC_NS, UTS_NS)",
            ),
            (Step::Clone, Some(libc::EAGAIN)) => {
                Some("the limit of processes is reached (`ulimit -u`, pids cgroup)")
            }
            (Step::IdMaps, _) => Some(
                "/proc must be mounted for this pid namespace, and root must be able to map the id that the process takes, \
                 65534 unless it has one of its own (in a container: have that id mapped), or run as an ordinary user; an \
                 ordinary user's ids of its own need lines in /etc/subuid and /etc/subgid, and newuidmap",
            ),
            (Step::Cgroup, Some(libc::EACCES | libc::EPERM)) => Some(
                "the control group must be delegated to this user together with the one that this program was started in \
                 (start it by `systemd-run --user --scope -p Delegate=yes`, for instance)",
            ),
            (
                Step::RootFilesystem | Step::RootMount | Step::PrivateMounts,
                Some(libc::EPERM | libc::EACCES),
            ) => Some(
                "mounting is forbidden in user namespaces here: `sysctl kernel.apparmor_restrict_unprivileged_userns=0` \
                 or an AppArmor profile for this program (Ubuntu), or start it outside of another sandbox",
            ),
            (Step::RootFilesystem, Some(libc::ENOSYS)) => Some("Linux 5.2 or newer is needed for fsopen"),
            (Step::PivotRoot, Some(libc::EINVAL)) => Some(
                "the root directory must be a mount point: not a chroot, and not the initial ramfs (switch_root first)",
            ),
            (Step::Descriptors, Some(libc::EMFILE)) => Some("raise the limit of open files (`ulimit -n`)"),
            (Step::Exec, Some(libc::ENOEXEC | libc::ENOENT)) => {
                Some("the program must be a static executable")
            }
            (Step::Exec, Some(libc::EACCES)) => Some(
                "the program must be executable by the user it runs as, on a file system that is not noexec",
            ),
            (Step::Go | Step::ParentDeathSignal, Some(libc::EPIPE)) => Some("the parent ended meanwhile"),
            _ => None,
        }
    }
}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` was not started: {} failed: ", self.profile, self.step.what())?;
        match &self.cause {
            Cause::Os(error) => write!(f, "{error}")?,
            Cause::Denied(number) => {
                let name = syscalls::name(*number, Arch::host()).unwrap_or("a call without a name");
                write!(f, "the caller's own seccomp filter refused {name} (number {number})")?;
            }
            Cause::Text(text) => f.write_str(text)?,
        }
        self.advice().map_or(Ok(()), |advice| write!(f, "; {advice}"))
    }
}

impl std::error::Error for SpawnError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.cause {
            Cause::Os(error) => Some(error),
            Cause::Denied(_) | Cause::Text(_) => None,
        }
    }
}
