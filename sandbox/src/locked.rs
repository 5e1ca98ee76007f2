// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Child half: verify what `spawn` prepared, install Landlock and the filters, and prove it with a [`Locked`].
//!
//! A service loop takes a `Locked`, and only [`seal`] makes one, so a process that is not sealed cannot serve.
//! Call it first thing in `main`: one thread, and only the descriptors given at exec. The order matters: what
//! needs a path or a listing is verified before Landlock, handlers are installed before the filter
//! forbids changing them, and the filter comes last.

use std::fmt;
use std::os::fd::BorrowedFd;

use rustix::process::DumpableBehavior;
use rustix::thread::CapabilitySet;

use crate::landlock::LandlockError;
use crate::memory_file::MemoryFiles;
use crate::names::Names;
use crate::profile::Profile;
use crate::report::CrashPage;
use crate::seccomp::{self, CompileError};
use crate::sys::{self, Page};
use crate::{fds, landlock, limits, report, root};

/// Proof that this process is sealed, and what is enforced.
#[derive(Debug)]
pub struct Locked {
    enforced: Enforced,
}

impl Locked {
    /// What is in force.
    pub fn enforced(&self) -> &Enforced {
        &self.enforced
    }
}

/// What is in force in a sealed process, as it verified itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enforced {
    /// Name of the profile.
    pub profile: &'static str,
    /// The ABI all of whose rights are denied: the kernel's own, or the newest we know.
    pub landlock_abi: u32,
    /// The kernel's own.
    pub landlock_abi_kernel: u32,
    /// How many system calls the filter lets through, some only with certain arguments.
    pub syscall_count: usize,
    /// Instructions of the rules' filter.
    pub filter_len: usize,
    /// Descriptors found open, exactly 0 to this.
    pub fd_count: u32,
    /// Programs it may start; nothing else can be executed.
    pub program_count: usize,
    /// Which memory files it may make; None: none at all.
    pub memory_files: Option<MemoryFiles>,
    /// Bytes of writable memory of its own that it may have.
    pub data_len: u64,
    /// Bytes of address space; of the largest file that it may write.
    pub machine_limits: [Option<u64>; 4],
}

impl Enforced {
    /// One line each, for logs and for the `Sealed` event.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![
            format!("profile {}", self.profile),
            format!("descriptors 0..{} and no other", self.fd_count),
            "root empty, read-only".to_owned(),
            "pid 1 of its own pid namespace, not dumpable, no new privileges, no capabilities".to_owned(),
            format!(
                "seccomp allows {} calls ({} instructions), traps all else",
                self.syscall_count, self.filter_len
            ),
            format!(
                "Landlock denies all that ABI {} can deny (kernel {}), but executing {} given programs",
                self.landlock_abi, self.landlock_abi_kernel, self.program_count
            ),
        ];
        let mib =
            |len: Option<u64>| len.map_or_else(|| "no limit".to_owned(), |len| format!("{} MiB", len >> 20));
        let [address, file, descriptors, threads] = self.machine_limits;
        let count =
            |count: Option<u64>| count.map_or_else(|| "no limit".to_owned(), |count| count.to_string());
        lines.push(format!(
            "memory of its own at most {}, with all that it maps {}; files at most {}; descriptors below {}, threads at most {}",
            mib(Some(self.data_len)),
            mib(address),
            mib(file),
            count(descriptors),
            count(threads)
        ));
        let gap = |gap: &landlock::Gap| {
            format!(
                "Landlock ABI {} does not deny {}; denied instead by: {}",
                self.landlock_abi, gap.what, gap.wall
            )
        };
        lines.extend(landlock::gaps(self.landlock_abi).map(gap));
        lines.push(
            match self.memory_files {
                None => "no memory files can be made",
                Some(MemoryFiles::NeverExecutable) => "memory files it makes are never executable",
                Some(MemoryFiles::Executable) => {
                    "memory files it makes can be executed, for this kernel has no MFD_NOEXEC_SEAL (Linux 6.3); what it \
                     would execute stays under these filters, namespaces and Landlock rules, without privileges"
                }
            }
            .to_owned(),
        );
        lines
    }
}

