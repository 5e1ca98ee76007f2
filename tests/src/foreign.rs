// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Third-party vfio-user servers: the example of the `vfio_user` crate, a GPIO card, and a sample of the reference
//! library libvfio-user, the same card with an I/O BAR.
//!
//! `cargo xtask interop --fetch` builds the first from the crate registry into the cache. It serves one client, writes
//! what it is asked to its log, and ends with exit code 0 when the client has gone. The sample is in no registry:
//! [`SERVERS`] says where it was built. It waits for the next client. Our own NVMe controller can be such a server too.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::leftovers::{Leftovers, Scope};
use crate::{places, processes};

/// The package of the crate registry.
pub const PACKAGE: &str = "vfio_user";
/// Its example, and the name of the program.
pub const EXAMPLE: &str = "gpio";

/// The variable that names the folder of the reference library's samples.
pub const SERVERS: &str = "BULKHEAD_SERVERS";
/// Its GPIO card.
const SAMPLE: &str = "gpio-pci-idio-16";

/// How long the server may take to listen, or to end, on a slow and busy machine.
const SOON: Duration = Duration::from_secs(60);

/// The folder in the cache that it is installed into.
pub fn root() -> PathBuf {
    places::cache().join("vfio-user-server")
}

/// The program, if it is there.
pub fn program() -> Option<PathBuf> {
    Some(root().join("bin").join(EXAMPLE)).filter(|program| program.is_file())
}

/// Why it is missing, and what brings it.
pub fn missing() -> String {
    format!("the example server of {PACKAGE} is not built (`cargo xtask interop --fetch` brings it)")
}

/// The sample, or why it is not there.
pub fn sample() -> Result<PathBuf, String> {
    let program = std::env::var_os(SERVERS).map(|folder| Path::new(&folder).join(SAMPLE));
    program
        .filter(|program| program.is_file())
        .ok_or_else(|| format!("{SERVERS} names no folder with libvfio-user's sample `{SAMPLE}`"))
}

/// The server, running.
pub struct Server {
    child: Child,
    socket: PathBuf,
    log: PathBuf,
}

impl Server {
    /// Starts `program` with its socket and log in `folder`; returns as soon as it listens.
    pub fn start(program: &Path, folder: &Path) -> Result<Self> {
        Self::start_with(program, &["--socket-path"], folder)
    }

    /// Starts libvfio-user's sample, verbose, with its socket and log in `folder`.
    pub fn start_sample(program: &Path, folder: &Path) -> Result<Self> {
        Self::start_with(program, &["-v"], folder)
    }

    /// `words` go before the socket's path.
    fn start_with(program: &Path, words: &[&str], folder: &Path) -> Result<Self> {
        let (socket, log) = (folder.join("server.sock"), folder.join("server.log"));
        let errors = File::create(&log).context("the foreign server's log")?;
        let child = Command::new(program)
            .args(words)
            .arg(&socket)
            .env("RUST_LOG", "info")
            .stderr(errors)
            .spawn()
            .with_context(|| format!("{} did not start", program.display()))?;
        let server = Self { child, socket, log };
        let deadline = Instant::now() + SOON;
        while !server.socket.exists() {
            if Instant::now() >= deadline {
                bail!("the foreign server does not listen: {}", server.log());
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(server)
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// What it has written.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits for its end.
    pub fn wait_exit(&mut self) -> Result<ExitStatus> {
        let deadline = Instant::now() + SOON;
        loop {
            if let Some(status) = self.child.try_wait().context("the foreign server cannot be waited for")? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                bail!("the foreign server does not end: {}", self.log());
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already: nothing else can fail here.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `bulkhead-nvme` over an image, for any client.
#[derive(Debug)]
pub struct Nvme {
    child: Child,
    scope: Scope,
    before: Leftovers,
}

impl Nvme {
    /// Starts it from this folder of programs; returns as soon as it listens.
    pub fn start(programs: &Path, image: &Path, socket: &Path) -> Result<Self> {
        let scope = Scope { programs: programs.to_path_buf(), sockets: "/nonexistent".into() };
        let before = scope.present();
        let mut command = Command::new(programs.join("bulkhead-nvme"));
        let child = command.arg("--image").arg(image).arg("--socket-path").arg(socket).spawn();
        let nvme = Self { child: child.context("bulkhead-nvme did not start")?, scope, before };
        let deadline = Instant::now() + SOON;
        // Its sealed process is there, too: who looks at what runs before a machine begins must see it.
        while !socket.exists() || processes::of(nvme.child.id()).len() < 2 {
            if Instant::now() >= deadline {
                bail!("bulkhead-nvme does not listen");
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(nvme)
    }

    /// Ends it, and says what of it is left after `limit`.
    pub fn end(mut self, limit: Duration) -> Vec<String> {
        self.kill();
        self.scope.beyond(&self.before, limit)
    }

    /// By a signal that it cannot see: its client finds the connection closed.
    pub fn kill(&mut self) {
        // One that ended already is not there to be killed: nothing else can fail here.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Nvme {
    fn drop(&mut self) {
        self.kill();
    }
}
