// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The launcher's loop while the VM lives: signals, clients, the coordinator's messages, its end.
//!
//! A signal that would end the launcher is an orderly stop with a deadline; a second one, or the deadline, is SIGKILL
//! to the coordinator, whose namespace goes with it. Clients are checked here and not in the coordinator: in its user
//! namespace every foreign user id looks the same.

use std::collections::BTreeMap;
use std::future::{pending, poll_fn};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use ipc::log::Level;
use ipc::migration::LANES_MAX;
use ipc::protocol::budget;
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use sandbox::report::{self, CrashPage};
use sandbox::spawn::Child;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout};

use super::identity::Identity;
use super::log::OwnLog;
use super::other_host::{self, Accepting, Address, Listener, Reach};
use super::runtime_dir::{self, ControlSocket};
use super::signals::{Asked, Signals};
use super::started::Started;
use super::terminal::{self, Terminal};
use super::{devices, programs, refused};
use crate::coordinator::FAREWELL_SPAN;
use crate::coordinator::spans::{COPY_DEADLINE, STOP_SPAN};
use crate::launcher_channel::{FromCoordinator, Lane, LauncherEnd};
use crate::lifecycle::Why;
use crate::printable;
use crate::problem::{Class, Problem};
use crate::readiness;
use crate::system::COORDINATOR;

/// For an orderly stop: the coordinator's deadlines for its processes and then its clients, plus slack.
const STOP_DEADLINE: Duration = budget::sum(&[STOP_SPAN, FAREWELL_SPAN, budget::SLACK]);
/// For sending to a coordinator that does not read.
const HAND_OVER_DEADLINE: Duration = Duration::from_secs(2);
/// For passing a client on to it; after that the client is dropped. Signals wait meanwhile.
const CLIENT_DEADLINE: Duration = Duration::from_millis(200);

/// The sources of clients, keys and signals, and the user's log.
pub struct User<'a> {
    /// The listener for clients.
    pub socket: &'a mut ControlSocket,
    /// The escape key.
    pub quits: mpsc::Receiver<()>,
    /// The terminal, if there is one.
    pub terminal: Option<&'a Terminal>,
    /// For the launcher's own messages.
    pub log: &'a Arc<OwnLog>,
    /// Who is told that the guest runs.
    pub started: Started,
    /// Where a guest is waited for, until it runs.
    pub guest_listener: Option<Listener>,
    /// By what the host that it comes from knows this one.
    pub identity: Option<Identity>,
}

/// Connections of other hosts that are handed over as they come: more than one source makes. Whoever connects on and on
/// is let in slowly.
const LANES_AT_ONCE: u32 = 4 * LANES_MAX as u32;
const LANE_INTERVAL: Duration = Duration::from_millis(50);
/// Until the next is looked at when one cannot be had.
const LANE_RETRY: Duration = Duration::from_millis(100);

/// Serves the coordinator until it has ended; returns why the VM ended.
pub fn until_end(
    child: Child,
    crash: CrashPage,
    channel: OwnedFd,
    user: User<'_>,
    servers: &[Option<PathBuf>],
) -> Result<Why, Problem> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| refused("start the launcher's runtime", &error))?;
    let reported = runtime.block_on(serve(&child, channel, user, servers));
    // Kills the coordinator however the loop ended; no effect if it is dead already.
    let _ = pidfd_send_signal(&child.pidfd, Signal::KILL);
    let status = waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED);
    match reported? {
        Some(why) => Ok(why),
        None => Err(death(&crash, status.ok().flatten())),
    }
}

