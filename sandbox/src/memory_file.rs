// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Memory files, and whether they can ever be executed: one of two differences between the supported kernels.
//!
//! Linux 6.3 brought MFD_NOEXEC_SEAL: a file made with it is never executable, and the coordinator's profile lets no
//! other be made. On an older kernel the profile has another variant ([`MemoryFiles::Executable`]), chosen here by a
//! probe before sealing, and reported by [`crate::Enforced`]. `THREAT_MODEL.md` has the consequences.

use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::sync::OnceLock;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;

/// The flags of every memory file of ours on any kernel.
pub(crate) const OLD_FLAGS: MemfdFlags = MemfdFlags::CLOEXEC.union(MemfdFlags::ALLOW_SEALING);

/// Whether memory files that a process makes can be executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryFiles {
    /// They are never executable: MFD_NOEXEC_SEAL is demanded of each.
    NeverExecutable,
    /// The kernel is older than that flag: they could be executed by a process that may execute at all.
    Executable,
}

impl MemoryFiles {
    /// What the running kernel offers. Asked once.
    pub fn of_kernel() -> MemoryFiles {
        static ANSWER: OnceLock<MemoryFiles> = OnceLock::new();
        *ANSWER
            .get_or_init(|| of_answer(memfd_create(c"probe", OLD_FLAGS | MemfdFlags::NOEXEC_SEAL).map(drop)))
    }
}

/// Only the kernel's "no such flag" counts as an old kernel. Any other failure is no reason to allow more.
fn of_answer(answer: rustix::io::Result<()>) -> MemoryFiles {
    match answer {
        Err(Errno::INVAL) => MemoryFiles::Executable,
        _ => MemoryFiles::NeverExecutable,
    }
}

/// Makes a memory file that can be sealed, as the running kernel allows.
pub(crate) fn create(name: &CStr) -> rustix::io::Result<OwnedFd> {
    match MemoryFiles::of_kernel() {
        MemoryFiles::NeverExecutable => memfd_create(name, OLD_FLAGS | MemfdFlags::NOEXEC_SEAL),
        MemoryFiles::Executable => memfd_create(name, OLD_FLAGS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_unknown_flag_makes_a_kernel_old() {
        assert_eq!(of_answer(Err(Errno::INVAL)), MemoryFiles::Executable);
        for answer in [Ok(()), Err(Errno::MFILE), Err(Errno::PERM), Err(Errno::ACCESS), Err(Errno::NOSYS)] {
            assert_eq!(of_answer(answer), MemoryFiles::NeverExecutable);
        }
    }

    #[test]
    fn file_is_executable_only_where_the_kernel_is_said_to_be_old() {
        let mode = rustix::fs::fstat(create(c"x").unwrap()).unwrap().st_mode;
        assert_eq!(mode & 0o111 == 0, MemoryFiles::of_kernel() == MemoryFiles::NeverExecutable);
    }
}
