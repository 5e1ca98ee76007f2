// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The task of one process: greets it, carries requests and answers, hears its events and its end, all at once.
//!
//! What a process tells comes before what it answers, as it sent them: a guest's reset is known before the pause that
//! follows it is. Whatever shows that the process is lost ends the loop, and so does an order to end it; then it is
//! reaped.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipc::channel::{AsyncChannel, EVENTS_MAX};
use ipc::deadline::Deadline;
use ipc::error::Error as ChannelError;
use ipc::hello::{Hello, Role};
use ipc::protocol::budget;
use ipc::protocol::control::{Event, LoadFrom, Reply, Request};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{timeout, timeout_at};

use super::ending::Running;
use super::{Launched, Order, TaskEvent};
use crate::coordinator::inspector::Question;
use crate::coordinator::log_limit::LogLimit;
use crate::coordinator::logs;
use crate::coordinator::vm::action::Ending;
use crate::coordinator::vm::event::LifeId;
use crate::problem::Problem;

/// From exec to a sealed, greeted process: milliseconds on an idle host.
const START_DEADLINE: Duration = Duration::from_secs(10);
/// For what a dead process has sent to be read: it lies in the socket.
const LAST_EVENTS_DEADLINE: Duration = Duration::from_millis(200);
/// Lines about what is enforced that are kept.
const ENFORCED_MAX: usize = 32;

/// Follows a process to the end of its life.
pub(super) async fn serve(
    launched: Launched,
    life: LifeId,
    mut orders: mpsc::Receiver<Order>,
    questions: mpsc::Receiver<Question>,
    events: mpsc::Sender<(LifeId, TaskEvent)>,
) {
    let Launched { running, channel, limits: _ } = launched;
    let greeting = Greeting { life, role: life.instance.role };
    // Greeting is given up for an order to end, and for the process's own end.
    let greeted = tokio::select! {
        biased;
        ending = ordered_end(&mut orders) => Err(ending),
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
                work: JoinSet::new(),
            };
            (conversation.hold(&mut orders, questions).await, Some(channel))
        }
        Err(ending) => (ending, None),
    };
    let departure = running.end(ending, channel.as_deref()).await;
    let _ = events.send((life, TaskEvent::Gone(departure))).await;
}

/// Waits for an order to end. Before a process has greeted there is no other.
async fn ordered_end(orders: &mut mpsc::Receiver<Order>) -> Ending {
    loop {
        match orders.recv().await {
            Some(Order::End(ending)) => return ending,
            Some(Order::Ask(..) | Order::Tell(_)) => {}
            None => return Ending::Discard,
        }
    }
}

/// How a process is met.
struct Greeting {
    life: LifeId,
    role: Role,
}

impl Greeting {
    /// Greets, and waits for the first event: what the process has enforced on itself.
    async fn exchange(self, socket: OwnedFd) -> Result<(Arc<AsyncChannel>, Vec<String>), String> {
        let until = Deadline::after(START_DEADLINE);
        let hello = Hello::new(Role::Coordinator, self.life.generation);
        let channel = AsyncChannel::connect(socket, hello, self.role, until)
            .await
            .map_err(|error| error.to_string())?;
        match timeout(START_DEADLINE, channel.next_event()).await {
            Ok(Ok((Event::Sealed(lines), _))) => {
                let lines = lines.iter().take(ENFORCED_MAX).map(|line| logs::printable(line.as_bytes()));
                Ok((Arc::new(channel), lines.collect()))
            }
            Ok(Ok((other, _))) => Err(format!("it begins with {other:?} and not with what it has enforced")),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("it does not say that it is sealed".to_owned()),
        }
    }
}

/// What is being waited for beside events and the end.
enum Finished {
    /// The request, by its name.
    Request(&'static str, Result<Reply, ChannelError>),
    /// Something that it was told.
    Word(Result<Reply, ChannelError>),
    /// A question: whoever asked has the answer.
    Question,
}

/// Everything between the coordinator and a process that has greeted.
struct Conversation<'a> {
    life: LifeId,
    running: &'a Running,
    channel: Arc<AsyncChannel>,
    events: &'a mpsc::Sender<(LifeId, TaskEvent)>,
    /// No process has so much to tell: one that floods is not to keep the coordinator busy.
    limit: LogLimit,
    /// The name of the open request.
    asked: Option<&'static str>,
    /// The open request and the open question, one each at most, and what it is told.
    work: JoinSet<Finished>,
}