async fn serve(
    child: &Child,
    channel: OwnedFd,
    user: User<'_>,
    servers: &[Option<PathBuf>],
) -> Result<Option<Why>, Problem> {
    let User { socket, mut quits, terminal, log, mut started, mut guest_listener, identity } = user;
    let host = |step: &'static str| move |error: io::Error| refused(step, &error);
    let pidfd = child.pidfd.try_clone().map_err(host("watch the coordinator"))?;
    let pidfd = readiness::watch(pidfd, Interest::READABLE).map_err(host("watch the coordinator"))?;
    let channel = Rc::new(LauncherEnd::new(channel).map_err(host("watch the channel to the coordinator"))?);
    // One for each device at most: more are not caused by a reset.
    let mut reopening: BTreeMap<u8, Work> = BTreeMap::new();
    let listener =
        socket.listener.try_clone().and_then(UnixListener::from_std).map_err(host("watch the socket"))?;
    let accepting = guest_listener.as_ref().map(Listener::accepting).transpose();
    let mut accepting = accepting.map_err(host("wait for a guest"))?;
    let (mut accepted, mut next_accept) = (0_u32, Instant::now());
    let mut dialling: Option<Work> = None;
    let mut copying: Option<Work> = None;
    let copies = Arc::new(Semaphore::new(1));
    let mut signals = Signals::new().map_err(host("handle signals"))?;
    let mut deadline = pin!(sleep(Duration::MAX));
    let mut stopping = false;
    let mut quits_open = true;
    let mut ended = None;
    for (file, memory) in identity.into_iter().flatten() {
        // A coordinator that does not read is noticed below.
        let _ = timeout(HAND_OVER_DEADLINE, channel.identity(file, memory.as_fd())).await;
    }
    loop {
        // Every arm is cancel-safe: each waits for readiness and takes nothing before it wins.
        tokio::select! {
            _ = pidfd.readable() => break,
            message = channel.recv() => match message {
                Ok(Some(FromCoordinator::Running)) => {
                    if started.tell().is_err() {
                        // Whoever started it detached is gone, and knows of no VM.
                        stop(&channel, &mut stopping, deadline.as_mut()).await;
                    }
                }
                Ok(Some(FromCoordinator::Settled)) => {
                    accepting = None;
                    drop(guest_listener.take());
                }
                Ok(Some(FromCoordinator::Dial { number, to, lane_count, reach })) => {
                    if !(1..=LANES_MAX).contains(&lane_count) {
                        break;
                    }
                    dialling = Some(Box::pin(dial(Rc::clone(&channel), number, to, lane_count, reach)));
                }
                Ok(Some(FromCoordinator::OpenProgram { number, path })) => {
                    copying = Some(Box::pin(copy_program(Rc::clone(&channel), number, path, Arc::clone(&copies))));
                }
                Ok(Some(FromCoordinator::Reopen { index })) => {
                    let socket = servers.get(usize::from(index)).cloned().flatten();
                    let Some(socket) = socket.filter(|_| !reopening.contains_key(&index)) else { break };
                    reopening.insert(index, Box::pin(reopen(Rc::clone(&channel), index, socket, Arc::clone(log))));
                }
                Ok(Some(FromCoordinator::Ended(why))) => {
                    ended = Some(why);
                    // Before the client that requested the end is answered: the next VM can use the name at once.
                    socket.release();
                    // A coordinator that does not read is killed below.
                    let _ = timeout(HAND_OVER_DEADLINE, channel.released()).await;
                }
                // No more messages will come; the pidfd reports the end. A coordinator that sends malformed ones is
                // killed.
                Ok(None) => { wait_gone(&pidfd).await; break }
                Err(_) => break,
            },
            index = any_of(&mut reopening) => drop(reopening.remove(&index)),
            () = done(&mut dialling) => dialling = None,
            () = done(&mut copying) => copying = None,
            lane = next_lane(accepting.as_ref(), next_accept) => match lane {
                Ok(lane) => {
                    let [index, ..] = accepted.to_le_bytes();
                    // If that does not succeed in time the connection is closed.
                    let _ = timeout(CLIENT_DEADLINE, channel.lane(&Lane { dial: 0, index, socket: Ok(lane) })).await;
                    accepted = accepted.saturating_add(1);
                    if accepted > LANES_AT_ONCE {
                        next_accept = Instant::now() + LANE_INTERVAL;
                    }
                }
                // Whoever connected may not, or is gone; or the host is out of descriptors.
                Err(_) => next_accept = Instant::now() + LANE_RETRY,
            },
            client = listener.accept() => match client {
                Ok((client, _)) => hand_over(&channel, client).await,
                // Out of descriptors: some are freed when clients disconnect.
                Err(_) => sleep(Duration::from_millis(100)).await,
            },
            quit = quits.recv(), if quits_open => {
                quits_open = quit.is_some();
                if quit.is_some() {
                    stop(&channel, &mut stopping, deadline.as_mut()).await;
                }
            }
            asked = signals.next() => match asked {
                Asked::End if stopping => break,
                Asked::End => stop(&channel, &mut stopping, deadline.as_mut()).await,
                Asked::Stop => terminal::stop_job(terminal),
                Asked::Continued => drop(terminal.map(Terminal::enter_in_foreground)),
            },
            () = deadline.as_mut(), if stopping => {
                return Err(Problem::host(
                    format!("the VM did not stop within {} s and was killed", STOP_DEADLINE.as_secs()),
                    "stop",
                    "look at the log above for the process that hangs",
                ));
            }
        }
    }
    // Its last message may have arrived together with its end.
    while ended.is_none() {
        match timeout(Duration::from_secs(1), channel.recv()).await {
            Ok(Ok(Some(FromCoordinator::Ended(why)))) => ended = Some(why),
            Ok(Ok(Some(
                FromCoordinator::Running
                | FromCoordinator::Settled
                | FromCoordinator::Reopen { .. }
                | FromCoordinator::Dial { .. }
                | FromCoordinator::OpenProgram { .. },
            ))) => {}
            Ok(Ok(None) | Err(_)) | Err(_) => break,
        }
    }
    if ended.is_none() && stopping {
        ended = Some(Why::Asked);
    }
    Ok(ended)
}

