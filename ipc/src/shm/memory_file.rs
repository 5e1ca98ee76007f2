// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! New memory files: sealable, closed at exec, and never executable where the kernel can promise that, but for the one
//! kind that is made to be executed.
//!
//! Linux 6.3 brought MFD_NOEXEC_SEAL and MFD_EXEC; on an older kernel files are made without either, which the
//! seccomp filters allow on such a kernel only. Called by `region`, and by the launcher and the coordinator for files
//! whose size is not fixed yet.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::Errno;

/// Makes an empty memory file. `name` shows up in `/proc/PID/maps`.
///
/// # Errors
/// The kernel's: out of memory or of fds.
pub fn create(name: &str) -> rustix::io::Result<OwnedFd> {
    create_as(name, MemfdFlags::NOEXEC_SEAL)
}

/// As [`create`], one for a program.
///
/// # Errors
/// As [`create`]'s; or the host lets nobody execute memory files.
pub fn create_executable(name: &str) -> rustix::io::Result<OwnedFd> {
    create_as(name, MemfdFlags::EXEC)
}

fn create_as(name: &str, kind: MemfdFlags) -> rustix::io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match memfd_create(name, flags | kind) {
        // The kernel does not know the flag: whether it is executed is not the file's to say.
        Err(Errno::INVAL) => memfd_create(name, flags),
        made => made,
    }
}

/// Seals a memory file against every change, for good: of its bytes, of its length, of its seals.
///
/// # Errors
/// The kernel's: it cannot be sealed, or is mapped for writing.
pub fn seal(file: impl AsFd) -> rustix::io::Result<()> {
    fcntl_add_seals(file, SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
}

#[cfg(test)]
mod tests {
    use rustix::fs::{SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate};
    use rustix::io::{Errno, pwrite};

    use super::{create, create_executable, seal};

    #[test]
    fn file_is_empty_and_can_be_sealed() {
        let file = create("test").unwrap();
        assert_eq!(fstat(&file).unwrap().st_size, 0);
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::SEAL).unwrap();
        let seals = fcntl_get_seals(&file).unwrap();
        assert!(seals.contains(SealFlags::SHRINK | SealFlags::SEAL));
        // The seal that forbids execution comes with the file, or not at all.
        const SEAL_EXEC: u32 = 0x20;
        assert_eq!(fstat(&file).unwrap().st_mode & 0o111 == 0, seals.bits() & SEAL_EXEC != 0);
    }

    #[test]
    fn file_for_a_program_can_be_executed_and_a_sealed_one_is_changed_by_nobody() {
        let file = create_executable("test").unwrap();
        assert_eq!(fstat(&file).unwrap().st_mode & 0o111, 0o111);
        pwrite(&file, b"xy", 0).unwrap();
        seal(&file).unwrap();
        assert_eq!(pwrite(&file, b"z", 0), Err(Errno::PERM));
        assert_eq!([1, 3].map(|len| ftruncate(&file, len)), [Err(Errno::PERM); 2]);
        assert_eq!(seal(&file), Err(Errno::PERM), "nor are its seals");
    }
}
