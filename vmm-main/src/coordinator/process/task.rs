// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The task of one process: hello, requests and replies, events, and the process's end, concurrently.
//!
//! Events that a process sent before a reply are passed on before it, so that a guest reset is known before the pause
//! after it. The loop ends when the process is lost or is to be ended; then it is reaped. A process that reports no
//! progress in a long request counts as lost ([`budget::SILENCE`]), as does one that does not make progress between
//! requests ([`Heartbeat`]). All of its deadlines are in the coordinator's own time.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use ipc::channel::{AsyncChannel, EVENTS_MAX};
use ipc::deadline::Deadline;
use ipc::error::Error as ChannelError;
use ipc::hello::{Hello, Role};
use ipc::protocol::budget;
use ipc::protocol::control::{Event, LoadFrom, Reply, Request};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::ending::Running;
use super::heartbeat::{Beat, Hang, Heartbeat};
use super::{Launched, TaskEvent, TaskMessage};
use crate::coordinator::inspector::Question;
use crate::coordinator::log_limit::LogLimit;
use crate::coordinator::logs;
use crate::coordinator::own_time::{Countdown, within};
use crate::coordinator::spans::START_DEADLINE;
use crate::coordinator::vm::action::Ending;
use crate::coordinator::vm::event::LifeId;
use crate::problem::Problem;

/// For reading the last events of a process that has ended, which are in the socket.
const LAST_EVENTS_DEADLINE: Duration = Duration::from_millis(200);
/// The most lines kept of what a process reports to have enforced.
const ENFORCED_MAX: usize = 32;

/// Serves a process until it has ended.
pub(super) async fn serve(
    launched: Launched,
    life: LifeId,
    hang_deadline: Option<Duration>,
    mut messages: mpsc::Receiver<TaskMessage>,
    questions: mpsc::Receiver<Question>,
    events: mpsc::Sender<(LifeId, TaskEvent)>,
) {
    let Launched { running, channel, limits: _ } = launched;
    let greeting = Greeting { life, role: life.instance.role };
    // The start ends early if the process is to be ended, or ends by itself.
    let greeted = tokio::select! {
        biased;
        ending = end_message(&mut messages) => Err(ending),
        greeted = greeting.exchange(channel) => greeted.map_err(Ending::Failed),
    };
    let (ending, channel) = match greeted {
        Ok((channel, enforced)) => {
            tracing::info!(
                process = %life.instance,
                generation = life.generation,
                pid = running.pid(),
                "sealed"
            );
            let _ = events.send((life, TaskEvent::Started(enforced))).await;
            let conversation = Conversation {
                life,
                running: &running,
                channel: Arc::clone(&channel),
                events: &events,
                limit: LogLimit::new(u32::try_from(EVENTS_MAX).unwrap_or(u32::MAX)),
                asked: None,
                takes_long: false,
                is_opening: false,
                silent_after: None,
                heartbeat: hang_deadline
                    .map(|deadline| Heartbeat::new(life.instance.role, deadline, Instant::now())),
                work: JoinSet::new(),
            };
            (conversation.hold(&mut messages, questions).await, Some(channel))
        }
        Err(ending) => (ending, None),
    };
    let departure = running.end(ending, channel.as_deref()).await;
    let _ = events.send((life, TaskEvent::Gone(departure))).await;
}

/// Waits for the message to end the process. Before it has started, the coordinator sends no other.
async fn end_message(messages: &mut mpsc::Receiver<TaskMessage>) -> Ending {
    loop {
        match messages.recv().await {
            Some(TaskMessage::End(ending)) => return ending,
            Some(TaskMessage::Request(..) | TaskMessage::Notification(_)) => {}
            None => return Ending::Discard,
        }
    }
}

/// The start of a conversation.
struct Greeting {
    life: LifeId,
    role: Role,
}

impl Greeting {
    /// Exchanges hello, and waits for the first event: what the process has enforced.
    async fn exchange(self, socket: OwnedFd) -> Result<(Arc<AsyncChannel>, Vec<String>), String> {
        let until = Deadline::after(Deadline::SPAN_MAX);
        let hello = Hello::new(Role::Coordinator, self.life.generation);
        let channel = within(START_DEADLINE, AsyncChannel::connect(socket, hello, self.role, until))
            .await
            .unwrap_or(Err(ChannelError::Timeout { waiting_to: "receive a process's hello" }))
            .map_err(|error| error.to_string())?;
        match within(START_DEADLINE, channel.next_event()).await {
            Ok(Ok((Event::Sealed(lines), _))) => {
                let lines = lines.iter().take(ENFORCED_MAX).map(|line| logs::printable(line.as_bytes()));
                Ok((Arc::new(channel), lines.collect()))
            }
            Ok(Ok((other, _))) => Err(format!("its first event is {other:?}, not Sealed")),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("it did not report in time that it is sealed".to_owned()),
        }
    }
}

