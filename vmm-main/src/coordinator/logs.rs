// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The log lines of the VM's processes: read from a pipe each, bounded, made printable, passed on with the
//! process's name, and the last of them kept for the report of its death.
//!
//! A process may be hostile and write anything at any rate: the coordinator passes on no more than its [`LogLimit`] of
//! lines of [`LINE_LEN_MAX`] bytes, however often the process is restarted.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ipc::instance::InstanceId;
use ipc::log::{self, Level};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::task::JoinHandle;

use super::log_limit::LogLimit;
pub use crate::printable::line as printable;

/// The longest line, in bytes; the rest is dropped.
pub const LINE_LEN_MAX: usize = 1024;
/// Lines kept for a report.
const TAIL_LINE_COUNT: usize = 12;
/// Lines that one process may write at once; a healthy one writes a few in its life.
const BURST: u32 = 100;
/// For the last lines of a process that has ended. Short, since a child of it may hold the pipe open.
pub const LAST_LINES_DEADLINE: Duration = Duration::from_millis(200);

/// The tracing target of a process's lines, which are exempt from the limit of [`super::logging`].
pub const TARGET: &str = "process";

/// Lines dropped of all processes of the VM, including the coordinator.
pub static DROPPED: AtomicU64 = AtomicU64::new(0);

/// The limit of each process by name: it outlives the process.
static LIMITS: Mutex<BTreeMap<InstanceId, LogLimit>> = Mutex::new(BTreeMap::new());

/// One process's log.
#[derive(Debug)]
pub struct Log {
    tail: Arc<Mutex<VecDeque<String>>>,
    reader: JoinHandle<()>,
}

impl Log {
    /// Reads the pipe of the process `id` on a task.
    pub fn follow(id: InstanceId, generation: u32, pipe: OwnedFd) -> std::io::Result<Self> {
        let mut pipe = pipe::Receiver::from_owned_fd(pipe)?;
        let tail = Arc::new(Mutex::new(VecDeque::new()));
        let kept = Arc::clone(&tail);
        let reader = tokio::spawn(async move {
            let mut lines = Lines::default();
            let mut buffer = [0; 2048];
            loop {
                let (found, open) = match pipe.read(&mut buffer).await {
                    Ok(0) | Err(_) => (lines.finish(), false),
                    Ok(len) => (lines.feed(buffer.get(..len).unwrap_or_default()), true),
                };
                for line in found {
                    let (level, text) = log::split(&line);
                    let line = printable(text);
                    keep(&kept, &line);
                    if !may_write(id) {
                        DROPPED.fetch_add(1, Ordering::Relaxed);
                        continue;
                    }
                    match level {
                        Level::Error => tracing::error!(target: TARGET, process = %id, generation, "{line}"),
                        Level::Warn => tracing::warn!(target: TARGET, process = %id, generation, "{line}"),
                        Level::Info => tracing::info!(target: TARGET, process = %id, generation, "{line}"),
                    }
                }
                if !open {
                    return;
                }
            }
        });
        Ok(Self { tail, reader })
    }

    /// The last lines, after waiting [`LAST_LINES_DEADLINE`] at most for the pipe's end.
    pub async fn last_lines(&mut self) -> Vec<String> {
        if !self.reader.is_finished() {
            let _ = tokio::time::timeout(LAST_LINES_DEADLINE, &mut self.reader).await;
        }
        self.tail.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

fn may_write(id: InstanceId) -> bool {
    let mut limits = LIMITS.lock().unwrap_or_else(PoisonError::into_inner);
    limits.entry(id).or_insert(LogLimit::new(BURST)).allows(Instant::now())
}

fn keep(tail: &Mutex<VecDeque<String>>, line: &str) {
    let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
    if tail.len() == TAIL_LINE_COUNT {
        tail.pop_front();
    }
    tail.push_back(line.to_owned());
}

/// Cuts a stream of bytes into lines.
#[derive(Debug, Default)]
struct Lines {
    line: Vec<u8>,
}

impl Lines {
    fn feed(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        for &byte in bytes {
            if byte == b'\n' {
                found.extend(self.finish());
            } else if self.line.len() < LINE_LEN_MAX {
                self.line.push(byte);
            }
        }
        found
    }

    /// The bytes after the last line end, if there are any.
    fn finish(&mut self) -> Vec<Vec<u8>> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() { vec![] } else { vec![line] }
    }
}

#[cfg(test)]
mod tests {
    use ipc::hello::Role;

    use super::*;

    #[test]
    fn log_lines_are_cut_and_bounded() {
        let mut lines = Lines::default();
        assert_eq!(lines.feed(b"one\ntw"), [b"one"]);
        assert_eq!(lines.feed(b"o\r\n\n\x1b[2J\tx\xff"), [b"two\r"]);
        assert_eq!(lines.finish(), [b"\x1b[2J\tx\xff"]);
        assert_eq!(lines.feed(&[b'a'; 10_000]), Vec::<Vec<u8>>::new());
        assert_eq!(lines.feed(b"\n"), [[b'a'; LINE_LEN_MAX]]);
    }

    #[test]
    fn log_of_a_process_that_is_started_again_has_no_new_allowance() {
        // No other test has so many devices.
        let passed = |index| (0..1000).filter(|_| may_write(InstanceId::new(Role::Virtio, index))).count();
        assert_eq!(passed(254), 100);
        assert!(passed(254) < 10);
        assert_eq!(passed(255), 100);
    }

    #[tokio::test]
    async fn log_tail_keeps_the_last_lines_of_a_dead_process() {
        let (near, far) = std::io::pipe().unwrap();
        let mut log = Log::follow(InstanceId::new(Role::Smmu, 0), 1, near.into()).unwrap();
        let mut far = far;
        for line in 0..50 {
            let line = format!("{}line {line}\n", Level::Warn.mark());
            std::io::Write::write_all(&mut far, line.as_bytes()).unwrap();
        }
        std::io::Write::write_all(&mut far, b"no line end").unwrap();
        drop(far);
        let last = log.last_lines().await;
        assert_eq!(last.len(), TAIL_LINE_COUNT);
        assert_eq!((last[0].as_str(), last[11].as_str()), ("line 39", "no line end"));
        assert_eq!(log.last_lines().await, last, "asking again gives the same");
    }

    #[tokio::test]
    async fn log_line_of_a_process_has_the_level_that_its_mark_says() {
        use tracing_subscriber::layer::{Context, SubscriberExt};

        /// The levels of what a process said.
        #[derive(Default)]
        struct Levels(Mutex<Vec<tracing::Level>>);
        impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for &'static Levels {
            fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
                self.0.lock().unwrap().push(*event.metadata().level());
            }
        }
        let levels: &'static Levels = Box::leak(Box::default());
        let _subscriber = tracing::subscriber::set_default(tracing_subscriber::registry().with(levels));
        let (near, mut far) = std::io::pipe().unwrap();
        let mut log = Log::follow(InstanceId::new(Role::Virtio, 0), 1, near.into()).unwrap();
        std::io::Write::write_all(&mut far, b"<6>well\n<3>lost\nthread panicked\n<4>less\n").unwrap();
        drop(far);
        assert_eq!(log.last_lines().await, ["well", "lost", "thread panicked", "less"]);
        use tracing::Level as Event;
        assert_eq!(*levels.0.lock().unwrap(), [Event::INFO, Event::ERROR, Event::WARN, Event::WARN]);
    }
}
