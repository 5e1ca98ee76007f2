// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Sealed copies of files that somebody names: a user, or a coordinator that a guest may have reached.
//!
//! Opening can have effects: a watchdog begins to count down to the reset of the host, a terminal becomes that of a
//! process that had none, a fifo waits for a writer. So what a path leads to is looked at by a descriptor that does not
//! open it (O_PATH), and all that follows, the check of the user's rights too, is about that file, whatever becomes of
//! the path.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use ipc::shm::memory_file;
use rustix::fs::{Access, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

/// Copies the regular file at `path`, for which the user needs the rights `wanted`, into the empty memory file
/// `memory`, and seals that against every change. The bytes do not pass through this process: the kernel copies from
/// file to file.
///
/// # Errors
/// If it is no such file, is empty or longer than `len_max`, or the kernel cannot copy from its file system.
pub fn sealed_copy(path: &Path, wanted: Access, memory: OwnedFd, len_max: u64) -> io::Result<OwnedFd> {
    let file = open(path, wanted)?;
    let too_long = || io::Error::other(format!("it is longer than {} MiB", len_max >> 20));
    if file.metadata()?.len() > len_max {
        return Err(too_long());
    }
    // It may still grow.
    match copy(&file, &memory, len_max + 1)? {
        0 => Err(io::Error::other("it is empty")),
        len if len > len_max => Err(too_long()),
        _ => {
            memory_file::seal(&memory)?;
            Ok(memory)
        }
    }
}

fn open(path: &Path, wanted: Access) -> io::Result<File> {
    let found = rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    if FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("it is not a regular file"));
    }
    // The file itself, and not a way to it.
    let same = PathBuf::from(format!("/proc/self/fd/{}", found.as_raw_fd()));
    rustix::fs::access(&same, wanted)?;
    Ok(File::from(rustix::fs::open(&same, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?))
}

/// Copies up to `len_max` bytes; returns how many it were.
fn copy(from: &File, to: &OwnedFd, len_max: u64) -> io::Result<u64> {
    let mut len = 0;
    while len < len_max {
        let rest = usize::try_from(len_max - len).unwrap_or(usize::MAX);
        match rustix::fs::sendfile(to, from, None, rest) {
            Ok(0) => break,
            Ok(sent) => len += sent as u64,
            Err(Errno::INTR) => {}
            // Not read and written instead: a private key is not to be in this process's memory.
            Err(Errno::INVAL | Errno::NOSYS) => {
                return Err(io::Error::other(
                    "the kernel cannot copy from its file system: put it on another",
                ));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(len)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, PermissionsExt};

    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::pty::{OpenptFlags, openpt, ptsname, unlockpt};

    use super::*;

    fn copied(path: &Path, wanted: Access) -> io::Result<OwnedFd> {
        sealed_copy(path, wanted, memory_file::create("test").unwrap(), 1 << 20)
    }

    #[test]
    fn copy_is_whole_and_sealed_and_what_is_too_long_or_empty_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let bytes: Vec<u8> = (0..=250).cycle().take(1 << 20).collect();
        std::fs::write(&path, &bytes).unwrap();
        let copy = File::from(copied(&path, Access::READ_OK).unwrap());
        let mut read = vec![0; bytes.len()];
        copy.read_exact_at(&mut read, 0).unwrap();
        assert!(read == bytes && copy.metadata().unwrap().len() == 1 << 20);
        assert!(copy.write_at(b"x", 0).is_err() && copy.set_len(0).is_err());
        std::fs::write(&path, [&bytes[..], b"x"].concat()).unwrap();
        assert_eq!(copied(&path, Access::READ_OK).unwrap_err().to_string(), "it is longer than 1 MiB");
        std::fs::write(&path, "").unwrap();
        assert_eq!(copied(&path, Access::READ_OK).unwrap_err().to_string(), "it is empty");
    }

    #[test]
    fn file_that_may_only_be_read_is_no_program() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "x").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let wanted = Access::READ_OK | Access::EXEC_OK;
        assert_eq!(copied(&path, wanted).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        // By a link too, as any path of a user.
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(copied(&link, wanted).is_ok());
    }

    #[test]
    fn what_is_no_regular_file_is_refused_and_never_opened() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, 0o700.into(), 0).unwrap();
        let socket = folder.path().join("socket");
        let _bound = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let pty = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        unlockpt(&pty).unwrap();
        let terminal = ptsname(&pty, Vec::new()).unwrap().into_string().unwrap();
        for path in [folder.path(), &fifo, &socket, Path::new(&terminal)] {
            for wanted in [Access::READ_OK, Access::EXEC_OK] {
                let refused = copied(path, wanted).unwrap_err().to_string();
                assert_eq!(refused, "it is not a regular file", "{}", path.display());
            }
        }
        // A terminal that was opened, and closed again, has hung up.
        let mut master = [PollFd::new(&pty, PollFlags::IN)];
        assert_eq!(poll(&mut master, Some(&Timespec::default())), Ok(0), "{:?}", master[0].revents());
    }
}
