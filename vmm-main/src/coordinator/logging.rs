// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The coordinator's own log: text or JSON lines to descriptor 2, a pipe that the launcher carries to its
//! standard error.
//!
//! The coordinator has one thread and must never wait for a terminal: the pipe is non-blocking, and a line that
//! does not fit is dropped and counted. A line up to `PIPE_BUF` goes through whole or not at all.

use std::io::{self, ErrorKind, Write};
use std::sync::atomic::Ordering;

use tracing_subscriber::filter::LevelFilter;

use super::logs::DROPPED;

/// `PIPE_BUF` of Linux: longer writes could be torn.
const WRITE_LEN_MAX: usize = 4096;

/// Starts logging.
pub fn start(json: bool) -> io::Result<()> {
    let stderr = io::stderr();
    let flags = rustix::fs::fcntl_getfl(&stderr)?;
    rustix::fs::fcntl_setfl(&stderr, flags | rustix::fs::OFlags::NONBLOCK)?;
    let builder = tracing_subscriber::fmt()
        .with_writer(|| LogPipe)
        .with_ansi(false)
        .with_max_level(LevelFilter::INFO)
        .with_target(false);
    let started = if json { builder.json().flatten_event(true).try_init() } else { builder.try_init() };
    started.map_err(io::Error::other)
}

/// Descriptor 2, one whole line at a time.
struct LogPipe;

impl Write for LogPipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = bytes.len().min(WRITE_LEN_MAX);
        let line = bytes.get(..len).unwrap_or_default();
        match rustix::io::write(io::stderr(), line) {
            Ok(len) => Ok(len),
            Err(errno) => {
                let error = io::Error::from(errno);
                if error.kind() == ErrorKind::Interrupted {
                    return Err(error);
                }
                // Full, or the launcher is gone: either way the line has no reader.
                DROPPED.fetch_add(1, Ordering::Relaxed);
                Ok(bytes.len())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
