// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Signal handling that a terminal program needs and no safe wrapper offers: for the launcher, which is not sealed.
//! Installs no handler.

use std::io;

use rustix::process::Signal;

use crate::sys;

/// Whether this process ignores `signal`: its parent wants it to (nohup, a shell without job control and its `&`).
#[must_use]
pub fn is_ignored(signal: Signal) -> bool {
    sys::is_ignored(signal.as_raw())
}

/// Does what `signal` does to a process that does not handle it, and returns if and when the process goes on. For a
/// stop signal that was handled to tidy up first: only the kernel's own action leaves a process group that nobody could
/// continue alone. Call it from the one place that handles `signal`.
///
/// # Errors
/// If `signal` cannot be handled at all.
pub fn act_by_default(signal: Signal) -> io::Result<()> {
    sys::act_by_default(signal.as_raw())
}

/// Makes children waitable even if this process inherited SIG_IGN for SIGCHLD, with which the kernel discards their
/// exit statuses.
///
/// # Errors
/// None that a kernel is known to give.
pub fn keep_exit_statuses() -> io::Result<()> {
    sys::set_default(Signal::CHILD.as_raw())
}

/// Blocks `signal` in the calling thread. For SIGTTIN and SIGTTOU the kernel then fails the read, or allows the write
/// or the change of modes, instead of stopping the whole process group.
pub fn block_in_thread(signal: Signal) {
    sys::block_in_thread(signal.as_raw());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_told_from_others() {
        // What every Rust program starts with.
        assert!(is_ignored(Signal::PIPE));
        assert!(!is_ignored(Signal::TERM));
    }

    #[test]
    fn default_action_of_a_signal_that_does_nothing_leaves_its_action_as_it_was() {
        act_by_default(Signal::WINCH).unwrap();
        assert!(!is_ignored(Signal::WINCH));
        act_by_default(Signal::CONT).unwrap();
        assert!(act_by_default(Signal::KILL).is_err());
        // Blocked it is pending, and does nothing either.
        block_in_thread(Signal::TSTP);
    }
}
