// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `bulkhead run`: everything that needs the user's own rights, done before the sealed coordinator exists.
//!
//! Order: check the configuration against the host, open every file, bind the control socket, make the shared
//! objects, spawn the coordinator with exactly the descriptors of [`topology::COORDINATOR`], then carry bytes
//! and connections for it until it ends. Its child's kernel-guaranteed end ends the whole tree: the coordinator
//! is pid 1 of a pid namespace. The launcher reads nothing that a guest wrote, it only copies it.

pub mod cpu;
pub mod devices;
pub mod escape;
mod holder;
pub mod host_device;
mod image;
pub mod programs;
pub mod relay;
pub mod runtime_dir;
pub mod signals;
pub mod terminal;
mod watch;

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;
use std::{panic, process, thread};

use ipc::shm::memory_file;
use rustix::fs::{SealFlags, fcntl_add_seals};
use sandbox::report::CrashPage;
use sandbox::spawn::{Child, Spawn};
use tokio::sync::mpsc;

use self::relay::Relay;
use self::runtime_dir::RuntimeDir;
use self::terminal::{GivenBack, Input, Terminal};
use crate::config::{ConsoleMode, DeviceConfig, VmConfig, check};
use crate::coordinator::handover::Handover;
use crate::lifecycle::Why;
use crate::lifeline;
use crate::problem::Problem;
use crate::topology::{self, DeviceKind, Object, Shape};

/// How long the guest's last output may take to reach a slow terminal.
const OUTPUT_PATIENCE: Duration = Duration::from_secs(10);

/// As the Rust runtime has it.
const PANIC_EXIT_CODE: i32 = 101;

/// Runs the VM that `config` describes until it ends, and says why it did.
pub fn run(config: VmConfig) -> Result<Why, Problem> {
    sandbox::signals::keep_exit_statuses().map_err(|error| refused("wait for children", &error))?;
    end_on_panic();
    check::memory_fits_host(config.memory_len)?;
    let kernel = check::open_kernel(&config.kernel, config.memory_len)?;
    let initramfs =
        config.initramfs.as_deref().map(|path| check::open_initramfs(path, config.memory_len)).transpose()?;
    let own_program = programs::open_own()?;
    let mut program_files = Vec::new();
    let cpu = cpu::choose(config.cpu)?;
    check::vcpu_count(config.vcpu_count.into(), Some(cpu.kind))?;
    let devices = config.devices.iter().map(DeviceConfig::kind).collect();
    let shape = Shape { cpu: cpu.kind, devices };
    for row in topology::PROCESSES.iter().rev() {
        // A program that this VM does not need stands in for itself with one that it does.
        let needed = topology::processes(&shape).any(|needed| needed.program == row.program);
        let program = if needed { row.program } else { topology::SMMU_PROGRAM };
        let object = Object::Program(row.program);
        program_files.retain(|(opened, _)| *opened != object);
        program_files.push((object, programs::open(program)?));
    }
    let sources = devices::open_all(&config.devices)?;
    let real = shape.devices.iter().filter(|kind| **kind == DeviceKind::Real).count();
    host_device::allow_pinning(config.memory_len, real)?;
    let runtime_dir = RuntimeDir::open()?;
    let socket = runtime_dir.bind(&config.name)?;

    let host = |step: &'static str| move |error: io::Error| refused(step, &error);
    let crash = CrashPage::create().map_err(host("make the crash page"))?;
    let (lifeline, lifeline_theirs) = lifeline::pair().map_err(host("make the lifeline"))?;
    let (log, log_theirs) = io::pipe().map_err(host("make the log pipe"))?;
    let (console, console_theirs) = UnixStream::pair().map_err(host("make the console"))?;
    let handover =
        handover_file(&Handover::new(&config, cpu.kind)).map_err(host("pass the configuration"))?;

    let mut objects: Vec<(Object, OwnedFd)> = vec![
        (Object::Control, lifeline_theirs),
        (Object::CrashPage, crash.as_fd().try_clone_to_owned().map_err(host("share the crash page"))?),
        (Object::Log, log_theirs.into()),
        (Object::Handover, handover.into()),
        (Object::Console, console_theirs.into()),
        (Object::Kernel, kernel.into()),
    ];
    objects.extend(program_files.into_iter().map(|(object, file)| (object, file.into())));
    objects.extend(sources);
    objects.push((Object::Kvm, cpu.kvm.map_or_else(devices::nothing, Ok)?));
    objects.extend(initramfs.map(|file| (Object::Initramfs, file.into())));
    let child = spawn(&own_program, &objects)?;
    // From here on the coordinator alone holds its ends: their end of file means that it is gone.
    drop(objects);

    let (quit, quits) = mpsc::channel(1);
    let log = Relay::start("log", log, io::stderr()).map_err(host("start a thread"))?;
    let (output, terminal) = start_console(config.console, console, quit)?;
    let servers = devices::servers(&config.devices);
    let why = watch::until_end(
        child,
        crash,
        lifeline,
        &socket.listener,
        quits,
        &servers,
        terminal.as_ref().map(|given| &given.0),
    );
    output.finish(OUTPUT_PATIENCE);
    drop(terminal);
    log.finish(OUTPUT_PATIENCE);
    why
}

