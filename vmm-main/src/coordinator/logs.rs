// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The log lines of the VM's processes: read from a pipe each, bounded, made printable, passed on with the
//! process's name, and the last of them kept for the report of its death.
//!
//! A process may have been taken over: it can write what it likes as fast as it likes, and it must cost the
//! coordinator no more than [`LINES_PER_SECOND_MAX`] lines of [`LINE_LEN_MAX`] bytes.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::task::JoinHandle;

pub use crate::printable::line as printable;

/// Bytes of a line that are kept; the rest of it is dropped.
pub const LINE_LEN_MAX: usize = 1024;
/// Lines kept for a report.
pub const TAIL_LINE_COUNT: usize = 12;
/// Lines of one process that are passed on; a healthy one writes a handful in its life.
pub const LINES_PER_SECOND_MAX: u32 = 100;

/// Lines dropped in all processes of the VM.
pub static DROPPED: AtomicU64 = AtomicU64::new(0);

/// One process's log.
#[derive(Debug)]
pub struct Log {
    tail: Arc<Mutex<VecDeque<String>>>,
    reader: JoinHandle<()>,
}

impl Log {
    /// Follows the read end of the pipe of the process called `name`.
    pub fn follow(name: &'static str, generation: u32, pipe: OwnedFd) -> std::io::Result<Self> {
        let mut pipe = pipe::Receiver::from_owned_fd(pipe)?;
        let tail = Arc::new(Mutex::new(VecDeque::new()));
        let kept = Arc::clone(&tail);
        let reader = tokio::spawn(async move {
            let mut lines = Lines::default();
            let mut rate = Rate::default();
            let mut buffer = [0; 2048];
            loop {
                let (found, open) = match pipe.read(&mut buffer).await {
                    Ok(0) | Err(_) => (lines.finish(), false),
                    Ok(len) => (lines.feed(buffer.get(..len).unwrap_or_default()), true),
                };
                for line in found {
                    keep(&kept, &line);
                    if rate.allows(Instant::now()) {
                        tracing::info!(target: "process", process = name, generation, "{line}");
                    } else {
                        DROPPED.fetch_add(1, Ordering::Relaxed);
                    }
                }
                if !open {
                    return;
                }
            }
        });
        Ok(Self { tail, reader })
    }

    /// The last lines, after giving the rest of the pipe a moment to arrive.
    pub async fn last_lines(&mut self) -> Vec<String> {
        if !self.reader.is_finished() {
            // A descendant that still holds the pipe is no reason to wait for long.
            let _ = tokio::time::timeout(Duration::from_millis(200), &mut self.reader).await;
        }
        self.tail.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

fn keep(tail: &Mutex<VecDeque<String>>, line: &str) {
    let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
    if tail.len() == TAIL_LINE_COUNT {
        tail.pop_front();
    }
    tail.push_back(line.to_owned());
}

/// Cuts a stream of bytes into printable lines.
#[derive(Debug, Default)]
struct Lines {
    line: Vec<u8>,
}

impl Lines {
    fn feed(&mut self, bytes: &[u8]) -> Vec<String> {
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

    /// What stands before the next line end, if it is anything.
    fn finish(&mut self) -> Vec<String> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() { vec![] } else { vec![printable(&line)] }
    }
}

/// Counts lines per second.
#[derive(Debug, Default)]
struct Rate {
    second: Option<Instant>,
    count: u32,
}

impl Rate {
    fn allows(&mut self, now: Instant) -> bool {
        match self.second {
            Some(start) if now.saturating_duration_since(start) < Duration::from_secs(1) => {
                self.count = self.count.saturating_add(1);
            }
            _ => {
                self.second = Some(now);
                self.count = 1;
            }
        }
        self.count <= LINES_PER_SECOND_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_lines_are_cut_bounded_and_made_printable() {
        let mut lines = Lines::default();
        assert_eq!(lines.feed(b"one\ntw"), ["one"]);
        assert_eq!(lines.feed(b"o\r\n\n\x1b[2J\tx\xff"), ["two"]);
        assert_eq!(lines.finish(), ["\\u{1b}[2J x\u{fffd}"]);
        assert_eq!(lines.feed(&[b'a'; 10_000]), Vec::<String>::new());
        assert_eq!(lines.feed(b"\n"), ["a".repeat(LINE_LEN_MAX)]);
        assert_eq!(printable("a\u{202e}b".as_bytes()), "a\\u{202e}b");
    }

    #[test]
    fn log_rate_is_bounded_per_second() {
        let mut rate = Rate::default();
        let start = Instant::now();
        let passed = (0..1000).filter(|_| rate.allows(start)).count();
        assert_eq!(passed, 100);
        assert!(rate.allows(start + Duration::from_secs(1)));
    }

    #[tokio::test]
    async fn log_tail_keeps_the_last_lines_of_a_dead_process() {
        let (near, far) = std::io::pipe().unwrap();
        let mut log = Log::follow("smmu0", 1, near.into()).unwrap();
        let mut far = far;
        for line in 0..50 {
            std::io::Write::write_all(&mut far, format!("line {line}\n").as_bytes()).unwrap();
        }
        std::io::Write::write_all(&mut far, b"no line end").unwrap();
        drop(far);
        let last = log.last_lines().await;
        assert_eq!(last.len(), TAIL_LINE_COUNT);
        assert_eq!((last[0].as_str(), last[11].as_str()), ("line 39", "no line end"));
        assert_eq!(log.last_lines().await, last, "asking again gives the same");
    }
}