/// What is done beside the loop.
type Work = Pin<Box<dyn Future<Output = ()>>>;

/// Connects to a host that receives a guest, so often, and hands the connections over; or the first reason why not.
async fn dial(channel: Rc<LauncherEnd>, number: u8, to: String, lane_count: u8, reach: Reach) {
    for index in 0..lane_count {
        let socket = match to.parse::<Address>() {
            Ok(to) => other_host::dial(&to, reach).await,
            Err(error) => Err(io::Error::other(error)),
        };
        let is_none = socket.is_err();
        let lane = Lane { dial: number, index, socket };
        // A coordinator that does not read is noticed elsewhere.
        let handed = timeout(HAND_OVER_DEADLINE, channel.lane(&lane)).await;
        if is_none || !matches!(handed, Ok(Ok(()))) {
            return;
        }
    }
}

/// Copies a program, and hands it over, or the reason why not.
async fn copy_program(channel: Rc<LauncherEnd>, number: u8, path: String, copies: Arc<Semaphore>) {
    let copied = copied(&copies, COPY_DEADLINE, move || programs::copy(Path::new(&path))).await;
    // A coordinator that does not read is noticed elsewhere.
    let handed = timeout(HAND_OVER_DEADLINE, channel.program(number, &copied)).await;
    if let Ok(Err(error)) = handed {
        let _ = timeout(HAND_OVER_DEADLINE, channel.program(number, &Err(error))).await;
    }
}

/// What `copy` returns, which runs on a thread, for its file may be slow. A thread that is late cannot be ended: while
/// it lives it keeps its one of `copies`, so that there are never more.
async fn copied(
    copies: &Arc<Semaphore>,
    span: Duration,
    copy: impl FnOnce() -> io::Result<OwnedFd> + Send + 'static,
) -> io::Result<OwnedFd> {
    let Ok(permit) = Arc::clone(copies).try_acquire_owned() else {
        return Err(io::Error::other("another program is still being copied"));
    };
    let (tell, told) = oneshot::channel();
    let copies = move || {
        let copied = copy();
        // Before it is told of: whoever has the answer may ask for the next.
        drop(permit);
        // If nobody waits for it any more it is not kept.
        drop(tell.send(copied));
    };
    std::thread::Builder::new().name("copy".to_owned()).spawn(copies)?;
    match timeout(span, told).await {
        Ok(told) => told.unwrap_or_else(|_| Err(io::Error::other("its copying failed"))),
        Err(_) => Err(io::Error::other(format!("it was not copied within {} s", span.as_secs()))),
    }
}

