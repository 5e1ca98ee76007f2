// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One process of the VM, from spawn to reaping: the coordinator's handle on it.
//!
//! Every request has the contract's deadline. A request fails in one of two ways that must not be mixed up:
//! the process says no and lives ([`Fault::Refused`]), or it is lost ([`Fault::Lost`]: dead, silent past
//! its deadline, or breaking the contract) and the supervisor has to decide.

use std::collections::VecDeque;
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ipc::channel::{self, AsyncChannel};
use ipc::deadline::Deadline;
use ipc::error::Error as ChannelError;
use ipc::hello::{Hello, Role};
use ipc::protocol::control::{Event, Reply, Request};
use ipc::protocol::lifecycle::State;
use sandbox::report::{self, CrashPage};
use sandbox::spawn::{Child, Exit, Spawn};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::timeout;

use super::logs::{self, Log};
use super::objects::Objects;
use crate::api::types;
use crate::problem::{Class, Problem};
use crate::readiness;
use crate::topology::{Object, Row};

/// From exec to a sealed, greeted process: milliseconds on an idle host.
const START_DEADLINE: Duration = Duration::from_secs(10);
/// For a process that closed its channel or was killed to be gone. A vCPU process takes up to 1.5 s to deliver its
/// guest's last output.
const END_DEADLINE: Duration = Duration::from_secs(3);

/// How a request failed.
#[derive(Debug)]
pub enum Fault {
    /// The process answered that it cannot; it is as it was.
    Refused(Problem),
    /// The process is dead or no longer to be trusted; what it left behind is in the problem.
    Lost(Lost),
}

/// The end of a process that was not supposed to end.
#[derive(Debug, Clone)]
pub struct Lost {
    /// What is known.
    pub problem: Problem,
    /// Its last log lines.
    pub last_lines: Vec<String>,
}

impl Fault {
    /// The problem, whichever it is.
    pub fn into_problem(self) -> Problem {
        match self {
            Self::Refused(problem) => problem,
            Self::Lost(lost) => lost.problem,
        }
    }
}

/// A started process.
#[derive(Debug)]
pub struct Process {
    /// Its row of the table.
    pub row: &'static Row,
    /// Which life it is.
    pub generation: u32,
    /// Where it stands, by the contract's own rules.
    pub state: State,
    /// What it says it has enforced on itself.
    pub enforced: Vec<String>,
    /// What it was limited to.
    limits: types::Limits,
    /// When it may be asked nothing more.
    dead: bool,
    /// Events that were looked at before their time.
    early: Mutex<VecDeque<Event>>,
    child: Child,
    ended: AsyncFd<OwnedFd>,
    channel: AsyncChannel,
    crash: CrashPage,
    log: Log,
}

impl Process {
    /// Spawns the process of `row` and waits until it is sealed and has greeted.
    pub async fn start(row: &'static Row, generation: u32, objects: &Objects) -> Result<Self, Fault> {
        let refuse = |step: &'static str, error: &dyn std::fmt::Display| {
            Fault::Refused(Problem::host(
                format!("{} cannot be started: {step}: {error}", row.name),
                row.name,
                "check the host's limits on memory, files and processes",
            ))
        };
        let crash = CrashPage::create().map_err(|error| refuse("make the crash page", &error))?;
        let (ours, theirs) = channel::pair().map_err(|error| refuse("make the channel", &error))?;
        let (log, log_theirs) = std::io::pipe().map_err(|error| refuse("make the log pipe", &error))?;
        let log_theirs = OwnedFd::from(log_theirs);

        let mut fds = Vec::new();
        for fd in row.fds_with(objects.shape()) {
            let source = match fd.object {
                Object::Control => theirs.as_fd(),
                Object::CrashPage => crash.as_fd(),
                Object::Log => log_theirs.as_fd(),
                shared => objects
                    .end_of(fd)
                    .ok_or_else(|| refuse("find its objects", &format!("there is no {shared:?}")))?,
            };
            fds.push((fd.number, source));
        }
        let program = objects
            .get(Object::Program(row.program))
            .ok_or_else(|| refuse("find its program", &row.program))?;
        let words = [row.program, row.name, &generation.to_string(), &fds.len().to_string()]
            .map(|word| CString::new(word).unwrap_or_default());
        let argv: Vec<_> = words.iter().map(CString::as_c_str).collect();
        let size = objects.size().map_err(|error| refuse("measure its image", &error))?;
        let profile = row.profile_of(objects.shape(), size);
        let child = Spawn { program, argv: &argv, fds: &fds, profile: &profile, own_id: None, cgroup: None }
            .spawn()
            .map_err(|error| refuse("spawn", &error))?;
        // Its ends are its own now: their end of file means that it is gone.
        drop((theirs, log_theirs));

