// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The end of a process: politely, by force, or as it comes; and what is known about one that was not requested.
//!
//! Who holds a [`Running`] holds the process: dropped, it is killed and reaped in place.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use ipc::channel::AsyncChannel;
use ipc::deadline::Deadline;
use ipc::protocol::budget;
use ipc::protocol::control::Request;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;
use sandbox::report::{self, CrashPage};
use sandbox::spawn::{Child, Exit};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{sleep, timeout, timeout_at};

use crate::coordinator::logs::{self, Log};
use crate::coordinator::spans::KILL_DEADLINE;
use crate::coordinator::vm::action::Ending;
use crate::coordinator::vm::event::Departure;
use crate::problem::{Class, Problem};
use crate::readiness;
use crate::system::Instance;

/// Between two looks at whether a process that has ended can be reaped.
const REAP_INTERVAL: Duration = Duration::from_millis(1);

/// For a process that is as good as dead to end by itself: its exit says more than a kill does.
const EXIT_DEADLINE: Duration = Duration::from_secs(3);

/// A process that was spawned, until it is reaped.
#[derive(Debug)]
pub struct Running {
    /// Which it is.
    pub instance: Arc<Instance>,
    /// Which life it is.
    pub generation: u32,
    child: Child,
    ended: Option<AsyncFd<OwnedFd>>,
    reaped: bool,
    crash: CrashPage,
    log: Log,
}

impl Running {
    /// Holds a process that was just spawned.
    pub const fn new(
        child: Child,
        instance: Arc<Instance>,
        generation: u32,
        crash: CrashPage,
        log: Log,
    ) -> Self {
        Self { instance, generation, child, ended: None, reaped: false, crash, log }
    }

    /// Begins to watch for its end. To be called within a runtime.
    pub fn watch(&mut self) -> std::io::Result<()> {
        let pidfd = self.child.pidfd.try_clone()?;
        self.ended = Some(readiness::watch(pidfd, Interest::READABLE)?);
        Ok(())
    }

    /// Its process id in the coordinator's namespace.
    pub const fn pid(&self) -> i32 {
        self.child.pid
    }

    /// Waits for its end. Cancel-safe.
    pub async fn wait(&self) {
        match &self.ended {
            // An error of the runtime's own: the channel's end tells of the process's.
            Some(ended) => drop(ended.readable().await),
            None => std::future::pending().await,
        }
    }

    /// Whether it has ended.
    fn has_ended(&self) -> bool {
        let mut polled = [PollFd::new(&self.child.pidfd, PollFlags::IN)];
        poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
    }

    /// Ends it as requested, within [`crate::coordinator::spans::FINISH_SPAN`], or as it ends by itself.
    pub async fn end(mut self, ending: Ending, channel: Option<&AsyncChannel>) -> Departure {
        let (why, exit) = match ending {
            Ending::Quit => ("it was told to quit".to_owned(), self.quit(channel).await),
            Ending::Discard => ("it was not needed any more".to_owned(), self.end_by(Deadline::now()).await),
            Ending::Failed(why) => (why, self.end_by(Deadline::after(EXIT_DEADLINE)).await),
            Ending::Hung(why) => (why, self.end_by(Deadline::now()).await),
        };
        // Lines that were written on the way out still reach the log.
        let last_lines = self.log.last_lines().await;
        let problem = self.describe(exit, &why, last_lines.last());
        Departure { reaped: self.reaped, by_itself: exit.is_some(), problem, last_lines }
    }

    async fn quit(&mut self, channel: Option<&AsyncChannel>) -> Option<Exit> {
        let until = Deadline::after(budget::QUIT);
        // One that has not greeted does not understand it.
        let Some(channel) = channel else { return self.end_by(Deadline::now()).await };
        if let Err(error) = channel.request(&Request::Quit, &[], until).await {
            tracing::warn!(process = %self.instance.id, "did not quit and is killed: {error}");
        }
        self.end_by(until).await
    }

    /// Waits until then for it to end by itself, then kills it; reaps it either way. How it ended, if by itself.
    async fn end_by(&mut self, until: Deadline) -> Option<Exit> {
        // A timer ends at a whole millisecond, even one that was due before: a guest may wait for this.
        let by_itself = if until.has_passed() {
            self.has_ended()
        } else {
            timeout_at(until.instant().into(), self.wait()).await.is_ok()
        };
        let reaped_by = Deadline::after(KILL_DEADLINE);
        if !by_itself {
            // Fails only for a process that has ended just now.
            let _ = self.child.kill();
            if timeout(KILL_DEADLINE, self.wait()).await.is_err() {
                return None;
            }
        }
        let exit = loop {
            match self.child.try_wait() {
                Ok(Some(exit)) => break Some(exit),
                // Somebody traces it, and is told of its end first: an audit, a debugger.
                Ok(None) if !reaped_by.has_passed() => sleep(REAP_INTERVAL).await,
                Ok(None) => return None,
                // It was reaped before.
                Err(_) => break None,
            }
        };
        self.reaped = true;
        // A process that was exiting already when it was killed keeps its own status.
        exit.filter(|exit| by_itself || *exit != Exit::Signal(Signal::KILL.as_raw()))
    }

    /// Everything known about its end.
    fn describe(&self, exit: Option<Exit>, why: &str, last_line: Option<&String>) -> Problem {
        let how = match exit {
            Some(Exit::Code(code)) => format!("ended with exit code {code}"),
            Some(Exit::Signal(signal)) => format!("was killed by signal {signal}"),
            None => "had to be killed".to_owned(),
        };
        // Its crash report, or its last log line, says more than the broken channel that showed its end.
        let why = match (report::read(&self.crash, &self.instance.template.profile()), last_line) {
            (Some(death), _) => death.to_string(),
            (None, Some(line)) => format!("{}; its last line was: {line}", logs::printable(why.as_bytes())),
            (None, None) => logs::printable(why.as_bytes()),
        };
        let (name, generation) = (self.instance.id, self.generation);
        Problem::new(
            Class::Died,
            format!("process {name} (generation {generation}) {how}: {why}"),
            name.to_string(),
            "the VM has ended with it; start it again, and report this if it was not killed by hand",
        )
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.reaped {
            return;
        }
        // Each fails only for a process that is gone already; one that hangs is waited for a moment.
        let _ = self.child.kill();
        let moment = Timespec { tv_sec: 1, tv_nsec: 0 };
        let _ = poll(&mut [PollFd::new(&self.child.pidfd, PollFlags::IN)], Some(&moment));
        let _ = self.child.try_wait();
    }
}