/// The step of sealing that failed.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum SealError {
    #[error("sealing, descriptors: {0}")]
    Descriptors(String),
    #[error("sealing, threads: another thread is already running; seal before starting any")]
    Threads,
    #[error("sealing, pid namespace: this is process {0} and not 1 of its own namespace")]
    PidNamespace(i32),
    #[error("sealing, limits: RLIMIT_{0} is higher than the profile says")]
    Limits(&'static str),
    #[error("sealing, root: {0}")]
    Root(String),
    #[error("sealing, profile: it is for {0}")]
    OtherArch(crate::profile::Arch),
    #[error("sealing, crash page: {0}")]
    CrashPage(rustix::io::Errno),
    #[error("sealing, signal handlers: {0}")]
    Handlers(std::io::Error),
    #[error("sealing, dumpable: {0}")]
    Dumpable(rustix::io::Errno),
    #[error("sealing, no_new_privs: {0}")]
    NoNewPrivs(rustix::io::Errno),
    #[error("sealing, capabilities: {0}")]
    Capabilities(String),
    #[error("sealing, programs: profile `{0}` may not execute any")]
    Programs(&'static str),
    #[error("sealing, Landlock: {0}")]
    Landlock(#[from] LandlockError),
    #[error("sealing, seccomp: {0}")]
    Compile(#[from] CompileError),
    #[error("sealing, seccomp: the kernel refused the filter: {0}")]
    Seccomp(#[from] seccompiler::Error),
}

/// Seals this process, which was given descriptors of these names at exec, numbered in their order, and no other.
/// `page` is the crash page among them; its descriptor stays open, because the process's memory map and not the number
/// is what counts. Rules about descriptors get their numbers here, where the profile has none yet.
///
/// After this no thread may ask for the number of CPUs (`available_parallelism` opens files), no path exists, and any
/// call outside the profile ends the process with a report.
pub fn seal(profile: &Profile, names: &Names, page: CrashPage) -> Result<Locked, SealError> {
    seal_to_spawn(profile, names, page, &[])
}

/// As [`seal`], for a process that starts others: it may execute `programs`, and no other file.
pub fn seal_to_spawn(
    profile: &Profile,
    names: &Names,
    page: CrashPage,
    programs: &[BorrowedFd<'_>],
) -> Result<Locked, SealError> {
    if !programs.is_empty() && profile.rule("execveat").is_none() {
        return Err(SealError::Programs(profile.name));
    }
    if profile.arch != crate::profile::Arch::host() {
        return Err(SealError::OtherArch(profile.arch));
    }
    // Compiled first: a failure leaves nothing half done.
    let profile = &profile.clone().with_numbers(|slot| names.number_of(slot).into_iter().collect());
    let filters = seccomp::compile(profile)?;
    let fd_count = names.count();
    fds::verify(fd_count).map_err(SealError::Descriptors)?;
    if !sys::only_thread() {
        return Err(SealError::Threads);
    }
    let pid = rustix::process::getpid().as_raw_nonzero().get();
    if pid != 1 {
        return Err(SealError::PidNamespace(pid));
    }
    if let Some(name) = limits::first_too_high(&profile.limits) {
        return Err(SealError::Limits(name));
    }
    let machine_limits = limits::of_machine();
    root::verify(profile.root).map_err(SealError::Root)?;

    let mapped = Page::map(rustix::fd::AsFd::as_fd(&page)).map_err(SealError::CrashPage)?;
    // The descriptor stays open, since it is part of the process's table.
    std::mem::forget(page);
    sys::install_handlers().map_err(SealError::Handlers)?;
    report::record_panics(mapped);
    sys::one_arena();

    undumpable()?;
    no_new_privs()?;
    no_capabilities()?;
    let landlock = landlock::deny_all(profile, programs)?;
    seccompiler::apply_filter(&filters.absent)?;
    seccompiler::apply_filter(&filters.rules)?;
    Ok(Locked {
        enforced: Enforced {
            profile: profile.name,
            landlock_abi: landlock.enforced,
            landlock_abi_kernel: landlock.kernel,
            syscall_count: profile.rules.len(),
            filter_len: filters.rules.len(),
            fd_count,
            program_count: programs.len(),
            memory_files: profile.memory_files,
            data_len: profile.limits.data_len,
            machine_limits,
        },
    })
}

fn undumpable() -> Result<(), SealError> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(SealError::Dumpable)?;
    match rustix::process::dumpable_behavior() {
        Ok(DumpableBehavior::NotDumpable) => Ok(()),
        Ok(_) => Err(SealError::Dumpable(rustix::io::Errno::PERM)),
        Err(errno) => Err(SealError::Dumpable(errno)),
    }
}

fn no_new_privs() -> Result<(), SealError> {
    rustix::thread::set_no_new_privs(true).map_err(SealError::NoNewPrivs)?;
    match rustix::thread::no_new_privs() {
        Ok(true) => Ok(()),
        Ok(false) => Err(SealError::NoNewPrivs(rustix::io::Errno::PERM)),
        Err(errno) => Err(SealError::NoNewPrivs(errno)),
    }
}

fn no_capabilities() -> Result<(), SealError> {
    let sets =
        rustix::thread::capabilities(None).map_err(|errno| SealError::Capabilities(errno.to_string()))?;
    for (name, set) in
        [("effective", sets.effective), ("permitted", sets.permitted), ("inheritable", sets.inheritable)]
    {
        if !set.is_empty() {
            return Err(SealError::Capabilities(format!("the {name} set is {set:?} and not empty")));
        }
    }
    // The ambient set is a subset of the permitted one, so it is empty too. The bounding set is asked one by one until
    // the kernel knows no further capability.
    for number in 0..64 {
        match rustix::thread::capability_is_in_bounding_set(CapabilitySet::from_bits_retain(1 << number)) {
            Ok(false) => {}
            Ok(true) => {
                return Err(SealError::Capabilities(format!("number {number} is in the bounding set")));
            }
            Err(_) => break,
        }
    }
    Ok(())
}

impl fmt::Display for Enforced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines().join("; "))
    }
}
