// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The empty root: made between clone and exec where the profile says so, verified before sealing by everyone.
//!
//! It is a tmpfs of one inode, read-only twice (superblock and mount), nosuid, nodev, noexec. The old root is
//! detached, so nothing of the host's tree can be named. mount_setattr(2), pivot_root(2).

use rustix::fs::{CWD, Mode, OFlags, StatVfsMountFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount_change, move_mount,
    unmount,
};

use crate::profile::RootKind;
use crate::spawn::Step;

/// Builds the root and moves into it. Async-signal-safe: system calls only.
pub fn build() -> Result<(), (Step, Errno)> {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change(c"/", private).map_err(|errno| (Step::PrivateMounts, errno))?;

    let filesystem = || -> rustix::io::Result<_> {
        let context = fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        // One inode is the root directory itself: no file could be made even if it became writable.
        fsconfig_set_string(&context, c"nr_inodes", c"1")?;
        fsconfig_set_string(&context, c"size", c"4096")?;
        fsconfig_set_string(&context, c"mode", c"0555")?;
        fsconfig_set_flag(&context, c"ro")?;
        fsconfig_create(&context)?;
        let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
            | MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
    };
    let root = filesystem().map_err(|errno| (Step::RootFilesystem, errno))?;
    move_mount(&root, c"", CWD, c"/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(|errno| (Step::RootMount, errno))?;
    rustix::process::fchdir(&root).map_err(|errno| (Step::RootMount, errno))?;
    // The old root is put over the new one and taken away again: no directory is needed to hold it.
    rustix::process::pivot_root(c".", c".").map_err(|errno| (Step::PivotRoot, errno))?;
    unmount(c".", UnmountFlags::DETACH).map_err(|errno| (Step::DetachOldRoot, errno))?;
    rustix::process::chdir(c"/").map_err(|errno| (Step::WorkingDirectory, errno))
}

/// The size of an empty directory in tmpfs: "." and "..", 20 bytes each.
const EMPTY_TMPFS_DIR_LEN: i64 = 40;
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// What is wrong with this process's root, which should be empty, read-only and its working directory.
pub fn verify(kind: RootKind) -> Result<(), String> {
    let failed = |what: &str, errno: Errno| format!("{what}: {errno}");
    let path = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, c"/", path, Mode::empty())
        .map_err(|errno| failed("cannot look at the root", errno))?;
    let here = rustix::fs::openat(CWD, c".", path, Mode::empty())
        .map_err(|errno| failed("cannot look at `.`", errno))?;
    let stat = rustix::fs::fstat(&root).map_err(|errno| failed("cannot stat the root", errno))?;
    let cwd = rustix::fs::fstat(&here).map_err(|errno| failed("cannot stat `.`", errno))?;
    if (stat.st_dev, stat.st_ino) != (cwd.st_dev, cwd.st_ino) {
        return Err("the working directory is not the root".to_owned());
    }
    let magic = rustix::fs::fstatfs(&root).map_err(|errno| failed("cannot statfs the root", errno))?.f_type;
    if magic != TMPFS_MAGIC || stat.st_nlink != 2 || stat.st_size != EMPTY_TMPFS_DIR_LEN {
        return Err(format!(
            "the root is not an empty tmpfs (file system 0x{magic:x}, {} links, {} bytes)",
            stat.st_nlink, stat.st_size
        ));
    }
    let flags = rustix::fs::fstatvfs(&root).map_err(|errno| failed("cannot statvfs the root", errno))?.f_flag;
    let needed = StatVfsMountFlags::RDONLY
        | StatVfsMountFlags::NOSUID
        | StatVfsMountFlags::NODEV
        | StatVfsMountFlags::NOEXEC;
    if !flags.contains(needed) {
        return Err(format!("the root's mount flags are {flags:?}, and must contain {needed:?}"));
    }
    let listed =
        rustix::fs::openat(CWD, c"/", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    match (kind, listed) {
        (RootKind::NewEmpty, Ok(root)) => only_dots(&root),
        (RootKind::NewEmpty, Err(errno)) => Err(failed("cannot list the root", errno)),
        // The parent's Landlock is already in force: that it refuses is what is expected.
        (RootKind::Inherited, Err(Errno::ACCESS)) => Ok(()),
        (RootKind::Inherited, Err(errno)) => {
            Err(failed("the root refuses for a reason that is not Landlock", errno))
        }
        (RootKind::Inherited, Ok(_)) => {
            Err("the parent is not under Landlock: the root can be listed".to_owned())
        }
    }
}

fn only_dots(root: &std::os::fd::OwnedFd) -> Result<(), String> {
    let mut buffer = [std::mem::MaybeUninit::uninit(); 1024];
    let mut entries = rustix::fs::RawDir::new(root, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry.map_err(|errno| format!("cannot list the root: {errno}"))?;
        if entry.file_name() != c"." && entry.file_name() != c".." {
            return Err(format!("the root is not empty: it has {:?}", entry.file_name()));
        }
    }
    Ok(())
}
