// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The coordinator: pid 1 of the VM's own pid namespace, owner of every shared object, parent of every process.
//!
//! It seals itself before it reads a byte that a user or guest wrote. One thread, one async runtime, one task that owns
//! the VM ([`vm`]); the API and the launcher reach that task through bounded queues. It has no device model and parses
//! no guest data while the guest runs, only frames of the `ipc` contract.

pub mod handover;
mod inspected;
pub mod inspector;
mod launcher;
mod log_limit;
pub mod logging;
pub mod logs;
pub mod objects;
mod own_time;
mod probe;
pub mod process;
pub mod roles;
pub mod spans;
pub mod vm;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::time::Duration;

use ipc::migration::LANES_MAX;
use ipc::protocol::budget;
use ipc::protocol::mover::IdentityFile;
use ipc::slot::{Slot, SlotKind};
use sandbox::locked::seal_to_spawn;
use sandbox::report::CrashPage;
use sandbox::{Inherited, Locked};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::api::command::{Answer, COMMAND_QUEUE_LEN, Handle, StopRequest};
use crate::api::server::Server;
use crate::api::types::Status;
use crate::launcher_channel::{CoordinatorEnd, FromCoordinator, FromLauncher, Lane};
use crate::lifecycle::Why;
use crate::problem::Problem;
use crate::system::{self, DEVICES_MAX, Rights, System};

use self::handover::Handover;
use self::launcher::{Launcher, Reopened};
use self::vm::{Given, Moved, Opened, Vm};

/// For clients to read their last answers before the sockets close.
const FAREWELL: Duration = Duration::from_secs(2);
/// The longest that the coordinator runs after the VM has ended: for the name to be freed, for the answers to clients,
/// and for its last message to the launcher.
pub const FAREWELL_SPAN: Duration = budget::sum(&[FAREWELL, FAREWELL, FAREWELL]);

/// The program `bulkhead coordinator`, which only the launcher can start.
pub fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            // Only the log is left to report to.
            let _ = writeln!(std::io::stderr(), "coordinator: {problem}");
            problem.exit()
        }
    }
}

fn start() -> Result<(), Problem> {
    let failed = |step: &'static str, error: &dyn std::fmt::Display| {
        Problem::host(format!("{step}: {error}"), "coordinator start", "start VMs with `bulkhead run`")
    };
    // The arguments after `coordinator` are the names of its descriptors, in the order of their numbers.
    let mut inherited = Inherited::take_all(std::env::args().skip(2))
        .map_err(|error| failed("take the descriptors", &error))?;
    let names = inherited.names().clone();
    let programs = inherited.take_each(Slot::PROGRAM).into_iter();
    let mut programs: BTreeMap<Slot, OwnedFd> =
        programs.map(|(name, file)| (Slot::Program(name), file)).collect();
    let mut take = |slot: &Slot| inherited.take(slot).map_err(|error| failed("take a descriptor", &error));
    let crash = take(&SlotKind::CrashPage.into())?;
    let crash = CrashPage::from_fd(crash).map_err(|error| failed("take the crash page", &error))?;
    let files: Vec<_> = programs.values().map(AsFd::as_fd).collect();
    let locked = seal_to_spawn(&system::COORDINATOR.profile(), &names, crash, &files)
        .map_err(|error| failed("seal", &error))?;

    let handover = File::from(take(&SlotKind::Handover.into())?);
    let handover = Handover::read(handover).map_err(|error| failed("read the configuration", &error))?;
    logging::start(handover.json_log).map_err(|error| failed("start the log", &error))?;
    let system = System::new(&handover.shape());
    let channel = take(&SlotKind::Control.into())?;
    let kernel = File::from(take(&SlotKind::Kernel.into())?);
    let initramfs = SlotKind::Initramfs.into();
    let initramfs = handover.initramfs.then(|| take(&initramfs)).transpose()?.map(File::from);
    let mut objects = BTreeMap::new();
    for held in &system.coordinator().descriptors {
        let fd = match (&held.slot, held.rights) {
            (Slot::Program(_), _) => programs.remove(&held.slot),
            (slot, Rights::HandOn) => Some(take(slot)?),
            _ => None,
        };
        objects.extend(fd.map(|fd| (held.object, fd)));
    }
    let given = Given { handover, kernel, initramfs, objects };

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| failed("start the runtime", &error))?;
    runtime.block_on(serve(given, channel, &locked))
}

