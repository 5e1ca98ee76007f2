// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The coordinator: pid 1 of the VM's own pid namespace, owner of every shared object, parent of every process.
//!
//! It seals itself before it reads a byte that a user or guest wrote. One thread, one async runtime, one task
//! that owns the VM ([`vm`]); the API and the launcher reach that task through bounded queues. It parses
//! nothing that a guest can steer: no device model, no register, only frames of the `ipc` contract.

pub mod handover;
mod inspected;
mod launcher;
mod log_limit;
pub mod logging;
pub mod logs;
pub mod objects;
mod probe;
pub mod process;
pub mod process_set;
pub mod roles;
pub mod vm;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::time::Duration;

use sandbox::locked::seal_to_spawn;
use sandbox::report::CrashPage;
use sandbox::{Inherited, Locked};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use crate::api::command::{COMMAND_QUEUE_LEN, Handle};
use crate::api::server::Server;
use crate::lifecycle::Why;
use crate::lifeline::{CoordinatorEnd, Down, Up};
use crate::problem::Problem;
use crate::topology::{self, CpuKind, Object};

use self::handover::Handover;
use self::launcher::{Launcher, Reopened};
use self::vm::{Given, Vm};

/// For clients to read their last answers before the sockets close.
const FAREWELL: Duration = Duration::from_secs(2);

/// The program `bulkhead coordinator`: not for people, only the launcher can start it in a way that works.
pub fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            // Nobody is left to report to but the log, and perhaps not even that.
            let _ = writeln!(std::io::stderr(), "coordinator: {problem}");
            problem.exit()
        }
    }
}

fn start() -> Result<(), Problem> {
    let row = &topology::COORDINATOR;
    let failed = |step: &'static str, error: &dyn std::fmt::Display| {
        Problem::host(format!("{step}: {error}"), "coordinator start", "start VMs with `bulkhead run`")
    };
    // The optional rows are last and few: the highest number that is open says which of them are there.
    let required = row.fds.iter().filter(|fd| !fd.optional).count();
    let counts = (required..=row.fds.len()).rev().filter_map(|count| u32::try_from(count).ok());
    let mut taken = None;
    for count in counts {
        match Inherited::take_all(count) {
            Ok(inherited) => {
                taken = Some((count, inherited));
                break;
            }
            Err(error) if usize::try_from(count) == Ok(required) => {
                return Err(failed("take the descriptors", &error));
            }
            Err(_) => {}
        }
    }
    let (count, mut inherited) = taken.ok_or_else(|| failed("take the descriptors", &"none fits"))?;
    let mut take = |object: Object| -> Result<OwnedFd, Problem> {
        let number = row.number_of(object).and_then(|number| u8::try_from(number).ok());
        let number = number.ok_or_else(|| failed("find a descriptor", &format!("{object:?}")))?;
        inherited.take(number).map_err(|error| failed("take a descriptor", &error))
    };
    let crash = take(Object::CrashPage)?;
    let crash = CrashPage::from_fd(crash).map_err(|error| failed("take the crash page", &error))?;
    let mut objects = BTreeMap::new();
    for object in row.fds.iter().map(|fd| fd.object) {
        if let Object::Program(_) = object {
            objects.insert(object, take(object)?);
        }
    }
    let programs: Vec<_> = objects.values().map(AsFd::as_fd).collect();
    let locked =
        seal_to_spawn(&row.profile(), count, crash, &programs).map_err(|error| failed("seal", &error))?;

    let handover = File::from(take(Object::Handover)?);
    let handover = Handover::read(handover).map_err(|error| failed("read the configuration", &error))?;
    logging::start(handover.json_log).map_err(|error| failed("start the log", &error))?;
    let lifeline = take(Object::Control)?;
    objects.insert(Object::Console, take(Object::Console)?);
    if handover.cpu == CpuKind::Kvm {
        objects.insert(Object::Kvm, take(Object::Kvm)?);
    }
    for (name, _) in topology::VFIO.iter().zip(&handover.devices) {
        for object in [Object::DeviceSource(name), Object::Iommufd(name)] {
            objects.insert(object, take(object)?);
        }
    }
    let initramfs = handover.initramfs.then(|| take(Object::Initramfs)).transpose()?.map(File::from);
    let kernel = File::from(take(Object::Kernel)?);
    let given = Given { handover, kernel, initramfs, objects };

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| failed("start the runtime", &error))?;
    runtime.block_on(serve(given, lifeline, &locked))
}