        let mut guard = Unfinished(Some(child));
        let log = Log::follow(row.name, generation, log.into())
            .map_err(|error| refuse("follow its log", &error))?;
        let ended = guard
            .child()
            .and_then(|child| child.pidfd.try_clone())
            .and_then(|pidfd| readiness::watch(pidfd, Interest::READABLE))
            .map_err(|error| refuse("watch it", &error))?;
        let hello = Hello::new(Role::Coordinator, generation);
        let connected = AsyncChannel::connect(ours, hello, row.role, Deadline::after(START_DEADLINE)).await;
        let channel = match connected {
            Ok(channel) => channel,
            Err(error) => {
                return Err(Fault::Lost(guard.bury(row, generation, &ended, &crash, log, &error).await));
            }
        };
        let Some(child) = guard.0.take() else { return Err(refuse("keep it", &"no child")) };
        let mut process = Self {
            row,
            generation,
            state: State::Unconfigured,
            enforced: Vec::new(),
            limits: types::Limits::of(&profile),
            dead: false,
            early: Mutex::default(),
            child,
            ended,
            channel,
            crash,
            log,
        };
        process.await_seal().await?;
        tracing::info!(process = row.name, generation, pid = process.child.pid, "sealed");
        Ok(process)
    }

    /// The first event of every process says what it has enforced.
    async fn await_seal(&mut self) -> Result<(), Fault> {
        match timeout(START_DEADLINE, self.channel.next_event()).await {
            Ok(Ok((Event::Sealed(lines), _))) => {
                self.enforced = lines.iter().take(32).map(|line| logs::printable(line.as_bytes())).collect();
                Ok(())
            }
            Ok(Ok((other, _))) => {
                let text = format!("it begins with {other:?} and not with what it has enforced");
                Err(self.lost(&text).await)
            }
            Ok(Err(error)) => Err(self.lost(&error).await),
            Err(_) => Err(self.lost(&"it does not say that it is sealed").await),
        }
    }

    /// Asks for something and follows the state it leads to.
    pub async fn ask(&mut self, request: Request) -> Result<Reply, Fault> {
        self.ask_with(request, &[]).await
    }

    /// Asks for something, with descriptors.
    pub async fn ask_with(&mut self, request: Request, fds: &[OwnedFd]) -> Result<Reply, Fault> {
        let Some(after) = self.state.after(&request).filter(|_| !self.dead) else {
            return Err(Fault::Refused(Problem::new(
                Class::State,
                format!("{} is {:?} and cannot be asked to {}", self.row.name, self.state, word(&request)),
                self.row.name,
                "report this as a bug",
            )));
        };
        let deadline = Deadline::after(request.deadline());
        match self.channel.request(&request, fds, deadline).await {
            Ok((Reply::Failed(failure), _)) => Err(Fault::Refused(Problem::host(
                logs::printable(format!("{}: {}", failure.what, failure.why).as_bytes()),
                self.row.name,
                "look at the log for more",
            ))),
            Ok((reply, _)) => {
                self.state = after;
                Ok(reply)
            }
            Err(error) => {
                let text = format!("asked to {}: {error}", word(&request));
                Err(self.lost(&text).await)
            }
        }
    }

    /// Asks for something that has no answer but `Done`.
    pub async fn order(&mut self, request: Request) -> Result<(), Fault> {
        let asked = word(&request);
        match self.ask(request).await? {
            Reply::Done => Ok(()),
            other => {
                let text = format!("asked to {asked}: it answers {other:?}");
                Err(self.lost(&text).await)
            }
        }
    }

    /// What the process says or suffers next: an event, or its loss. Cancel-safe.
    pub async fn next(&self) -> Result<Event, ChannelError> {
        let early = self.early.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        if let Some(event) = early {
            return Ok(event);
        }
        tokio::select! {
            event = self.channel.next_event() => event.map(|(event, _)| event),
            _ = self.ended.readable() => {
                // What it said before it died comes first.
                match timeout(Duration::ZERO, self.channel.next_event()).await {
                    Ok(Ok((event, _))) => Ok(event),
                    Ok(Err(_)) | Err(_) => Err(ChannelError::PeerGone { generation: self.generation }),
                }
            }
        }
    }

    /// Whether an event is waiting: for operations that must not overtake one. It is kept for [`Self::next`].
    pub async fn has_event(&self) -> bool {
        while let Ok(Ok((event, _))) = timeout(Duration::ZERO, self.channel.next_event()).await {
            self.early.lock().unwrap_or_else(PoisonError::into_inner).push_back(event);
        }
        !self.early.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Makes sure the process is dead and tells what is known about it; `said` is how the loss showed.
    pub async fn lost(&mut self, said: &(dyn std::fmt::Display + Sync)) -> Fault {
        self.dead = true;
        self.state = State::Ended;
        let exit = end(&self.child, &self.ended).await;
        let last_lines = self.log.last_lines().await;
        Fault::Lost(describe(self.row, self.generation, &self.crash, exit, said, last_lines))
    }

    /// Ends the process: politely first, then by force. Whatever happens, it is gone afterwards.
    pub async fn finish(mut self) {
        if !self.dead
            && let Err(fault) = self.order(Request::Quit).await
        {
            tracing::warn!(process = self.row.name, "did not quit: {}", fault.into_problem());
        }
        end(&self.child, &self.ended).await;
        // Lines written on the way out still reach the log.
        self.log.last_lines().await;
    }

    /// Ends the process at once, without letting it do anything more: it must not deliver what another process
    /// has taken over.
    pub async fn discard(mut self) {
        // Fails only for a process that has ended by itself.
        let _ = self.child.kill();
        end(&self.child, &self.ended).await;
        self.log.last_lines().await;
    }

    /// Its row for the API.
    pub fn picture(&self) -> types::Process {
        types::Process {
            name: self.row.name.to_owned(),
            role: self.row.role.to_string(),
            program: self.row.program.to_owned(),
            pid: self.child.pid,
            host_pid: None,
            generation: self.generation,
            state: if self.dead { "dead".to_owned() } else { format!("{:?}", self.state).to_lowercase() },
            profile: self.row.profile().name.to_owned(),
            restart: self.row.restart.word().to_owned(),
            enforced: self.enforced.clone(),
            limits: Some(self.limits),
            observed: None,
        }
    }
}

