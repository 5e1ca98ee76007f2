// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Rate-limited log lines, for events that a client or guest can cause: a burst, then one per interval, for the life
//! of the process.
//!
//! A client that reconnects, or a guest whose disk is full, must not fill the host's disk with log lines. Each
//! subject has a limit of its own, so that a noisy client does not hide a failing image.

use core::fmt::Display;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// About clients: 20 KiB a day at the most.
pub static CLIENTS: Limit = Limit::new(16, Duration::from_secs(300));
/// About the image: mostly repetitions, since guests retry after an error.
pub static IMAGE: Limit = Limit::new(4, Duration::from_secs(60));

/// A limit on lines.
#[derive(Debug)]
pub struct Limit {
    /// Length of a burst.
    burst: u32,
    /// Interval between lines after a burst.
    pause: Duration,
    spent: Mutex<Spent>,
}

#[derive(Debug)]
struct Spent {
    lines: u32,
    /// When the last line was credited back.
    since: Option<Instant>,
    left_out: u64,
}

impl Limit {
    const fn new(burst: u32, pause: Duration) -> Self {
        Self { burst, pause, spent: Mutex::new(Spent { lines: 0, since: None, left_out: 0 }) }
    }

    /// Logs the line, if the limit allows.
    pub fn warn(&self, line: &dyn Display) {
        if let Some(left_out) = self.allows(Instant::now()) {
            match left_out {
                0 => ipc::log::warn!("nvme: {line}"),
                _ => ipc::log::warn!("nvme: {line} ({left_out} lines like this were left out before)"),
            }
        }
    }

    /// Whether the limit allows a line, and how many were suppressed before it.
    fn allows(&self, now: Instant) -> Option<u64> {
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        let since = *spent.since.get_or_insert(now);
        let passed = now.saturating_duration_since(since);
        let regained = u32::try_from(passed.as_secs() / self.pause.as_secs().max(1)).unwrap_or(u32::MAX);
        if regained > 0 {
            spent.lines = spent.lines.saturating_sub(regained);
            spent.since = Some(now);
        }
        if spent.lines >= self.burst {
            spent.left_out = spent.left_out.saturating_add(1);
            return None;
        }
        spent.lines += 1;
        Some(std::mem::take(&mut spent.left_out))
    }
}

#[cfg(test)]
mod tests;
