// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The signals that the launcher handles: those that would end it are a request to stop in good order, and those of job
//! control take the terminal's modes along.
//!
//! A signal that the parent has set to be ignored stays ignored: that is how `nohup`, and `&` in a shell without job
//! control, ask a program to live on. What cannot be handled in time (SIGKILL, a fault, an abort) is the business of
//! the terminal's guard.

use std::future::poll_fn;
use std::io;
use std::task::Poll;

use rustix::process::Signal;
use sandbox::signals;
use tokio::signal::unix::{Signal as Arrivals, SignalKind, signal};

/// Those that end a process which does not handle them, and can be handled.
const ENDING: [Signal; 13] = [
    Signal::TERM,
    Signal::INT,
    Signal::HUP,
    Signal::QUIT,
    Signal::USR1,
    Signal::USR2,
    Signal::ALARM,
    Signal::VTALARM,
    Signal::PROF,
    Signal::IO,
    Signal::POWER,
    Signal::XCPU,
    Signal::STKFLT,
];

/// What a signal asks of the launcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// End in good order.
    End,
    /// Stop, as a job does.
    Stop,
    /// It has been continued, perhaps as another job than before.
    Continued,
}

/// The handled signals. Must be made inside a runtime.
pub struct Signals {
    handled: Vec<(Asked, Arrivals)>,
    /// Writes beyond the limit on file sizes fail instead of ending the process.
    _file_size: Arrivals,
}

impl Signals {
    /// Handles what the parent does not want to be ignored.
    pub fn new() -> io::Result<Self> {
        let all = ENDING.iter().map(|number| (Asked::End, *number));
        let all = all.chain([(Asked::Stop, Signal::TSTP), (Asked::Continued, Signal::CONT)]);
        let wanted = all.filter(|(_, number)| !signals::is_ignored(*number));
        let handled = wanted
            .map(|(asked, number)| Ok((asked, signal(SignalKind::from_raw(number.as_raw()))?)))
            .collect::<io::Result<_>>()?;
        Ok(Self { handled, _file_size: signal(SignalKind::from_raw(Signal::XFSZ.as_raw()))? })
    }

    /// Waits for the next of them. Cancel-safe.
    pub async fn next(&mut self) -> Asked {
        poll_fn(|context| {
            for (asked, arrivals) in &mut self.handled {
                if arrivals.poll_recv(context).is_ready() {
                    return Poll::Ready(*asked);
                }
            }
            Poll::Pending
        })
        .await
    }
}