/// A spawned process whose handle is not complete yet: killed if it never gets complete.
struct Unfinished(Option<Child>);

impl Unfinished {
    fn child(&self) -> std::io::Result<&Child> {
        self.0.as_ref().ok_or_else(|| std::io::ErrorKind::NotFound.into())
    }

    async fn bury(
        &mut self,
        row: &'static Row,
        generation: u32,
        ended: &AsyncFd<OwnedFd>,
        crash: &CrashPage,
        mut log: Log,
        said: &ChannelError,
    ) -> Lost {
        let exit = match self.0.take() {
            Some(child) => end(&child, ended).await,
            None => None,
        };
        let last_lines = log.last_lines().await;
        describe(row, generation, crash, exit, said, last_lines)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(child) = self.0.take() {
            // Both only fail for a process that is gone already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Waits a moment for the process to end by itself, then kills it; reaps it either way.
async fn end(child: &Child, ended: &AsyncFd<OwnedFd>) -> Option<Exit> {
    let by_itself = timeout(END_DEADLINE, ended.readable()).await.is_ok();
    if !by_itself {
        // Fails only for a process that has ended just now.
        let _ = child.kill();
    }
    let _ = timeout(END_DEADLINE, ended.readable()).await;
    match child.try_wait() {
        // A process that ended of our own kill died of silence, not of the signal.
        Ok(exit) => exit.filter(|_| by_itself),
        Err(_) => None,
    }
}

/// Everything known about a lost process, as a problem.
fn describe(
    row: &'static Row,
    generation: u32,
    crash: &CrashPage,
    exit: Option<Exit>,
    said: &(dyn std::fmt::Display + Sync),
    last_lines: Vec<String>,
) -> Lost {
    let how = match exit {
        Some(Exit::Code(code)) => format!("ended with exit code {code}"),
        Some(Exit::Signal(signal)) => format!("was killed by signal {signal}"),
        None => "had to be killed".to_owned(),
    };
    // Its own last word says more than the broken channel that showed its end.
    let why = match (report::read(crash, &row.profile()), last_lines.last()) {
        (Some(death), _) => death.to_string(),
        (None, Some(line)) => {
            format!("{}; its last line was: {line}", logs::printable(said.to_string().as_bytes()))
        }
        (None, None) => logs::printable(said.to_string().as_bytes()),
    };
    Lost {
        problem: Problem::new(
            Class::Died,
            format!("process {} (generation {generation}) {how}: {why}", row.name),
            row.name,
            "the VM has ended with it; start it again, and report this if it was not killed by hand",
        ),
        last_lines,
    }
}

/// The request's name in a sentence.
const fn word(request: &Request) -> &'static str {
    match request {
        Request::Configure(_) => "configure itself",
        Request::Start => "start",
        Request::Pause => "pause",
        Request::Resume => "resume",
        Request::Quit => "quit",
        Request::Save => "save its state",
        Request::Restore { .. } => "restore a state",
        Request::DirtyLog(_) => "switch its dirty log",
        Request::Inspect => "be inspected",
        Request::Probe(_) => "probe its sandbox",
    }
}