/// Boots the VM and serves it until it has ended.
async fn serve(given: Given, channel: OwnedFd, locked: &Locked) -> Result<(), Problem> {
    let channel = CoordinatorEnd::new(channel).map_err(|error| {
        Problem::host(
            format!("watch the channel to the launcher: {error}"),
            "coordinator start",
            "report this as a bug",
        )
    })?;
    let (commands, mut queue) = mpsc::channel(COMMAND_QUEUE_LEN);
    let (stops, mut stop_requests) = mpsc::channel(COMMAND_QUEUE_LEN);
    let (migrations, mut migration_orders) = mpsc::channel(COMMAND_QUEUE_LEN);
    let (arrived, arrivals) = mpsc::channel(usize::from(LANES_MAX) + IdentityFile::ALL.len());
    let (to_launcher, reports) = mpsc::channel(4);
    let (found, reopened) = mpsc::channel(DEVICES_MAX);
    // One is asked for at a time; in front of it may be the answer to a request that was given up.
    let (programs, opened) = mpsc::channel(2);
    let (free, freed) = oneshot::channel();
    let launcher = Launcher::new(to_launcher.clone(), reopened, given.handover.unreachable());
    match given.handover.hang_deadline {
        0 => tracing::info!("processes that hang are left as they are"),
        seconds => tracing::info!("a process that makes no progress for {seconds} s is killed"),
    }
    let mut vm = Vm::new(given, locked, launcher, to_launcher.clone(), arrivals, opened)?;
    let server = Server::new(Handle { commands, stops: stops.clone(), migrations, snapshot: vm.snapshot() });
    // Clients are served while the VM boots or executes a command of another client.
    let answers = Answers { found, arrivals: arrived, programs };
    let carrier = tokio::spawn(carry(channel, server.clone(), stops, reports, answers, free));

    let counted = tokio::spawn(logging::tell_of_dropped_lines());
    let mut waiting: Vec<Answer<Status>> =
        vm.live(&mut queue, &mut stop_requests, &mut migration_orders).await;
    // No more clients are served; commands in the queues are answered with the end of the VM.
    drop((queue, migration_orders));
    if let Some(why) = vm.ended() {
        // A failure is printed by the launcher, once.
        if why.problem().is_none() {
            tracing::info!("vm ended: {}", why.sentence());
        }
        let _ = to_launcher.send(FromCoordinator::Ended(why.clone())).await;
    }
    counted.abort();
    // `stop` is answered once name and disks are free.
    let outcome = match timeout(FAREWELL, freed).await {
        // A launcher that is gone holds no name.
        Ok(_) => vm.outcome(),
        Err(_) => Err(Problem::host(
            "the VM has ended, but its launcher has not freed its name",
            "stop",
            "look at the `bulkhead run` process: it is stopped, or hangs",
        )),
    };
    stop_requests.close();
    while let Some(StopRequest { answer, .. }) = stop_requests.recv().await {
        waiting.extend(answer);
    }
    for answer in waiting {
        // A client may have disconnected.
        let _ = answer.send(outcome.clone());
    }
    if let Some(Moved { answer, migrated }) = vm.moved() {
        let _ = answer.send(outcome.map(|_| migrated));
    }
    drop(to_launcher);
    server.drain(FAREWELL).await;
    // The last message was sent, or the launcher is gone.
    let _ = timeout(FAREWELL, carrier).await;
    Ok(())
}

/// Where what the launcher answers goes.
struct Answers {
    /// New connections to the servers of devices.
    found: mpsc::Sender<Reopened>,
    /// Copies of files that users want processes to be restarted into.
    programs: mpsc::Sender<Opened>,
    /// Connections of a migration, and what is needed to begin them.
    arrivals: mpsc::Sender<Arrival>,
}

/// What the launcher hands over for a migration, in this order.
#[derive(Debug)]
pub enum Arrival {
    /// A file by which the other host knows this one.
    Identity(IdentityFile, OwnedFd),
    /// A connection, or why there is none.
    Lane(Lane),
}

/// Carries messages between the launcher and the VM's task, and clients to the server, until the VM's name is free.
async fn carry(
    channel: CoordinatorEnd,
    server: Server,
    stops: mpsc::Sender<StopRequest>,
    mut reports: mpsc::Receiver<FromCoordinator>,
    answers: Answers,
    free: oneshot::Sender<()>,
) {
    // A full queue already holds requests to stop.
    let stop = |why| drop(stops.try_send(StopRequest { why, answer: None }));
    let (mut listening, mut telling) = (true, true);
    while listening || telling {
        // Cancel-safe: a queue and a receive that takes nothing before it wins.
        tokio::select! {
            report = reports.recv(), if telling => match report {
                Some(report) => telling = channel.send(&report).await.is_ok(),
                None => telling = false,
            },
            message = channel.recv(), if listening => match message {
                Ok(Some(FromLauncher::Connection(client))) => {
                    match UnixStream::from_std(client.into()) {
                        Ok(stream) => server.serve(stream),
                        Err(error) => tracing::warn!(%error, "control connection cannot be served"),
                    }
                }
                // A full queue holds answers that were not requested.
                Ok(Some(FromLauncher::Device { index, server })) => drop(answers.found.try_send((index, server))),
                Ok(Some(FromLauncher::Program { number, program })) => {
                    drop(answers.programs.try_send((number, program)));
                }
                Ok(Some(FromLauncher::Lane(lane))) => drop(answers.arrivals.try_send(Arrival::Lane(lane))),
                Ok(Some(FromLauncher::Identity(file, memory))) => {
                    drop(answers.arrivals.try_send(Arrival::Identity(file, memory)));
                }
                Ok(Some(FromLauncher::Stop)) => stop(Why::Asked),
                Ok(Some(FromLauncher::Released)) => break,
                Ok(None) | Err(_) => {
                    listening = false;
                    stop(Why::LauncherGone);
                }
            },
        }
    }
    // Its receiver may have been dropped.
    let _ = free.send(());
}
