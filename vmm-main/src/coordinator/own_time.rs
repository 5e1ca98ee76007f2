// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Deadlines in the coordinator's own time: what passes while it does not run itself does not count.
//!
//! A process that was stopped together with the coordinator (SIGSTOP of all of them, a frozen control group, a host
//! without a CPU to spare) is not late. So a long wait is made of short ones: one that ends much later than it was to
//! says that the coordinator did not run, and the whole span begins anew.

use std::time::Duration;

use tokio::time::Instant;

/// The longest single wait.
const STEP: Duration = Duration::from_secs(1);
/// How late a wait of a coordinator that runs may end, on a busy host.
pub const LATE: Duration = Duration::from_secs(1);

/// A span that passes in the coordinator's own time.
#[derive(Debug)]
pub struct Countdown {
    span: Duration,
    /// What is left of it at the end of the current wait.
    left: Duration,
    until: Instant,
}

/// The span was over before the future was ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elapsed;

impl Countdown {
    /// Begins.
    pub fn new(span: Duration) -> Self {
        Self::from(span, Instant::now())
    }

    fn from(span: Duration, now: Instant) -> Self {
        let step = span.min(STEP);
        Self { span, left: span.saturating_sub(step), until: now + step }
    }

    /// Waits until it is over. Cancel-safe: it goes on where it was.
    pub async fn over(&mut self) {
        loop {
            tokio::time::sleep_until(self.until).await;
            if self.wake(Instant::now()) {
                return;
            }
        }
    }

    /// A wait has ended. Whether it was the last one.
    fn wake(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.until) > LATE {
            *self = Self::from(self.span, now);
            return false;
        }
        let step = self.left.min(STEP);
        self.left = self.left.saturating_sub(step);
        self.until = now + step;
        step.is_zero()
    }
}

/// Waits for `future`, at most for `span`.
///
/// # Errors
/// If it is not ready by then.
pub async fn within<F: Future>(span: Duration, future: F) -> Result<F::Output, Elapsed> {
    let mut countdown = Countdown::new(span);
    // Cancel-safe: the future is dropped at the end of the span alone.
    tokio::select! {
        biased;
        output = future => Ok(output),
        () = countdown.over() => Err(Elapsed),
    }
}

#[cfg(test)]
mod tests;
