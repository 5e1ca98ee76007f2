// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The command line's side of the control API: one request, one answer, one deadline.
//!
//! The answer comes from the sealed coordinator, which a hostile guest may have reached: its size is bounded
//! and what cannot be read as JSON of the right shape is an error, not a crash.

use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::printable;
use crate::problem::{Class, Problem};

/// Longest answer that is read; a process table of dozens of rows is a tenth of it.
pub const ANSWER_LEN_MAX: usize = 256 * 1024;
/// A little more than the server allows itself, so that its own error arrives first.
pub const ANSWER_DEADLINE: Duration = Duration::from_secs(75);

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
        match timeout(Duration::from_secs(5), UnixStream::connect(path)).await {
            Ok(Ok(stream)) => Ok(Self { stream, place }),
            Ok(Err(error)) => Err(Problem::new(
                Class::Unreachable,
                format!("no VM answers here: {error}"),
                place,
                "check the name; `bulkhead ps` without a name lists the VMs that run",
            )
            .because_of(&error)),
            Err(_) => Err(Problem::new(
                Class::Unreachable,
                "the VM's socket does not accept connections",
                place,
                "its launcher hangs or is stopped: look at the `bulkhead run` process",
            )),
        }
    }

    /// The process that listens at the other end, as this process's `/proc` numbers it.
    pub fn launcher_pid(&self) -> Option<i32> {
        let credentials = rustix::net::sockopt::socket_peercred(self.stream.as_fd()).ok()?;
        Some(credentials.pid.as_raw_nonzero().get())
    }

    /// Sends `method path` with `body` and decodes the answer.
    pub async fn call<T: DeserializeOwned>(
        self,
        method: Method,
        path: &'static str,
        body: Vec<u8>,
    ) -> Result<T, Problem> {
        let place = self.place.clone();
        let broken = |what: String| {
            Problem::new(
                Class::Unreachable,
                what,
                place.clone(),
                "look at the log of `bulkhead run`: the VM may have ended",
            )
        };
        match timeout(ANSWER_DEADLINE, self.exchange(method, path, body)).await {
            Err(_) => Err(broken(format!("no answer within {} s", ANSWER_DEADLINE.as_secs()))),
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
