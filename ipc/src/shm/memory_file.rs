// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! New memory files: sealable, closed at exec, and never executable where the kernel can promise that.
//!
//! Linux 6.3 brought MFD_NOEXEC_SEAL; on an older kernel files are made without it, which the seccomp filters allow on
//! such a kernel only. Called by `region`, and by the launcher and the coordinator for files whose size is not fixed
//! yet.

use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;

/// Makes an empty memory file. `name` shows up in `/proc/PID/maps`.
///
/// # Errors
/// The kernel's: out of memory or of fds.
pub fn create(name: &str) -> rustix::io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
        // The kernel does not know the flag.
        Err(Errno::INVAL) => memfd_create(name, flags),
        made => made,
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{SealFlags, fcntl_add_seals, fcntl_get_seals, fstat};

    use super::create;

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
}
