// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A terminal or file that shows both the guest's console and our log: a log line is never inserted into a line of
//! the guest.
//!
//! A writer holds the lock while it writes. A log line waits a short time for the guest's line to end (it may be a
//! prompt), then a line end is inserted.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// How long a log line waits for the guest's line to end: usually a line is printed at once.
const LINE_SPAN: Duration = Duration::from_millis(500);

/// The state of the output.
#[derive(Debug, Default)]
pub struct Screen {
    mid_line: Mutex<bool>,
    line_ended: Condvar,
    begun: AtomicBool,
}

impl Screen {
    /// Calls `write` for `bytes` of the guest.
    pub fn guest<T>(&self, bytes: &[u8], write: impl FnOnce() -> T) -> T {
        let mut mid_line = self.mid_line.lock().unwrap_or_else(PoisonError::into_inner);
        self.begun.store(true, Ordering::Relaxed);
        let written = write();
        if let Some(last) = bytes.last() {
            *mid_line = *last != b'\n';
            if !*mid_line {
                self.line_ended.notify_all();
            }
        }
        written
    }

    /// Calls `write` for a whole line of ours; its argument says whether it has to begin with a line end.
    pub fn product<T>(&self, write: impl FnOnce(bool) -> T) -> T {
        let mid_line = self.mid_line.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.line_ended.wait_timeout_while(mid_line, LINE_SPAN, |mid_line| *mid_line);
        let (mut mid_line, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let written = write(*mid_line);
        *mid_line = false;
        written
    }

    /// Whether the guest has printed anything yet.
    pub fn begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }

    /// Whether the guest's last line has no end.
    pub fn is_mid_line(&self) -> bool {
        *self.mid_line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_of_ours_waits_for_the_guests_to_end() {
        let screen = Screen::default();
        let shown = Mutex::new(String::new());
        let put = |text: &str| shown.lock().unwrap().push_str(text);
        assert!(!screen.begun());
        screen.guest(b"ab", || put("ab"));
        std::thread::scope(|scope| {
            let waiting =
                scope.spawn(|| screen.product(|in_a_line| put(if in_a_line { "!" } else { "log\n" })));
            screen.guest(b"c\n", || put("c\n"));
            waiting.join().unwrap();
        });
        assert_eq!(*shown.lock().unwrap(), "abc\nlog\n");
        assert!(screen.begun() && !screen.is_mid_line());
    }

    #[test]
    fn line_of_ours_ends_a_prompt() {
        let screen = Screen::default();
        screen.guest(b"/ # ", || ());
        assert!(screen.is_mid_line());
        assert!(screen.product(|in_a_line| in_a_line));
        assert!(!screen.is_mid_line());
        assert!(!screen.product(|in_a_line| in_a_line), "and only once");
    }
}
