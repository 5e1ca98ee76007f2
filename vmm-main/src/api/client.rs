// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The command line's side of the control API: one request, one answer, one deadline.
//!
//! The answer comes from the sealed coordinator, which a hostile guest may have reached: its size is bounded
//! and what cannot be read as JSON of the right shape is an error, not a crash.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use ipc::protocol::budget;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use super::{passed, server};
use crate::coordinator::spans::STOP_SPAN;
use crate::printable;
use crate::problem::{Class, Problem};

/// Longest answer that is read; a process table of dozens of rows is a tenth of it.
pub const ANSWER_LEN_MAX: usize = 256 * 1024;
/// For a command: a little more than the server allows itself, so that its own error arrives first.
pub const COMMAND_DEADLINE: Duration = budget::sum(&[server::CONNECTION_DEADLINE, budget::SLACK]);
/// For a migration, which takes as long as it takes.
pub const MIGRATION_DEADLINE: Duration = budget::sum(&[server::MIGRATION_DEADLINE, COMMAND_DEADLINE]);
/// For answers from the published snapshot, which need no other process: only the coordinator's thread has to run.
pub const SNAPSHOT_DEADLINE: Duration = Duration::from_secs(5);
/// For the counters of all processes, which are collected concurrently.
pub const INSPECT_DEADLINE: Duration = budget::sum(&[budget::INSPECT, SNAPSHOT_DEADLINE]);
/// For a request to stop, which waits for no other command.
pub const STOP_DEADLINE: Duration = budget::sum(&[STOP_SPAN, SNAPSHOT_DEADLINE]);
/// For a connection to be accepted.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// Between two attempts while the listener's backlog is full: there is no notification when it empties.
const CONNECT_INTERVAL: Duration = Duration::from_millis(50);

/// The problem to report if connecting to the socket at `path` failed.
fn not_connected(error: &io::Error, path: &Path, place: String) -> Problem {
    let name = path.file_stem().map(|name| printable::path(Path::new(name))).unwrap_or_default();
    let (what, advice) = match error.kind() {
        ErrorKind::NotFound => (
            format!("no VM called {name} runs"),
            "check the name, and XDG_RUNTIME_DIR; `bulkhead ps` without a name lists the VMs that run",
        ),
        ErrorKind::ConnectionRefused => (
            format!("the VM called {name} runs no more"),
            "its launcher was killed and left the socket; `bulkhead run` may use the name again",
        ),
        ErrorKind::PermissionDenied => {
            (format!("the VM called {name} is another user's"), "ask that user, or root")
        }
        _ => {
            (format!("no connection to the VM called {name}: {error}"), "look at the `bulkhead run` process")
        }
    };
    Problem::new(Class::Unreachable, what, place, advice).because_of(error)
}

/// An open connection to a VM.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    place: String,
}

impl Client {
    /// Connects to the socket at `path`.
    pub async fn connect(path: &Path) -> Result<Self, Problem> {
        let place = printable::path(path);
        match timeout(CONNECT_DEADLINE, taken(path)).await {
            Ok(Ok(stream)) => Ok(Self { stream, place }),
            Ok(Err(error)) => Err(not_connected(&error, path, place)),
            Err(_) => Err(Problem::new(
                Class::Unreachable,
                "the VM's socket does not accept connections",
                place,
                "its launcher hangs or is stopped: look at the `bulkhead run` process",
            )),
        }
    }

    /// Whether a process listens on the socket at `path`, even if it hangs.
    pub async fn is_listening(path: &Path) -> bool {
        match timeout(CONNECT_DEADLINE, taken(path)).await {
            Ok(connected) => connected.is_ok(),
            Err(_) => true,
        }
    }

    /// The process that listens at the other end, as this process's `/proc` numbers it.
    pub fn launcher_pid(&self) -> Option<i32> {
        let credentials = rustix::net::sockopt::socket_peercred(self.stream.as_fd()).ok()?;
        Some(credentials.pid.as_raw_nonzero().get())
    }

    /// Passes descriptors on, ahead of the request.
    pub async fn pass(&self, descriptors: &[BorrowedFd<'_>]) -> Result<(), Problem> {
        passed::pass(&self.stream, descriptors).await.map_err(|error| {
            let what = format!("the files of the identity cannot be handed over: {error}");
            Problem::new(Class::Unreachable, what, &*self.place, "look at the log of `bulkhead run`")
        })
    }

    /// Sends `method path` with `body` and decodes the answer, which has to be there whole within `deadline`.
    pub async fn call<T: DeserializeOwned>(
        self,
        method: Method,
        path: &'static str,
        body: Vec<u8>,
        deadline: Duration,
    ) -> Result<T, Problem> {
        let place = self.place.clone();
        let launcher = self.launcher_pid();
        let broken = |what: String| {
            Problem::new(
                Class::Unreachable,
                what,
                place.clone(),
                "look at the log of `bulkhead run`: the VM may have ended",
            )
        };
        match timeout(deadline, self.exchange(method, path, body)).await {
            Err(_) => Err(silent(launcher, place.clone(), deadline)),
            Ok(Err(error)) => Err(broken(format!("the connection broke: {error}"))),
            Ok(Ok((status, bytes))) if status.is_success() => serde_json::from_slice(&bytes)
                .map_err(|error| broken(format!("the answer cannot be understood: {error}"))),
            Ok(Ok((status, bytes))) => Err(serde_json::from_slice::<Problem>(&bytes)
                .unwrap_or_else(|_| broken(format!("the VM answers with HTTP status {status}")))),
        }
    }

    async fn exchange(
        self,
        method: Method,
        path: &'static str,
        body: Vec<u8>,
    ) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(self.stream)).await?;
        let driver = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "bulkhead")
            .body(Full::new(Bytes::from(body)))?;
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let bytes = Limited::new(answer.into_body(), ANSWER_LEN_MAX).collect().await?.to_bytes();
        driver.abort();
        Ok((status, bytes))
    }
}

/// Connects as soon as the listener's backlog has room. Cancel-safe.
async fn taken(path: &Path) -> io::Result<UnixStream> {
    loop {
        match UnixStream::connect(path).await {
            // Full: its owner does not accept at the moment.
            Err(error) if error.kind() == ErrorKind::WouldBlock => sleep(CONNECT_INTERVAL).await,
            connected => return connected,
        }
    }
}

/// The problem to report if the VM accepted the connection and does not answer.
fn silent(launcher: Option<i32>, place: String, deadline: Duration) -> Problem {
    let seconds = deadline.as_secs();
    match launcher {
        Some(pid) if is_stopped(pid) => Problem::new(
            Class::Unreachable,
            format!("no answer within {seconds} s: its launcher, process {pid}, is stopped"),
            place,
            format!("let it go on with `kill -CONT {pid}`, or `fg` in its shell"),
        ),
        _ => Problem::new(
            Class::Unreachable,
            format!("no answer within {seconds} s"),
            place,
            match launcher {
                Some(pid) => format!(
                    "look at the log of `bulkhead run`, and whether its processes get to run; `kill {pid}` ends the VM"
                ),
                None => "look at the log of `bulkhead run`, and whether its processes get to run".to_owned(),
            },
        ),
    }
}

/// Whether a signal or a debugger has stopped the process; false if it cannot be seen.
fn is_stopped(pid: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let state = status.lines().find_map(|line| line.strip_prefix("State:"));
    state.is_some_and(|state| state.trim_start().starts_with(['T', 't']))
}