/// A finished request.
enum Finished {
    /// The open request, by its name.
    Request(&'static str, Result<Reply, ChannelError>),
    /// A request whose reply no operation waits for.
    Notification(Result<Reply, ChannelError>),
    /// An `Inspect`, whose reply has been passed on.
    Inspect,
    /// A `Heartbeat`.
    Heartbeat(Result<Reply, ChannelError>),
}

/// The requests and events of a process after hello.
struct Conversation<'a> {
    life: LifeId,
    running: &'a Running,
    channel: Arc<AsyncChannel>,
    events: &'a mpsc::Sender<(LifeId, TaskEvent)>,
    /// Limits events: a process that floods must not keep the coordinator busy.
    limit: LogLimit,
    /// The name of the open request.
    asked: Option<&'static str>,
    /// Whether its deadline is longer than [`budget::SILENCE`].
    takes_long: bool,
    /// Its device is being opened; the outcome is an event.
    is_opening: bool,
    /// When it counts as lost unless it reports progress. None while nothing takes long.
    silent_after: Option<Countdown>,
    /// Whether it makes progress. None: it is not asked.
    heartbeat: Option<Heartbeat>,
    /// The open request, the open `Inspect` and the open `Heartbeat`, at most one each, and all notifications.
    work: JoinSet<Finished>,
}

