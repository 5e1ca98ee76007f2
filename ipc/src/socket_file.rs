// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The path of a listening Unix socket: bound, replaced when nobody listens on it any more, removed by its owner.
//!
//! A path that a user gave, or that an earlier run left behind, may hold anything by now. Nothing is ever removed but a
//! socket, and only the very one that was meant: a dead one that still refuses connections at that moment, or the
//! caller's own. To make that hold at the moment of removal and not a moment before, the file is moved aside first,
//! looked at under a name that nobody else uses, and put back if it is another. Used by whatever binds a path: the
//! launcher, and programs that serve by themselves.

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

/// How often a path that changes under us is looked at anew.
const ATTEMPTS: u32 = 8;

/// Clients that may wait to be accepted; the kernel's own limit may be lower.
const BACKLOG: i32 = 128;

/// Why a path cannot be bound. Whatever was there is still there.
#[derive(Debug, Error)]
pub enum BindError {
    /// Somebody listens on it, or may.
    #[error("the socket {0:?} is in use by another process")]
    InUse(PathBuf),
    /// It holds something else.
    #[error("{path:?} exists and is {kind}, which is not replaced by a socket: give a path that is free")]
    NotASocket {
        /// The path.
        path: PathBuf,
        /// What is there.
        kind: &'static str,
    },
    /// The host said no.
    #[error("the socket {path:?} cannot be made: {step}: {source}")]
    Host {
        /// The path.
        path: PathBuf,
        /// What was tried.
        step: &'static str,
        /// The reason.
        source: io::Error,
    },
}

/// What tells one file from another, also from one that got the same inode number after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
    /// A socket's data never changes: this is when it was made.
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
        // A file that cannot be removed is found dead by the next who wants the path.
        let _ = remove(&self.path, self.id, |_| true);
    }
}

/// Listens on `path`, whose file gets `mode` without the bits of the umask. A socket that nobody listens on is
/// replaced.
///
/// # Errors
/// If somebody listens on it, something else has the path, or the host refuses.
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
    // The file gets the socket's mode: at no time another.
    fchmod(&socket, Mode::from_raw_mode(mode))?;
    bind_address(&socket, &address)?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Whether the socket at `path` refuses to be connected to. What cannot be told is taken for alive: a full backlog, a
/// socket of another type, one of another user.
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
    // In most cases that it is another one, it need not be moved to see that.
    if !is_meant(path) {
        return Ok(());
    }
    let aside = aside(path);
    match renameat_with(CWD, path, CWD, &aside, RenameFlags::NOREPLACE) {
        Ok(()) => {}
        Err(Errno::NOENT) => return Ok(()),
        // A file system without this kind of rename, NFS for one: between the look and the removal there is a moment.
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

/// A name in the same folder that nobody else uses, and short: it must not be longer than an address may be.
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