/// Boots the VM and serves it until it has ended.
async fn serve(given: Given, lifeline: OwnedFd, locked: &Locked) -> Result<(), Problem> {
    let lifeline = CoordinatorEnd::new(lifeline).map_err(|error| {
        Problem::host(format!("watch the lifeline: {error}"), "coordinator start", "report this as a bug")
    })?;
    let (commands, mut queue) = mpsc::channel(COMMAND_QUEUE_LEN);
    let (words, reports) = mpsc::channel(4);
    let (found, reopened) = mpsc::channel(topology::VFIO.len());
    let mut vm = Vm::new(given, locked, Launcher::new(words.clone(), reopened))?;
    let server = Server::new(Handle { commands, picture: vm.picture() });
    let (wishes, mut wished) = mpsc::channel(1);
    // Clients are served while the VM boots, or while it works on somebody else's command.
    let porter = tokio::spawn(carry(lifeline, server.clone(), wishes, reports, found));

    let counted = tokio::spawn(logging::tell_of_dropped_lines());

    vm.boot().await;
    if vm.ended().is_none() {
        // The launcher that does not listen is gone, and that is noticed below.
        let _ = words.send(Up::Running).await;
    }
    while vm.ended().is_none() {
        // Every arm is cancel-safe: a queue, a queue, and `Vm::next_event`, which says that it is.
        tokio::select! {
            Some(command) = queue.recv() => vm.command(command).await,
            why = wished.recv() => vm.stop(why.unwrap_or(Why::LauncherGone)).await,
            happening = vm.next_event() => vm.happened(happening).await,
        }
    }
    if let Some(why) = vm.ended() {
        // A failure is the launcher's to print: once.
        if why.problem().is_none() {
            tracing::info!("vm ended: {}", why.sentence());
        }
        let _ = words.send(Up::Ended(why.clone())).await;
    }
    counted.abort();
    drop((words, queue));
    server.drain(FAREWELL).await;
    // Its last message is out, or its reader is gone.
    let _ = tokio::time::timeout(FAREWELL, porter).await;
    Ok(())
}

/// Carries messages between the launcher and the VM's task, and clients to the server.
async fn carry(
    lifeline: CoordinatorEnd,
    server: Server,
    wishes: mpsc::Sender<Why>,
    mut reports: mpsc::Receiver<Up>,
    found: mpsc::Sender<Reopened>,
) {
    let mut open = true;
    loop {
        // Cancel-safe: a queue and a receive that takes nothing before it wins.
        tokio::select! {
            report = reports.recv() => match report {
                Some(report) => {
                    let last = matches!(report, Up::Ended(_));
                    if lifeline.send(&report).await.is_err() || last {
                        return;
                    }
                }
                None => return,
            },
            message = lifeline.recv(), if open => match message {
                Ok(Some(Down::Connection(client))) => {
                    match UnixStream::from_std(client.into()) {
                        Ok(stream) => server.serve(stream),
                        Err(error) => tracing::warn!(%error, "control connection cannot be served"),
                    }
                }
                // A full queue is one whose answers nobody has asked for.
                Ok(Some(Down::Device { index, server })) => drop(found.try_send((index, server))),
                // A full queue holds the same wish already.
                Ok(Some(Down::Stop)) => drop(wishes.try_send(Why::Asked)),
                Ok(None) | Err(_) => {
                    open = false;
                    drop(wishes.try_send(Why::LauncherGone));
                }
            },
        }
    }
}
