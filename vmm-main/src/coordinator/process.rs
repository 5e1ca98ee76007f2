// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One process of the VM, from spawn to reaping: the coordinator's handle on it.
//!
//! Every request has the contract's deadline. A request fails in one of two ways that must not be mixed up:
//! the process says no and lives ([`Fault::Refused`]), or it is lost ([`Fault::Lost`]: dead, silent past
//! its deadline, or breaking the contract) and the supervisor has to decide.

use std::collections::VecDeque;
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ipc::channel::{self, AsyncChannel};
use ipc::deadline::Deadline;
use ipc::error::Error as ChannelError;
use ipc::hello::{Hello, Role};
use ipc::protocol::budget;
use ipc::protocol::control::{Event, Reply, Request};
use ipc::protocol::lifecycle::State;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sandbox::report::{self, CrashPage};
use sandbox::spawn::{Child, Exit, Spawn};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{timeout, timeout_at};

use super::inspector::Inspector;
use super::logs::{self, Log};
use super::objects::Objects;
use crate::api::types;
use crate::problem::{Class, Problem};
use crate::readiness;
use crate::system::{EdgeKind, Instance};

/// From exec to a sealed, greeted process: milliseconds on an idle host.
const START_DEADLINE: Duration = Duration::from_secs(10);
/// For a process that is as good as dead to end by itself: its exit says more than a kill does.
const EXIT_DEADLINE: Duration = Duration::from_secs(3);
/// For a killed process to be gone. Only one that hangs in the kernel takes longer.
const KILL_DEADLINE: Duration = Duration::from_secs(2);
/// The most that [`Process::finish`] takes.
pub const FINISH_SPAN: Duration = budget::sum(&[budget::QUIT, KILL_DEADLINE, logs::LAST_LINES_DEADLINE]);
/// From the order to start to the word about the device: opening it, one answer of the vCPU process beyond that, and a busy
/// host.
const OUTCOME_DEADLINE: Duration = budget::sum(&[budget::vfio::OPENING, budget::vfio::GATE, budget::SLACK]);

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
    /// Which process it was.
    pub instance: Arc<Instance>,
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
    /// Which it is, and all that the system table says of it.
    pub instance: Arc<Instance>,
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
    /// What its device came to, once it was told.
    device_outcome: Option<Option<String>>,
    /// Events that were looked at before their time.
    early: Mutex<VecDeque<Event>>,
    child: Child,
    ended: AsyncFd<OwnedFd>,
    /// It has been reaped.
    reaped: bool,
    channel: Arc<AsyncChannel>,
    inspector: Inspector,
    crash: CrashPage,
    log: Log,
}

impl Process {
    /// Spawns the process and waits until it is sealed and has greeted.
    pub async fn start(instance: &Arc<Instance>, generation: u32, objects: &Objects) -> Result<Self, Fault> {
        let (id, program) = (instance.id, instance.template.program);
        let refuse = |step: &'static str, error: &dyn std::fmt::Display| {
            Fault::Refused(Problem::host(
                format!("{id} cannot be started: {step}: {error}"),
                id.to_string(),
                "check the host's limits on memory, files and processes",
            ))
        };
        let crash = CrashPage::create().map_err(|error| refuse("make the crash page", &error))?;
        let (ours, theirs) = channel::pair().map_err(|error| refuse("make the channel", &error))?;
        let (log, log_theirs) = std::io::pipe().map_err(|error| refuse("make the log pipe", &error))?;
        let log_theirs = OwnedFd::from(log_theirs);

        let mut fds = Vec::new();
        for (number, descriptor) in (0..).zip(&instance.descriptors) {
            let source = match descriptor.object.kind {
                EdgeKind::Control => theirs.as_fd(),
                EdgeKind::CrashPage => crash.as_fd(),
                EdgeKind::Log => log_theirs.as_fd(),
                _ => objects
                    .end_of(descriptor)
                    .ok_or_else(|| refuse("find its objects", &format!("there is no {}", descriptor.slot)))?,
            };
            fds.push((number, source));
        }
        let file = objects
            .system()
            .program(program)
            .and_then(|object| objects.get(object))
            .ok_or_else(|| refuse("find its program", &program))?;
        let words = [program, &id.to_string(), &generation.to_string(), &fds.len().to_string()]
            .map(|word| CString::new(word).unwrap_or_default());
        let argv: Vec<_> = words.iter().map(CString::as_c_str).collect();
        let size = objects.size().map_err(|error| refuse("measure its image", &error))?;
        let profile = objects.system().profile_of(instance, size);
        let child =
            Spawn { program: file, argv: &argv, fds: &fds, profile: &profile, own_id: None, cgroup: None }
                .spawn()
                .map_err(|error| refuse("spawn", &error))?;
        // Its ends are its own now: their end of file means that it is gone.
        drop((theirs, log_theirs));

