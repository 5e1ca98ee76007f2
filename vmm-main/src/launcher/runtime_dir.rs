// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The folder of control sockets: `$XDG_RUNTIME_DIR/bulkhead`, or `/run/bulkhead` for root, or
//! `/tmp/bulkhead-UID`. Mode 0700 and ours, or it is not used: what is in it commands VMs.
//!
//! A VM is represented by its control socket, `NAME.sock`; one whose console is a socket has `NAME.console` beside it.
//! A socket without a listener is replaced, anything else is left alone, and at its end a VM removes its own sockets
//! only ([`ipc::socket_file`]).

use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use ipc::socket_file::{self, BindError, SocketFile};

use crate::printable;
use crate::problem::{Class, Problem};

/// `sun_path` has 108 bytes, the last one zero.
const SOCKET_PATH_LEN_MAX: usize = 107;
/// Mode of the socket: a process that may connect controls the VM.
const SOCKET_MODE: u32 = 0o600;

/// An existing, private folder for sockets.
#[derive(Debug, Clone)]
pub struct RuntimeDir {
    path: PathBuf,
}

impl RuntimeDir {
    /// The folder of this user's VMs, made if it is not there yet. For the launcher.
    pub fn open() -> Result<Self, Problem> {
        let uid = rustix::process::geteuid().as_raw();
        Self::at(path_for(uid), uid)
    }

    /// The folder as a client finds it: nothing is created, and root may use any user's.
    pub fn find() -> Result<Self, Problem> {
        let uid = rustix::process::geteuid().as_raw();
        let path = path_for(uid);
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_dir() && (metadata.uid() == uid || uid == 0) => Ok(Self { path }),
            Ok(_) => Err(Problem::host(
                "the runtime folder belongs to somebody else",
                printable::path(&path),
                "set XDG_RUNTIME_DIR to the folder that the VM was started with",
            )),
            Err(error) => Err(Problem::new(
                Class::Unreachable,
                format!("no VM runs: {error}"),
                printable::path(&path),
                "start one with `bulkhead run`, or set XDG_RUNTIME_DIR as it was when it was started",
            )),
        }
    }

    /// Opens the folder at `path`, which must be owned by and private to `uid`.
    pub fn at(path: PathBuf, uid: u32) -> Result<Self, Problem> {
        let place = printable::path(&path);
        let refused = |error: std::io::Error| {
            Problem::host(
                format!("the runtime folder cannot be used: {error}"),
                place.clone(),
                "set XDG_RUNTIME_DIR to a folder of your own",
            )
            .because_of(&error)
        };
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(refused(error)),
        }
        // Not following links: in /tmp another user may have created one.
        let metadata = fs::symlink_metadata(&path).map_err(refused)?;
        if !metadata.is_dir() || metadata.uid() != uid || metadata.mode() & 0o077 != 0 {
            return Err(Problem::host(
                "the runtime folder is not a folder that belongs to this user alone",
                place,
                "remove it, or make it yours with mode 0700, or set XDG_RUNTIME_DIR",
            ));
        }
        Ok(Self { path })
    }

    /// The path of the socket of the VM called `name`.
    pub fn socket_path(&self, name: &str) -> PathBuf {
        self.path.join(format!("{name}.sock"))
    }

    /// The path of the log of the VM called `name`, while its guest has the terminal.
    pub fn log_path(&self, name: &str) -> PathBuf {
        self.path.join(format!("{name}.log"))
    }

    /// The path of the socket of its console, where it has one.
    pub fn console_path(&self, name: &str) -> PathBuf {
        self.path.join(format!("{name}.console"))
    }

    /// Where the ids of VMs are locked (`ids`).
    pub fn locks(&self) -> PathBuf {
        self.path.join("ids")
    }

    /// The names of all sockets, dead ones included, in order.
    pub fn names(&self) -> Result<Vec<String>, Problem> {
        let entries = fs::read_dir(&self.path).map_err(|error| {
            Problem::host(
                format!("the runtime folder cannot be listed: {error}"),
                printable::path(&self.path),
                "check the folder's owner and mode",
            )
            .because_of(&error)
        })?;
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter_map(|file| file.strip_suffix(".sock").map(str::to_owned))
            .collect();
        names.sort_unstable();
        Ok(names)
    }

    /// Binds the control socket of the VM called `name`: replaces a dead one, refuses if a live VM has it.
    pub fn bind(&self, name: &str) -> Result<ControlSocket, Problem> {
        let path = self.socket_path(name);
        let (listener, file) = listen(&path, name)?;
        listener
            .set_nonblocking(true)
            .map_err(|error| cannot_be_made("set non-blocking", &error, printable::path(&path)))?;
        Ok(ControlSocket { listener, path, files: vec![file] })
    }

    /// Binds the socket of the console of the VM called `name`, which has this control socket.
    pub fn bind_console(&self, name: &str, control: &mut ControlSocket) -> Result<UnixListener, Problem> {
        let (listener, file) = listen(&self.console_path(name), name)?;
        control.files.push(file);
        Ok(listener)
    }
}

fn listen(path: &Path, name: &str) -> Result<(UnixListener, SocketFile), Problem> {
    let place = printable::path(path);
    if path.as_os_str().len() > SOCKET_PATH_LEN_MAX {
        return Err(Problem::usage(
            format!("the socket's path is longer than {SOCKET_PATH_LEN_MAX} bytes"),
            place,
            "give a shorter --name, or set XDG_RUNTIME_DIR to a shorter path",
        ));
    }
    socket_file::bind(path, SOCKET_MODE).map_err(|error| match error {
        BindError::InUse(_) => Problem::new(
            Class::State,
            format!("a VM called {name:?} is already running"),
            place.clone(),
            "give another --name, or stop it with `bulkhead stop`",
        ),
        BindError::NotASocket { kind, .. } => Problem::host(
            format!("the socket's path is taken by {kind}"),
            place.clone(),
            "move it away, or give another --name",
        ),
        BindError::Host { step, source, .. } => cannot_be_made(step, &source, place.clone()),
    })
}

/// The process at the other end of a client's socket, if it is this user's or root's: checked where user ids are the
/// host's.
pub fn may_connect(client: BorrowedFd<'_>) -> Option<i32> {
    let peer = rustix::net::sockopt::socket_peercred(client).ok()?;
    let allowed = peer.uid == rustix::process::geteuid() || peer.uid.is_root();
    allowed.then(|| peer.pid.as_raw_nonzero().get())
}

fn cannot_be_made(step: &str, error: &std::io::Error, place: String) -> Problem {
    Problem::host(
        format!("the socket cannot be made: {step}: {error}"),
        place,
        "check the folder's owner and mode, and the space on its file system",
    )
    .because_of(error)
}

fn path_for(uid: u32) -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty()) {
        Some(base) => PathBuf::from(base).join("bulkhead"),
        None if uid == 0 => PathBuf::from("/run/bulkhead"),
        None => PathBuf::from(format!("/tmp/bulkhead-{uid}")),
    }
}

/// The bound socket; its file goes with it, and that of the console.
#[derive(Debug)]
pub struct ControlSocket {
    /// The listener for clients.
    pub listener: UnixListener,
    path: PathBuf,
    files: Vec<SocketFile>,
}

impl ControlSocket {
    /// Where clients connect.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Frees the name for the next VM. Open connections stay.
    pub fn release(&mut self) {
        self.files.clear();
    }
}

#[cfg(test)]
mod tests;