/// Waits for the end of what is under way; pending forever, if there is nothing. Cancel-safe: it keeps its progress.
async fn done(work: &mut Option<Work>) {
    match work {
        Some(work) => work.await,
        None => pending().await,
    }
}

/// The next connection of another host; pending forever, if none is waited for. Cancel-safe.
async fn next_lane(accepting: Option<&Accepting>, not_before: Instant) -> io::Result<OwnedFd> {
    match accepting {
        Some(accepting) => {
            sleep_until(not_before).await;
            accepting.next().await
        }
        None => pending().await,
    }
}

/// Connects to a device's server anew, and hands the connection over.
async fn reopen(channel: Rc<LauncherEnd>, index: u8, socket: PathBuf, log: Arc<OwnLog>) {
    let server = devices::reopen(&socket).await;
    if let Err(error) = &server {
        // The coordinator logs the consequence; only the launcher knows the path.
        let socket = printable::path(&socket);
        let what = format!("the server at {socket} cannot be reached again after the guest's reset: {error}");
        log.say(Level::Info, &what);
    }
    // A coordinator that does not read is noticed elsewhere.
    let handed = timeout(HAND_OVER_DEADLINE, channel.device(index, &server)).await;
    if let Ok(Err(error)) = handed {
        let _ = timeout(HAND_OVER_DEADLINE, channel.device(index, &Err(error))).await;
    }
}

/// The next one that is done; pending forever, if there are none. Cancel-safe: they keep their progress.
async fn any_of(reopening: &mut BTreeMap<u8, Work>) -> u8 {
    poll_fn(|context| {
        let mut all = reopening.iter_mut();
        let done = all.find_map(|(index, work)| work.as_mut().poll(context).is_ready().then_some(*index));
        done.map_or(Poll::Pending, Poll::Ready)
    })
    .await
}

/// The coordinator has closed its end: it exits within moments, or is stuck and gets killed.
async fn wait_gone(pidfd: &AsyncFd<OwnedFd>) {
    // A timeout needs no other answer than the kill that follows anyway.
    let _ = timeout(FAREWELL_SPAN, pidfd.readable()).await;
}

async fn stop(channel: &LauncherEnd, stopping: &mut bool, deadline: std::pin::Pin<&mut Sleep>) {
    if !std::mem::replace(stopping, true) {
        deadline.reset(Instant::now() + STOP_DEADLINE);
        // If the request cannot be sent, the deadline ends the coordinator.
        let _ = timeout(HAND_OVER_DEADLINE, channel.stop()).await;
    }
}

/// Passes a client on, if it is this user or root; closes it otherwise.
async fn hand_over(channel: &LauncherEnd, client: UnixStream) {
    if runtime_dir::may_connect(client.as_fd()).is_some() {
        // If that does not succeed in time the client's connection is closed.
        let _ = timeout(CLIENT_DEADLINE, channel.connection(client.as_fd())).await;
    }
}

/// The problem to report for a coordinator that died without a message.
fn death(crash: &CrashPage, status: Option<rustix::process::WaitIdStatus>) -> Problem {
    let what = match report::read(crash, &COORDINATOR.profile()) {
        Some(death) => death.to_string(),
        None => match status.map(|status| (status.exit_status(), status.terminating_signal())) {
            Some((Some(code), _)) => format!("the coordinator ended itself with exit code {code}"),
            Some((_, Some(signal))) => format!("the coordinator was killed by signal {signal}"),
            Some((None, None)) | None => "the coordinator ended for an unknown reason".to_owned(),
        },
    };
    Problem::new(
        Class::Died,
        what,
        "coordinator",
        "the VM has ended; if it was not killed by hand, report this with the log above",
    )
}

#[cfg(test)]
mod tests;