impl Conversation<'_> {
    /// Serves until the process is lost or is to be ended; returns how to end it.
    async fn hold(
        mut self,
        messages: &mut mpsc::Receiver<TaskMessage>,
        mut questions: mpsc::Receiver<Question>,
    ) -> Ending {
        let mut asking = false;
        let (channel, running) = (Arc::clone(&self.channel), self.running);
        loop {
            // Every arm is cancel-safe: queues, readiness, and tasks that go on.
            let heard = tokio::select! {
                biased;
                event = channel.next_event() => match event {
                    Ok((event, _)) => self.report(event).await,
                    Err(error) => Err(self.lost(&error)),
                },
                () = running.wait() => Err(self.last_events().await),
                () = over(&mut self.silent_after) => Err(self.silence()),
                () = due(self.heartbeat.as_ref()) => match self.beat() {
                    Ok(()) => Ok(()),
                    Err(hang) => return Ending::Hung(hang.to_string()),
                },
                message = messages.recv() => match message {
                    Some(TaskMessage::End(ending)) => return ending,
                    Some(TaskMessage::Request(request, fds)) => {
                        self.ask(request, fds);
                        Ok(())
                    }
                    Some(TaskMessage::Notification(request)) => {
                        self.say(request);
                        Ok(())
                    }
                    None => return Ending::Discard,
                },
                Some(finished) = self.work.join_next() => match finished {
                    Ok(Finished::Request(name, reply)) => self.answered(name, reply).await,
                    Ok(Finished::Notification(Ok(Reply::Failed(failure)))) => {
                        let why = logs::printable(format!("{}: {}", failure.what, failure.why).as_bytes());
                        tracing::warn!(process = %self.life.instance, "{why}");
                        Ok(())
                    }
                    Ok(Finished::Notification(Ok(Reply::Done))) => Ok(()),
                    Ok(Finished::Notification(Ok(other))) => Err(format!("unexpected reply to a notification: {other:?}")),
                    Ok(Finished::Notification(Err(error))) => Err(self.lost(&error)),
                    Ok(Finished::Heartbeat(Ok(Reply::Alive { turns }))) => match self.is_alive(turns) {
                        Ok(()) => Ok(()),
                        Err(hang) => return Ending::Hung(hang.to_string()),
                    },
                    Ok(Finished::Heartbeat(Ok(other))) => {
                        Err(format!("unexpected reply to a heartbeat: {other:?}"))
                    }
                    Ok(Finished::Heartbeat(Err(error))) => Err(self.lost(&error)),
                    Ok(Finished::Inspect) | Err(_) => {
                        asking = false;
                        Ok(())
                    }
                },
                Some(question) = questions.recv(), if !asking => {
                    asking = true;
                    self.question(question);
                    Ok(())
                }
            };
            if let Err(why) = heard {
                return Ending::Failed(why);
            }
        }
    }

    fn ask(&mut self, request: Request, fds: Vec<OwnedFd>) {
        let (channel, name) = (Arc::clone(&self.channel), name(&request));
        let role = self.life.instance.role;
        let span = budget::deadline(role, &request);
        self.asked = Some(name);
        self.is_opening |= role == Role::Vfio && matches!(request, Request::Arm);
        self.takes_long = span > budget::SILENCE;
        self.hears_progress();
        self.work.spawn(async move {
            Finished::Request(name, request_within(&channel, &request, &fds, span).await)
        });
    }

    /// Sends a request whose reply no operation waits for, beside the open one.
    fn say(&mut self, request: Request) {
        let channel = Arc::clone(&self.channel);
        let span = budget::deadline(self.life.instance.role, &request);
        self.work.spawn(async move {
            Finished::Notification(request_within(&channel, &request, &[], span).await)
        });
    }

    /// Asks for a sign of life, if it is time for that.
    fn beat(&mut self) -> Result<(), Hang> {
        let Some(heartbeat) = &mut self.heartbeat else { return Ok(()) };
        match heartbeat.beat(Instant::now(), self.asked.is_some()) {
            Beat::Hung(hang) => return Err(hang),
            Beat::Rest => {}
            Beat::Ask => {
                let channel = Arc::clone(&self.channel);
                self.work.spawn(async move {
                    // Its deadline are the beats.
                    let until = Deadline::after(Deadline::SPAN_MAX);
                    let reply = channel.request(&Request::Heartbeat, &[], until).await;
                    Finished::Heartbeat(reply.map(|(reply, _)| reply))
                });
            }
        }
        Ok(())
    }

    fn is_alive(&mut self, turns: Option<u64>) -> Result<(), Hang> {
        self.heartbeat.as_mut().map_or(Ok(()), |heartbeat| heartbeat.answered(turns))
    }

    /// Sends an `Inspect`. It stays open until it is answered or the process is gone, even if its caller has stopped
    /// waiting, so that API clients cannot fill the channel.
    fn question(&mut self, question: Question) {
        let channel = Arc::clone(&self.channel);
        self.work.spawn(async move {
            if !question.is_closed() {
                let until = Deadline::after(Deadline::SPAN_MAX);
                let reply = channel.request(&Request::Inspect, &[], until).await;
                let _ = question.send(reply.map(|(reply, _)| reply));
            }
            Finished::Inspect
        });
    }

    async fn answered(
        &mut self,
        name: &'static str,
        reply: Result<Reply, ChannelError>,
    ) -> Result<(), String> {
        let answer = match reply {
            Ok(Reply::Failed(failure)) => TaskEvent::Refused(Problem::host(
                logs::printable(format!("{}: {}", failure.what, failure.why).as_bytes()),
                self.life.instance.to_string(),
                "look at the log for more",
            )),
            Ok(reply) if fits(self.life.instance.role, name, &reply) => TaskEvent::Answered(reply),
            Ok(other) => return Err(format!("asked to {name}: unexpected reply {other:?}")),
            Err(error) => match error.unsent() {
                // The request was not sent: the process is as it was.
                Some(source) => TaskEvent::Refused(
                    Problem::host(
                        format!("the request to {name} could not be sent: {error}"),
                        self.life.instance.to_string(),
                        "look at the log for more",
                    )
                    .because_of(source),
                ),
                None => return Err(self.lost(&error)),
            },
        };
        (self.asked, self.takes_long) = (None, false);
        self.hears_progress();
        self.tell(answer).await
    }

    async fn report(&mut self, event: Event) -> Result<(), String> {
        if !self.limit.allows(Instant::now().into_std()) {
            return Err("peer broke the contract: it floods the coordinator with events".to_owned());
        }
        match event {
            Event::Progress => {
                self.hears_progress();
                return Ok(());
            }
            Event::DeviceOpened | Event::DeviceFailed(_) => {
                self.is_opening = false;
                self.hears_progress();
            }
            _ => {}
        }
        self.tell(TaskEvent::Reported(event)).await
    }

    /// The process has made progress: the next report is due within [`budget::SILENCE`], if anything takes long.
    fn hears_progress(&mut self) {
        let takes_long = self.takes_long || self.is_opening;
        self.silent_after = takes_long.then(|| Countdown::new(budget::SILENCE));
    }

    /// Why it counts as lost when no progress was reported.
    fn silence(&self) -> String {
        let span = budget::SILENCE.as_secs();
        format!("asked to {}: it made no progress for {span} s", self.asked.unwrap_or("open its device"))
    }

    /// The process has ended: passes on the events that it sent before.
    async fn last_events(&mut self) -> String {
        let until = Instant::now() + LAST_EVENTS_DEADLINE;
        let channel = Arc::clone(&self.channel);
        while let Ok(Ok((event, _))) = timeout_at(until, channel.next_event()).await {
            if let Err(why) = self.report(event).await {
                return why;
            }
        }
        self.lost(&ChannelError::PeerGone { generation: self.life.generation })
    }

    /// How the loss of the process was noticed.
    fn lost(&self, error: &ChannelError) -> String {
        match self.asked {
            Some(name) => format!("asked to {name}: {error}"),
            None => error.to_string(),
        }
    }

    async fn tell(&self, event: TaskEvent) -> Result<(), String> {
        self.events.send((self.life, event)).await.map_err(|_| "its VM has ended".to_owned())
    }
}