impl Conversation<'_> {
    /// Holds it until the process is to be ended, and says how.
    async fn hold(
        mut self,
        orders: &mut mpsc::Receiver<Order>,
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
                order = orders.recv() => match order {
                    Some(Order::End(ending)) => return ending,
                    Some(Order::Ask(request, fds)) => {
                        self.ask(request, fds);
                        Ok(())
                    }
                    Some(Order::Tell(request)) => {
                        self.say(request);
                        Ok(())
                    }
                    None => return Ending::Discard,
                },
                Some(finished) = self.work.join_next() => match finished {
                    Ok(Finished::Request(name, reply)) => self.answered(name, reply).await,
                    Ok(Finished::Word(Ok(Reply::Failed(failure)))) => {
                        let why = logs::printable(format!("{}: {}", failure.what, failure.why).as_bytes());
                        tracing::warn!(process = %self.life.instance, "{why}");
                        Ok(())
                    }
                    Ok(Finished::Word(Ok(Reply::Done))) => Ok(()),
                    Ok(Finished::Word(Ok(other))) => Err(format!("told something: it answers {other:?}")),
                    Ok(Finished::Word(Err(error))) => Err(self.lost(&error)),
                    Ok(Finished::Question) | Err(_) => {
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
        let deadline = Deadline::after(budget::deadline(self.life.instance.role, &request));
        self.asked = Some(name);
        self.work.spawn(async move {
            let reply = channel.request(&request, &fds, deadline).await;
            Finished::Request(name, reply.map(|(reply, _)| reply))
        });
    }

    /// Tells it something, beside the request that is open.
    fn say(&mut self, request: Request) {
        let channel = Arc::clone(&self.channel);
        let deadline = Deadline::after(budget::deadline(self.life.instance.role, &request));
        self.work.spawn(async move {
            let reply = channel.request(&request, &[], deadline).await;
            Finished::Word(reply.map(|(reply, _)| reply))
        });
    }

    /// Passes on what somebody wants to know. It stays open until it is answered or the process is gone, also when
    /// nobody waits any more: so nobody fills the channel by asking.
    fn question(&mut self, question: Question) {
        let channel = Arc::clone(&self.channel);
        self.work.spawn(async move {
            if !question.is_closed() {
                let until = Deadline::after(Deadline::SPAN_MAX);
                let reply = channel.request(&Request::Inspect, &[], until).await;
                let _ = question.send(reply.map(|(reply, _)| reply));
            }
            Finished::Question
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
            Ok(other) => return Err(format!("asked to {name}: it answers {other:?}")),
            Err(error) => match error.unsent() {
                // It knows nothing of the request, and is as it was.
                Some(source) => TaskEvent::Refused(
                    Problem::host(
                        format!("it could not be asked to {name}: {error}"),
                        self.life.instance.to_string(),
                        "look at the log for more",
                    )
                    .because_of(source),
                ),
                None => return Err(self.lost(&error)),
            },
        };
        self.asked = None;
        self.tell(answer).await
    }

    async fn report(&mut self, event: Event) -> Result<(), String> {
        if !self.limit.allows(Instant::now()) {
            return Err("peer broke the contract: it reports events faster than it is read".to_owned());
        }
        self.tell(TaskEvent::Reported(event)).await
    }

    /// The process has ended: what it said before comes first.
    async fn last_events(&mut self) -> String {
        let until = tokio::time::Instant::now() + LAST_EVENTS_DEADLINE;
        let channel = Arc::clone(&self.channel);
        while let Ok(Ok((event, _))) = timeout_at(until, channel.next_event()).await {
            if let Err(why) = self.report(event).await {
                return why;
            }
        }
        self.lost(&ChannelError::PeerGone { generation: self.life.generation })
    }

    /// How the loss of the process showed.
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

/// Whether a process of this role may answer that request so.
fn fits(role: Role, name: &str, reply: &Reply) -> bool {
    let is_replay = name == REPLAY && role == Role::Smmu;
    match reply {
        Reply::Done => ![SAVE, PROBE, PAUSE, DIRTY_LOG].contains(&name) && !is_replay,
        Reply::Saved { .. } => name == SAVE,
        Reply::Probe(_) => name == PROBE,
        Reply::Paused(_) => name == PAUSE,
        Reply::Replayed(_) => is_replay,
        Reply::DirtyLog(_) => name == DIRTY_LOG,
        Reply::Inspect(_) | Reply::Failed(_) => false,
    }
}

const SAVE: &str = "save its state";
const PROBE: &str = "probe its sandbox";
const PAUSE: &str = "pause";
const REPLAY: &str = "replay its state";
const DIRTY_LOG: &str = "switch its dirty log";

/// The request's name in a sentence.
const fn name(request: &Request) -> &'static str {
    match request {
        Request::Configure(_) => "configure itself",
        Request::Load(LoadFrom::Reset) => "begin out of reset",
        Request::Load(LoadFrom::Units { .. }) => "load a state",
        Request::Arm => "arm itself",
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
        Request::DmaEnded { .. } => "take note of the end of a device's DMA",
        Request::Probe(_) => PROBE,
    }
}
