// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The path of a listening Unix socket: bound, replaced if it has no listener any more, removed by its owner.
//!
//! A path that a user gave, or that an earlier run left, may hold anything. Only sockets are removed: one that refuses
//! connections, or the caller's own. So that this holds at the moment of removal, the file is renamed to a name that is
//! not used otherwise, checked there, and put back if it is another one. Used by the launcher, and by programs that
//! serve without a VM.

use std::fs::{self, Metadata};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{CWD, Mode, RenameFlags, fchmod, renameat_with};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind as bind_address, connect, listen,
    socket_with,
};
use thiserror::Error;

/// How often a path that changes meanwhile is checked again.
const ATTEMPTS: u32 = 8;

/// Clients that may wait to be accepted; the kernel's own limit may be lower.
const BACKLOG: i32 = 128;

/// Why a path cannot be bound. Whatever was there is still there.
#[derive(Debug, Error)]
pub enum BindError {
    /// It has a listener, or may have one.
    #[error("the socket {0:?} is in use by another process")]
    InUse(PathBuf),
    /// It is not a socket.
    #[error("{path:?} exists and is {kind}, which is not replaced by a socket: give a path that is free")]
    NotASocket {
        /// Where the socket was to be.
        path: PathBuf,
        /// The type of the file.
        kind: &'static str,
    },
    /// The host refused.
    #[error("the socket {path:?} cannot be made: {step}: {source}")]
    Host {
        /// Where the socket was to be.
        path: PathBuf,
        /// What failed, as a verb phrase.
        step: &'static str,
        /// The reason.
        source: io::Error,
    },
}

/// The identity of a file, which differs from that of a later file with the same inode number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
    /// When it was made: a socket's mtime never changes.
    made: (i64, i64),
}

impl FileId {
    fn of(metadata: &Metadata) -> Self {
        let made = (metadata.mtime(), metadata.mtime_nsec());
        Self { device: metadata.dev(), inode: metadata.ino(), made }
    }
}

/// The file of a socket that this process bound. It is removed when this is dropped, if it is still there.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    id: FileId,
}

impl SocketFile {
    /// Where clients connect.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // A file that cannot be removed is replaced by the next bind, as one without a listener.
        let _ = remove(&self.path, self.id, |_| true);
    }
}

/// Listens on `path`, whose file gets `mode` without the bits of the umask. A socket without a listener is replaced.
///
/// # Errors
/// If it has a listener, the path is not a socket, or the host refuses.
pub fn bind(path: &Path, mode: u32) -> Result<(UnixListener, SocketFile), BindError> {
    let host = |step| move |source: io::Error| BindError::Host { path: path.to_owned(), step, source };
    for _ in 0..ATTEMPTS {
        match listening(path, mode) {
            Ok(socket) => {
                let id = FileId::of(&fs::symlink_metadata(path).map_err(host("look at it"))?);
                return Ok((UnixListener::from(socket), SocketFile { path: path.to_owned(), id }));
            }
            Err(Errno::ADDRINUSE) => {}
            Err(errno) => return Err(host("bind")(errno.into())),
        }
        let found = match fs::symlink_metadata(path) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(host("look at what is there")(error)),
        };
        if !found.file_type().is_socket() {
            return Err(BindError::NotASocket { path: path.to_owned(), kind: kind(&found) });
        }
        if !is_dead(path) {
            return Err(BindError::InUse(path.to_owned()));
        }
        remove(path, FileId::of(&found), is_dead).map_err(host("replace one that nobody listens on"))?;
    }
    Err(BindError::InUse(path.to_owned()))
}

fn listening(path: &Path, mode: u32) -> Result<OwnedFd, Errno> {
    let address = SocketAddrUnix::new(path)?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // The file has this mode from the beginning.
    fchmod(&socket, Mode::from_raw_mode(mode))?;
    bind_address(&socket, &address)?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Whether the socket at `path` refuses connections. In doubt it is taken for alive: a full backlog, a socket of
/// another type, one of another user.
fn is_dead(path: &Path) -> bool {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let Ok(address) = SocketAddrUnix::new(path) else { return false };
    let Ok(socket) = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None) else { return false };
    connect(socket.as_fd(), &address) == Err(Errno::CONNREFUSED)
}

/// Removes the socket at `path` if it is the one called `id` and `still` holds for it. Anything else stays, and is no
/// error.
fn remove(path: &Path, id: FileId, still: impl Fn(&Path) -> bool) -> io::Result<()> {
    let is_meant = |path: &Path| {
        let found = fs::symlink_metadata(path);
        found.is_ok_and(|found| found.file_type().is_socket() && FileId::of(&found) == id)
    };
    // If it is another one this mostly shows before it is moved.
    if !is_meant(path) {
        return Ok(());
    }
    let aside = aside(path);
    match renameat_with(CWD, path, CWD, &aside, RenameFlags::NOREPLACE) {
        Ok(()) => {}
        Err(Errno::NOENT) => return Ok(()),
        // A file system without this kind of rename, such as NFS: another file may take the path before the removal.
        Err(Errno::INVAL | Errno::NOSYS) => {
            return if still(path) && is_meant(path) { fs::remove_file(path) } else { Ok(()) };
        }
        Err(errno) => return Err(errno.into()),
    }
    if is_meant(&aside) && still(&aside) {
        return fs::remove_file(&aside);
    }
    renameat_with(CWD, &aside, CWD, path, RenameFlags::NOREPLACE).map_err(|errno| {
        let kept = format!("what was there is now {}: {errno}", aside.display());
        io::Error::new(io::Error::from(errno).kind(), kept)
    })
}

/// An unused name in the same folder, short enough for a socket address.
fn aside(path: &Path) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    path.with_file_name(format!(".{:x}-{number:x}", std::process::id()))
}

fn kind(metadata: &Metadata) -> &'static str {
    let file_type = metadata.file_type();
    match () {
        () if file_type.is_file() => "a regular file",
        () if file_type.is_dir() => "a folder",
        () if file_type.is_symlink() => "a symbolic link",
        () if file_type.is_fifo() => "a FIFO",
        () => "a device",
    }
}

#[cfg(test)]
mod tests;