/// Sends a request and waits for its reply, for a span of the coordinator's own time.
async fn request_within(
    channel: &AsyncChannel,
    request: &Request,
    fds: &[OwnedFd],
    span: Duration,
) -> Result<Reply, ChannelError> {
    let until = Deadline::after(Deadline::SPAN_MAX);
    let reply = within(span, channel.request(request, fds, until)).await;
    let reply = reply.unwrap_or(Err(ChannelError::Timeout { waiting_to: "receive a process's reply" }));
    reply.map(|(reply, _)| reply)
}

/// Waits until it is over; for ever, if there is none. Cancel-safe.
async fn over(countdown: &mut Option<Countdown>) {
    match countdown {
        Some(countdown) => countdown.over().await,
        None => std::future::pending().await,
    }
}

/// Waits until the next beat is due; for ever, if there is none. Cancel-safe.
async fn due(heartbeat: Option<&Heartbeat>) {
    match heartbeat {
        Some(heartbeat) => sleep_until(heartbeat.due()).await,
        None => std::future::pending().await,
    }
}

/// Whether a process of this role may answer that request with this reply.
fn fits(role: Role, name: &str, reply: &Reply) -> bool {
    let is_replay = name == REPLAY && role == Role::Smmu;
    match reply {
        Reply::Done => ![SAVE, PROBE, PAUSE, DIRTY_LOG].contains(&name) && !is_replay,
        Reply::Saved { .. } => name == SAVE,
        Reply::Probe(_) => name == PROBE,
        Reply::Paused(_) => name == PAUSE,
        Reply::Replayed(_) => is_replay,
        Reply::DirtyLog(_) => name == DIRTY_LOG,
        Reply::Inspect(_) | Reply::Alive { .. } | Reply::Failed(_) => false,
    }
}

const SAVE: &str = "save its state";
const PROBE: &str = "probe its sandbox";
const PAUSE: &str = "pause";
const REPLAY: &str = "replay its state";
const DIRTY_LOG: &str = "switch its dirty log";

/// The request as a verb phrase, for messages.
const fn name(request: &Request) -> &'static str {
    match request {
        Request::Configure(_) => "configure itself",
        Request::Load(LoadFrom::Reset) => "load its reset state",
        Request::Load(LoadFrom::Units { .. }) => "load its saved state",
        Request::Load(LoadFrom::Checkpoint) => "load its checkpoint",
        Request::Load(LoadFrom::Failed) => "begin as a device that has failed",
        Request::Arm => "arm",
        Request::Replay => REPLAY,
        Request::Go => "go",
        Request::Pause => PAUSE,
        Request::Resume => "resume",
        Request::Quit => "quit",
        Request::CheckSave => "say whether it can be saved",
        Request::Save => SAVE,
        Request::Rewire { .. } => "take a new channel",
        Request::DirtyLog(_) => DIRTY_LOG,
        Request::Inspect => "be inspected",
        Request::Heartbeat => "answer a heartbeat",
        Request::DmaEnded { .. } => "note the end of a device's DMA",
        Request::Throttle { .. } => "slow the guest's CPUs down",
        Request::Carry(_) => "carry",
        Request::HoldCpus { held: true } => "hold the guest's CPUs",
        Request::HoldCpus { held: false } => "let the guest's CPUs go on",
        Request::Probe(_) => PROBE,
    }
}
