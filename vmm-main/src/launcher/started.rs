// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Notifies, once, that the guest runs: the service manager (`sd_notify`(3)), and the command that detached this
//! launcher and waits for it.

use std::env;
use std::io::{self, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use rustix::fs::{Mode, OFlags, open};
use rustix::stdio::{dup2_stderr, dup2_stdout};

/// What the service manager sets: a path, or `@` and an abstract name.
const MANAGER: &str = "NOTIFY_SOCKET";
/// What the waiting command reads: its other end of the pipe is standard output.
pub const RUNNING: &[u8] = b"running\n";

/// Who waits.
#[derive(Debug)]
pub struct Started {
    is_detached: bool,
    told: bool,
}

impl Started {
    /// Standard output is read by the command that waits, if the launcher `is_detached`.
    pub const fn new(is_detached: bool) -> Self {
        Self { is_detached, told: false }
    }

    /// Notifies that the guest runs, the first time that it is called.
    ///
    /// # Errors
    /// If the command that detached this launcher has ended.
    pub fn tell(&mut self) -> io::Result<()> {
        if std::mem::replace(&mut self.told, true) {
            return Ok(());
        }
        // A service manager that cannot be notified reports a start that took too long.
        let _ = tell_manager();
        if self.is_detached {
            io::stdout().write_all(RUNNING)?;
            io::stdout().flush()?;
            // Whoever waits for the ends of these descriptors does not wait for the VM.
            let null = open("/dev/null", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
            dup2_stdout(&null)?;
            dup2_stderr(&null)?;
        }
        Ok(())
    }
}

fn tell_manager() -> io::Result<()> {
    let Some(name) = env::var_os(MANAGER) else { return Ok(()) };
    let address = match name.to_str().and_then(|name| name.strip_prefix('@')) {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(&name)?,
    };
    UnixDatagram::unbound()?.send_to_addr(b"READY=1", &address).map(drop)
}