/// A launcher with a thread less serves nobody well: it ends, and the VM with it. On the main thread unwinding does that.
fn end_on_panic() {
    let told = panic::take_hook();
    panic::set_hook(Box::new(move |what| {
        told(what);
        if thread::current().name() != Some("main") {
            process::exit(PANIC_EXIT_CODE);
        }
    }));
}

/// Starts the coordinator with the descriptors of its topology row.
fn spawn(program: &File, objects: &[(Object, OwnedFd)]) -> Result<Child, Problem> {
    let mut fds = Vec::new();
    for row in topology::COORDINATOR.fds {
        match objects.iter().find(|(object, _)| *object == row.object) {
            Some((_, fd)) => fds.push((row.number, fd.as_fd())),
            None if row.optional => {}
            None => {
                return Err(Problem::host(
                    format!("descriptor {} of the coordinator was not made", row.number),
                    "launch",
                    "report this as a bug",
                ));
            }
        }
    }
    let profile = topology::COORDINATOR.profile();
    let argv = [c"bulkhead", c"coordinator"];
    Spawn { program: program.as_fd(), argv: &argv, fds: &fds, profile: &profile }.spawn().map_err(|error| {
        Problem::host(
            error.to_string(),
            "launch",
            "the host must allow unprivileged user namespaces, seccomp and Landlock; nothing was started",
        )
        .because_of_number(error.errno().unwrap_or_default())
    })
}

/// A sealed memory file with the configuration in it.
fn handover_file(handover: &Handover) -> io::Result<File> {
    let mut file = File::from(memory_file::create("bulkhead-configuration")?);
    file.write_all(&serde_json::to_vec(handover)?)?;
    let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    fcntl_add_seals(&file, seals)?;
    Ok(file)
}

/// Connects the guest's console to the user: the output relay to wait for, and the terminal's guard.
fn start_console(
    mode: ConsoleMode,
    console: UnixStream,
    quit: mpsc::Sender<()>,
) -> Result<(Relay, Option<GivenBack>), Problem> {
    let thread = |error: io::Error| refused("start a thread", &error);
    if mode == ConsoleMode::None {
        // Emptied all the same: a UART nobody listens to must not hold up its guest.
        return Ok((Relay::start("console-out", console, io::sink()).map_err(thread)?, None));
    }
    let stdin = io::stdin();
    let kind = Input::of(&stdin)?;
    let terminal = match &kind {
        Input::Terminal(terminal) => Some(GivenBack(Terminal::clone(terminal))),
        Input::Stream => None,
    };
    let input = console.try_clone().map_err(thread)?;
    relay::start_input(stdin, kind, input, quit).map_err(thread)?;
    Ok((Relay::start("console-out", console, io::stdout()).map_err(thread)?, terminal))
}

/// A step of the launch that the host refused.
fn refused(step: &'static str, error: &io::Error) -> Problem {
    Problem::host(
        format!("the host refuses to {step}: {error}"),
        "launch",
        "check this user's limits on files, memory and threads",
    )
    .because_of(error)
}
