// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Attempts on the sandbox, made from inside a sealed process on request. Debug builds only.
//!
//! Each attempt is one thing a taken-over process would try. It is either refused with an errno or ends the process
//! with a report; `Outcome::Succeeded` is a hole. Used by the isolation tests through the control channel.

use std::fmt;

use crate::sys::probe as calls;

/// Something a taken-over process would try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[expect(missing_docs, reason = "`Attempt::name` says it of each")]
pub enum Attempt {
    OpenRoot,
    OpenForWriting,
    Truncate,
    SocketInet,
    SocketUnix,
    Execve,
    Fork,
    NewUserNamespace,
    Clone3,
    Ptrace,
    ProcessVmWrite,
    ForeignIoctl,
    InputInjection,
    MmapExec,
    MprotectExec,
    MmapSharedMemory,
    MmapPrivateFile,
    MmapBelow,
    MremapOver,
    MuchMemory,
    MuchAddressSpace,
    FarWrite,
    ExecutableMemoryFile,
    FutexLendingPriority,
    RawPair,
    Mount,
    Unshare,
    Setns,
    KillOther,
    SignalSelf,
    Bpf,
    IoUring,
    PerfEvent,
    Userfaultfd,
    Keyctl,
    SetUid,
    Sigaction,
    Prctl,
    ForeignAbi,
    UnknownNumber,
}

/// Every attempt.
pub const ALL: [Attempt; 40] = [
    Attempt::OpenRoot,
    Attempt::OpenForWriting,
    Attempt::Truncate,
    Attempt::SocketInet,
    Attempt::SocketUnix,
    Attempt::Execve,
    Attempt::Fork,
    Attempt::NewUserNamespace,
    Attempt::Clone3,
    Attempt::Ptrace,
    Attempt::ProcessVmWrite,
    Attempt::ForeignIoctl,
    Attempt::InputInjection,
    Attempt::MmapExec,
    Attempt::MprotectExec,
    Attempt::MmapSharedMemory,
    Attempt::MmapPrivateFile,
    Attempt::MmapBelow,
    Attempt::MremapOver,
    Attempt::MuchMemory,
    Attempt::MuchAddressSpace,
    Attempt::FarWrite,
    Attempt::ExecutableMemoryFile,
    Attempt::FutexLendingPriority,
    Attempt::RawPair,
    Attempt::Mount,
    Attempt::Unshare,
    Attempt::Setns,
    Attempt::KillOther,
    Attempt::SignalSelf,
    Attempt::Bpf,
    Attempt::IoUring,
    Attempt::PerfEvent,
    Attempt::Userfaultfd,
    Attempt::Keyctl,
    Attempt::SetUid,
    Attempt::Sigaction,
    Attempt::Prctl,
    Attempt::ForeignAbi,
    Attempt::UnknownNumber,
];

/// What came of an attempt that the process survived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The kernel refused, with this errno.
    Refused(i32),
    /// It worked: a hole.
    Succeeded,
}

impl Attempt {
    /// Its name, for commands and reports.
    pub fn name(self) -> &'static str {
        match self {
            Attempt::OpenRoot => "open-root",
            Attempt::OpenForWriting => "open-for-writing",
            Attempt::Truncate => "truncate",
            Attempt::SocketInet => "socket-inet",
            Attempt::SocketUnix => "socket-unix",
            Attempt::Execve => "execve",
            Attempt::Fork => "fork",
            Attempt::NewUserNamespace => "new-user-namespace",
            Attempt::Clone3 => "clone3",
            Attempt::Ptrace => "ptrace",
            Attempt::ProcessVmWrite => "process-vm-write",
            Attempt::ForeignIoctl => "foreign-ioctl",
            Attempt::InputInjection => "input-injection",
            Attempt::MmapExec => "mmap-exec",
            Attempt::MprotectExec => "mprotect-exec",
            Attempt::MmapSharedMemory => "mmap-shared-memory",
            Attempt::MmapPrivateFile => "mmap-private-file",
            Attempt::MmapBelow => "mmap-below",
            Attempt::MremapOver => "mremap-over",
            Attempt::MuchMemory => "much-memory",
            Attempt::MuchAddressSpace => "much-address-space",
            Attempt::FarWrite => "far-write",
            Attempt::ExecutableMemoryFile => "executable-memory-file",
            Attempt::FutexLendingPriority => "futex-lending-priority",
            Attempt::RawPair => "raw-pair",
            Attempt::Mount => "mount",
            Attempt::Unshare => "unshare",
            Attempt::Setns => "setns",
            Attempt::KillOther => "kill-other",
            Attempt::SignalSelf => "signal-self",
            Attempt::Bpf => "bpf",
            Attempt::IoUring => "io-uring",
            Attempt::PerfEvent => "perf-event",
            Attempt::Userfaultfd => "userfaultfd",
            Attempt::Keyctl => "keyctl",
            Attempt::SetUid => "set-uid",
            Attempt::Sigaction => "sigaction",
            Attempt::Prctl => "prctl",
            Attempt::ForeignAbi => "foreign-abi",
            Attempt::UnknownNumber => "unknown-number",
        }
    }

    /// The attempt of this name.
    pub fn by_name(name: &str) -> Option<Attempt> {
        ALL.into_iter().find(|attempt| attempt.name() == name)
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Makes the attempt. Does not return when the filter ends the process.
pub fn attempt(attempt: Attempt) -> Outcome {
    match calls::make(attempt) {
        Ok(()) => Outcome::Succeeded,
        Err(errno) => Outcome::Refused(errno),
    }
}