        let mut guard = Unfinished(Some(child));
        let log =
            Log::follow(id, generation, log.into()).map_err(|error| refuse("follow its log", &error))?;
        let ended = guard
            .child()
            .and_then(|child| child.pidfd.try_clone())
            .and_then(|pidfd| readiness::watch(pidfd, Interest::READABLE))
            .map_err(|error| refuse("watch it", &error))?;
        let hello = Hello::new(Role::Coordinator, generation);
        let connected = AsyncChannel::connect(ours, hello, id.role, Deadline::after(START_DEADLINE)).await;
        let channel = match connected {
            Ok(channel) => channel,
            Err(error) => {
                return Err(Fault::Lost(guard.bury(instance, generation, &ended, &crash, log, &error).await));
            }
        };
        let Some(child) = guard.0.take() else { return Err(refuse("keep it", &"no child")) };
        let channel = Arc::new(channel);
        let inspector = Inspector::new(id, Arc::clone(&channel));
        let mut process = Self {
            instance: Arc::clone(instance),
            generation,
            state: State::Unconfigured,
            enforced: Vec::new(),
            limits: types::Limits::of(&profile),
            dead: false,
            device_outcome: None,
            early: Mutex::default(),
            child,
            ended,
            reaped: false,
            channel,
            inspector,
            crash,
            log,
        };
        process.await_seal().await?;
        tracing::info!(process = %id, generation, pid = process.child.pid, "sealed");
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
                format!("{} is {:?} and cannot be asked to {}", self.instance.id, self.state, word(&request)),
                self.instance.id.to_string(),
                "report this as a bug",
            )));
        };
        let deadline = Deadline::after(budget::deadline(self.instance.id.role, &request));
        match self.channel.request(&request, fds, deadline).await {
            Ok((Reply::Failed(failure), _)) => Err(Fault::Refused(Problem::host(
                logs::printable(format!("{}: {}", failure.what, failure.why).as_bytes()),
                self.instance.id.to_string(),
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

    /// What became of the device of a process that was just started: `None` if it is open, else why it is lost.
    pub async fn device_outcome(&mut self) -> Result<Option<String>, Fault> {
        if let Some(outcome) = &self.device_outcome {
            return Ok(outcome.clone());
        }
        match timeout(OUTCOME_DEADLINE, self.next()).await {
            Ok(Ok(Event::DeviceOpened)) => Ok(self.device_outcome.insert(None).clone()),
            Ok(Ok(Event::DeviceFailed(reason))) => Ok(self.device_outcome.insert(Some(reason)).clone()),
            Ok(Ok(Event::Fatal(reason))) => Err(self.lost(&reason).await),
            Ok(Ok(other)) => {
                let text = format!("it says {other:?} while its device is being opened");
                Err(self.lost(&text).await)
            }
            Ok(Err(error)) => Err(self.lost(&error).await),
            Err(_) => Err(self.lost(&"it does not say what became of its device").await),
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

    /// Whether the process ends within that time. Cancel-safe.
    pub async fn ends_within(&self, span: Duration) -> bool {
        timeout(span, self.ended.readable()).await.is_ok()
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
        let exit = self.end_by(Deadline::after(EXIT_DEADLINE)).await;
        let last_lines = self.log.last_lines().await;
        Fault::Lost(describe(&self.instance, self.generation, &self.crash, exit, said, last_lines))
    }

    /// Ends the process: politely first, then by force, within [`FINISH_SPAN`] whatever it is doing. False: it hangs in the
    /// kernel, with all that it holds. May be given up and begun anew.
    pub async fn finish(&mut self) -> bool {
        let until = Deadline::after(budget::QUIT);
        if !self.dead
            && let Err(error) = self.channel.request(&Request::Quit, &[], until).await
        {
            tracing::warn!(process = %self.instance.id, "did not quit and is killed: {error}");
        }
        self.dead = true;
        self.end_by(until).await;
        // Lines written on the way out still reach the log.
        self.log.last_lines().await;
        self.reaped
    }

    /// Ends the process at once, without letting it do anything more: it must not deliver what another process
    /// has taken over.
    pub async fn discard(mut self) {
        self.dead = true;
        self.end_by(Deadline::now()).await;
        self.log.last_lines().await;
    }

    /// Waits until then for the process to end by itself, then kills it; reaps it either way. How it ended, if by itself.
    async fn end_by(&mut self, until: Deadline) -> Option<Exit> {
        let exit = end(&self.child, &self.ended, until).await;
        self.reaped |= matches!(exit, End::ByItself(_) | End::Killed);
        match exit {
            End::ByItself(exit) => exit,
            End::Killed | End::Hangs => None,
        }
    }

    /// What asks it about itself, beside everything else.
    pub fn inspector(&self) -> Inspector {
        self.inspector.clone()
    }

    /// What the API shows of it.
    pub fn picture(&self) -> types::Process {
        types::Process {
            name: self.instance.id.to_string(),
            role: self.instance.id.role.to_string(),
            program: self.instance.template.program.to_owned(),
            pid: self.child.pid,
            host_pid: None,
            generation: self.generation,
            state: if self.dead { "dead".to_owned() } else { format!("{:?}", self.state).to_lowercase() },
            profile: self.instance.template.profile().name.to_owned(),
            restart: self.instance.template.restart.as_str().to_owned(),
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
        instance: &Arc<Instance>,
        generation: u32,
        ended: &AsyncFd<OwnedFd>,
        crash: &CrashPage,
        mut log: Log,
        said: &ChannelError,
    ) -> Lost {
        let exit = match self.0.take() {
            Some(child) => match end(&child, ended, Deadline::after(EXIT_DEADLINE)).await {
                End::ByItself(exit) => exit,
                End::Killed | End::Hangs => None,
            },
            None => None,
        };
        let last_lines = log.last_lines().await;
        describe(instance, generation, crash, exit, said, last_lines)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(child) = self.0.take() {
            kill_and_reap(&child);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Given up in the middle of something: an order to stop does not wait for it.
        if !self.reaped {
            kill_and_reap(&self.child);
        }
    }
}

/// Kills a process and waits for it in place, a moment at most.
fn kill_and_reap(child: &Child) {
    // Each fails only for a process that is gone already.
    let _ = child.kill();
    let moment = Timespec { tv_sec: 1, tv_nsec: 0 };
    let _ = poll(&mut [PollFd::new(&child.pidfd, PollFlags::IN)], Some(&moment));
    let _ = child.try_wait();
}

/// How the end of a process came about.
enum End {
    /// It ended before it was killed, and how, if that is known.
    ByItself(Option<Exit>),
    /// It had to be killed: it died of its silence, not of the signal.
    Killed,
    /// It is not gone though it was killed.
    Hangs,
}

/// Waits until then for the process to end by itself, then kills it; reaps it either way.
async fn end(child: &Child, ended: &AsyncFd<OwnedFd>, until: Deadline) -> End {
    let by_itself = timeout_at(until.instant().into(), ended.readable()).await.is_ok();
    if !by_itself {
        // Fails only for a process that has ended just now.
        let _ = child.kill();
        if timeout(KILL_DEADLINE, ended.readable()).await.is_err() {
            return End::Hangs;
        }
    }
    // An error: it was reaped before.
    let exit = child.try_wait().ok().flatten();
    if by_itself { End::ByItself(exit) } else { End::Killed }
}

/// Everything known about a lost process, as a problem.
fn describe(
    instance: &Arc<Instance>,
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
    let why = match (report::read(crash, &instance.template.profile()), last_lines.last()) {
        (Some(death), _) => death.to_string(),
        (None, Some(line)) => {
            format!("{}; its last line was: {line}", logs::printable(said.to_string().as_bytes()))
        }
        (None, None) => logs::printable(said.to_string().as_bytes()),
    };
    Lost {
        instance: Arc::clone(instance),
        problem: Problem::new(
            Class::Died,
            format!("process {} (generation {generation}) {how}: {why}", instance.id),
            instance.id.to_string(),
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
