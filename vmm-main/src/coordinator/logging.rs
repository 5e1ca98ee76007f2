// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The coordinator's own log: text or JSON lines to descriptor 2, a pipe that the launcher carries to its
//! standard error.
//!
//! The coordinator has one thread and must never wait for a terminal: the pipe is non-blocking, and a line that does
//! not fit is dropped and counted. A line of up to `PIPE_BUF` bytes is written whole or not at all. Each is prefixed by
//! its level, like the lines of every process ([`ipc::log`]). Lines are limited per place in the code, since API
//! clients and guests can cause them; the number of dropped lines is logged once a minute.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Write};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ipc::log::Level;
use tracing::callsite::Identifier;
use tracing::{Level as EventLevel, Metadata};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

use super::log_limit::LogLimit;
use super::logs::{self, DROPPED};

/// `PIPE_BUF` of Linux: longer writes are not atomic.
const WRITE_LEN_MAX: usize = 4096;
/// Lines from one place in the code at once.
const BURST: u32 = 20;
/// How often the number of dropped lines is logged.
const TELL_INTERVAL: Duration = Duration::from_secs(60);

/// Starts logging.
pub fn start(json: bool) -> io::Result<()> {
    let stderr = io::stderr();
    let flags = rustix::fs::fcntl_getfl(&stderr)?;
    rustix::fs::fcntl_setfl(&stderr, flags | rustix::fs::OFlags::NONBLOCK)?;
    let builder = tracing_subscriber::fmt()
        .with_writer(Lines::default())
        .with_ansi(false)
        .with_max_level(LevelFilter::INFO)
        .with_target(false);
    let started = if json { builder.json().flatten_event(true).try_init() } else { builder.try_init() };
    started.map_err(io::Error::other)
}

/// Logs how many lines were dropped, once a minute if any were.
pub async fn tell_of_dropped_lines() {
    let mut told = 0;
    loop {
        tokio::time::sleep(TELL_INTERVAL).await;
        let dropped = DROPPED.load(Ordering::Relaxed);
        if dropped != told {
            tracing::warn!(
                "{} log lines were dropped in the last minute: over the rate limit, or the launcher did not read them",
                dropped.saturating_sub(told)
            );
            told = dropped;
        }
    }
}

/// Chooses the writer of an event: the log, or none if its place in the code is over its limit.
#[derive(Default)]
struct Lines {
    limits: Mutex<HashMap<Identifier, LogLimit>>,
}

impl Lines {
    /// Whether another line from this place may be written. The map is bounded by the places in the code.
    fn allow(&self, event: &Metadata<'_>, now: Instant) -> bool {
        if event.target() == logs::TARGET {
            return true;
        }
        let mut limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        limits.entry(event.callsite()).or_insert(LogLimit::new(BURST)).allows(now)
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = LogPipe;

    fn make_writer(&'a self) -> LogPipe {
        LogPipe { level: Some(Level::Warn) }
    }

    fn make_writer_for(&'a self, event: &Metadata<'_>) -> LogPipe {
        let level = match *event.level() {
            EventLevel::ERROR => Level::Error,
            EventLevel::WARN => Level::Warn,
            EventLevel::INFO | EventLevel::DEBUG | EventLevel::TRACE => Level::Info,
        };
        LogPipe { level: self.allow(event, Instant::now()).then_some(level) }
    }
}

/// Descriptor 2, one whole line at a time; without a level the line is dropped.
struct LogPipe {
    level: Option<Level>,
}

impl Write for LogPipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(level) = self.level else {
            DROPPED.fetch_add(1, Ordering::Relaxed);
            return Ok(bytes.len());
        };
        match rustix::io::write(io::stderr(), &marked(level, bytes)) {
            Ok(_) => Ok(bytes.len()),
            Err(errno) => {
                let error = io::Error::from(errno);
                if error.kind() == ErrorKind::Interrupted {
                    return Err(error);
                }
                // The pipe is full, or the launcher is gone.
                DROPPED.fetch_add(1, Ordering::Relaxed);
                Ok(bytes.len())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The line with its level's prefix and its line end, cut to [`WRITE_LEN_MAX`].
fn marked(level: Level, line: &[u8]) -> Vec<u8> {
    let mut marked = [level.mark().as_bytes(), line].concat();
    if marked.len() > WRITE_LEN_MAX {
        marked.truncate(WRITE_LEN_MAX.saturating_sub(1));
        marked.push(b'\n');
    }
    marked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_line_has_a_mark_and_an_end_however_long_it_is() {
        assert_eq!(marked(Level::Info, b"x\n"), b"<6>x\n");
        let long = marked(Level::Error, &[b'x'; 10_000]);
        assert_eq!((long.len(), long.last()), (WRITE_LEN_MAX, Some(&b'\n')));
    }

    #[test]
    fn log_of_one_place_is_limited_and_of_another_place_not() {
        use tracing_subscriber::layer::SubscriberExt;

        /// Counts what may be written, by level.
        #[derive(Default)]
        struct Counter(Lines, Mutex<HashMap<EventLevel, u32>>);
        impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for &'static Counter {
            fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
                if self.0.allow(event.metadata(), Instant::now()) {
                    *self.1.lock().unwrap().entry(*event.metadata().level()).or_default() += 1;
                }
            }
        }
        let counter: &'static Counter = Box::leak(Box::default());
        let subscriber = tracing_subscriber::registry().with(counter);
        tracing::subscriber::with_default(subscriber, || {
            for _ in 0..3000 {
                tracing::warn!("by a client");
                tracing::info!(target: logs::TARGET, "by a process, and counted there");
            }
            tracing::error!("once");
        });
        let counts = counter.1.lock().unwrap().clone();
        assert!((20..25).contains(&counts[&EventLevel::WARN]), "{counts:?}");
        assert_eq!((counts[&EventLevel::INFO], counts[&EventLevel::ERROR]), (3000, 1));
    }
}
