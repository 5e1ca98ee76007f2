// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `bulkhead run`: everything that needs the user's own rights, done before the sealed coordinator exists.
//!
//! Order: check the configuration against the host, open every file, bind the control socket, make the shared
//! objects, spawn the coordinator with exactly the descriptors that the system table gives it, then carry bytes and
//! connections for it until it ends. Its child's kernel-guaranteed end ends the whole tree: the coordinator is pid 1
//! of a pid namespace. The launcher does not parse anything that a guest wrote, it only copies it.

pub mod cgroup;
pub mod console_output;
pub mod console_socket;
pub mod cpu;
pub mod detach;
pub mod devices;
pub mod escape;
mod holder;
pub mod host_device;
pub mod identity;
pub mod ids;
mod image;
mod limits;
pub mod log;
pub mod other_host;
pub mod programs;
pub mod relay;
pub mod rotated_file;
pub mod runtime_dir;
pub mod screen;
mod sealed_copy;
pub mod signals;
pub mod started;
pub mod terminal;
mod watch;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use std::{panic, process, thread};

use ipc::log::Level;
use ipc::shm::memory_file;
use sandbox::Profile;
use sandbox::report::CrashPage;
use sandbox::spawn::{Child, Spawn};
use tokio::sync::mpsc;

use self::cgroup::Cgroup;
use self::console_output::{ConsoleOutput, Lost};
use self::escape::STOP;
use self::log::{LogOutput, OwnLog};
use self::other_host::{Listener, Reach};
use self::relay::Relay;
use self::rotated_file::RotatedFile;
use self::runtime_dir::RuntimeDir;
use self::screen::Screen;
use self::started::Started;
use self::terminal::{GivenBack, Input};
use self::watch::User;
use crate::config::{ConsoleMode, DeviceConfig, Receive, VmConfig, check};
use crate::coordinator::handover::Handover;
use crate::launcher_channel;
use crate::lifecycle::Why;
use crate::printable;
use crate::problem::Problem;
use crate::system::{COORDINATOR_ID, DeviceKind, EdgeKind, Instance, ObjectId, Shape, Size, System, VCPU};

/// How long the guest's last output may take to reach a slow terminal.
const OUTPUT_SPAN: Duration = Duration::from_secs(10);
/// Size at which the console's file is rotated: a guest's boot is a tenth of a MiB.
const CONSOLE_FILE_LEN_MAX: u64 = 16 << 20;

/// The same as the Rust runtime's on panic.
const PANIC_EXIT_CODE: i32 = 101;

/// Runs the VM that `config` describes until it ends, and says why it did. A launcher that `is_detached` has no
/// terminal: whoever started it is told when the guest runs.
pub fn run(config: VmConfig, is_detached: bool) -> Result<Why, Problem> {
    if is_detached {
        detach::leave_session()?;
    }
    sandbox::signals::keep_exit_statuses().map_err(|error| refused("wait for children", &error))?;
    end_on_panic();
    check::memory_fits_host(config.memory_len)?;
    let kernel = check::open_kernel(&config.kernel, config.memory_len)?;
    let initramfs =
        config.initramfs.as_deref().map(|path| check::open_initramfs(path, config.memory_len)).transpose()?;
    let own_program = programs::open_own()?;
    let cpu = cpu::choose(config.cpu)?;
    check::vcpu_count(config.vcpu_count.into(), Some(cpu.kind))?;
    let devices = config.devices.iter().map(DeviceConfig::kind).collect();
    let shape = Shape { cpu: cpu.kind, initramfs: initramfs.is_some(), devices };
    let system = System::new(&shape);
    let mut objects: BTreeMap<ObjectId, OwnedFd> = BTreeMap::new();
    for program in system.programs() {
        let file = programs::open(program)?;
        objects.extend(system.program(program).map(|object| (object, file.into())));
    }
    let open_image = if config.receive.is_some() { image::open_unlocked } else { image::open };
    let devices = devices::open_all(&config.devices, open_image)?;
    objects.extend(devices.objects);
    let physical = shape.indexes(|kind| kind == DeviceKind::Physical).len();
    host_device::allow_pinning(config.memory_len, physical)?;
    let runtime_dir = RuntimeDir::open()?;
    let mut socket = runtime_dir.bind(&config.name)?;
    let listen = |receive: &Receive| {
        Listener::bind(&receive.listen, Reach::of(receive.tls.is_some(), receive.insecure))
    };
    let guest_listener = config.receive.as_ref().map(listen).transpose()?;
    let tls = config.receive.as_ref().and_then(|receive| receive.tls.as_ref());
    let identity = tls.map(identity::open).transpose()?;

    let host = |step: &'static str| move |error: io::Error| refused(step, &error);
    let crash = CrashPage::create().map_err(host("make the crash page"))?;
    let (channel, coordinators) =
        launcher_channel::pair().map_err(host("make the channel to the coordinator"))?;
    let screen = Arc::new(Screen::default());
    let log_output = LogOutput::open(&config, &runtime_dir, &screen, is_detached)?;
    let console_file = config.console_file.as_deref().map(open_console_file).transpose()?;
    let (log, log_theirs) = io::pipe().map_err(host("make the log pipe"))?;
    let own_log = log_theirs.try_clone().and_then(|pipe| OwnLog::new(pipe, config.json_log));
    let own_log = Arc::new(own_log.map_err(host("share the log pipe"))?);
    let (console, console_theirs) = UnixStream::pair().map_err(host("make the console"))?;
    let handover = handover_file(&Handover::new(&config, cpu.kind, &devices.unreachable))
        .map_err(host("pass the configuration"))?;

    let own = |kind| ObjectId { kind, owner: COORDINATOR_ID, index: 0 };
    let of_vcpu = |kind| ObjectId { kind, owner: VCPU, index: 0 };
    let crash_theirs = crash.as_fd().try_clone_to_owned().map_err(host("share the crash page"))?;
    objects.extend([
        (own(EdgeKind::Control), coordinators),
        (own(EdgeKind::CrashPage), crash_theirs),
        (own(EdgeKind::Log), log_theirs.into()),
        (own(EdgeKind::Handover), handover.into()),
        (own(EdgeKind::Kernel), kernel.into()),
        (of_vcpu(EdgeKind::Console), console_theirs.into()),
    ]);
    objects.extend(initramfs.map(|file| (own(EdgeKind::Initramfs), file.into())));
    objects.extend(cpu.kvm.map(|file| (of_vcpu(EdgeKind::Kvm), file)));
    let held = |object| objects.get(&object).map(AsFd::as_fd);
    let size = Size::measure(&system, config.memory_len, held).map_err(host("measure an image"))?;
    let profile = system.profile_of(system.coordinator(), size);
    limits::allow_descriptors(profile.limits.nofile_count)?;
    let own_id = ids::take(config.ids, &runtime_dir.locks())?;
    let cgroup = cgroup::make(&config, &system, size)?;
    let own_id_number = own_id.as_ref().map(|own| own.id);
    let child =
        spawn(&own_program, system.coordinator(), &objects, &profile, own_id_number, cgroup.as_ref())?;
    // From here on only the coordinator holds its ends: end of file means that it is gone.
    drop(objects);

    let (quit, quits) = mpsc::channel(1);
    let log = Relay::start("log", log, log_output).map_err(host("start a thread"))?;
    let stdout = io::stdout();
    let shown = config.console == ConsoleMode::Stdio;
    let attached = match config.console {
        ConsoleMode::Socket => {
            let listener = runtime_dir.bind_console(&config.name, &mut socket)?;
            let input = console.try_clone().map_err(host("share the console"))?;
            Some(console_socket::start(listener, input).map_err(host("start a thread"))?)
        }
        ConsoleMode::Stdio | ConsoleMode::None => None,
    };
    let output = ConsoleOutput {
        attached,
        stdout: shown.then(|| log::own_copy(stdout.as_fd())).transpose()?,
        file: console_file,
        screen: Arc::clone(&screen),
        log: Arc::downgrade(&own_log),
        lost: Lost::default(),
    };
    // Drained in any case: an unread UART must not block its guest.
    let source = console.try_clone().map_err(host("share the console"))?;
    let output = Relay::start("console-out", source, output).map_err(host("start a thread"))?;
    let terminal = if shown { start_input(console, quit)? } else { None };
    let servers = devices::servers(&config.devices);
    let given = terminal.as_ref().map(|GivenBack(terminal)| terminal);
    let started = Started::new(is_detached);
    if let Some(listener) = &guest_listener {
        own_log.say(Level::Info, &format!("waits for a guest at {}", listener.address));
    }
    let user = User {
        socket: &mut socket,
        quits,
        terminal: given,
        log: &own_log,
        started,
        guest_listener,
        identity,
    };
    let why = watch::until_end(child, crash, channel, user, &servers);
    let output = output.finish(OUTPUT_SPAN);
    if shown && stdout.is_terminal() && screen.is_mid_line() {
        // The messages that follow are not the guest's.
        let _ = writeln!(io::stdout());
    }
    drop(terminal);
    if let (true, Ok(Why::Failed { problem, .. }) | Err(problem)) = (is_detached, &why) {
        // Nobody sees what this process would print.
        own_log.say(Level::Error, &problem.to_string());
    }
    drop(own_log);
    let log = log.finish(OUTPUT_SPAN);
    if let Some(Lost { len: len @ 1.., why: Some(why) }) = output.map(|output| output.lost) {
        log::tell(&format!("{len} bytes of the guest's console are lost: {why}"));
    }
    if let Some(log) = log {
        log.tell_unseen();
    }
    why
}

/// A panic in any thread ends the launcher, and the VM with it. On the main thread unwinding does that.
fn end_on_panic() {
    let told = panic::take_hook();
    panic::set_hook(Box::new(move |what| {
        told(what);
        if thread::current().name() != Some("main") {
            process::exit(PANIC_EXIT_CODE);
        }
    }));
}

/// Starts the coordinator with the descriptors that it is to have, and their names.
fn spawn(
    program: &File,
    coordinator: &Instance,
    objects: &BTreeMap<ObjectId, OwnedFd>,
    profile: &Profile,
    own_id: Option<u32>,
    cgroup: Option<&Cgroup>,
) -> Result<Child, Problem> {
    let mut fds = Vec::new();
    for held in &coordinator.descriptors {
        let Some(fd) = objects.get(&held.object) else {
            return Err(Problem::host(
                format!("descriptor {} of the coordinator was not made", held.slot),
                "launch",
                "report this as a bug",
            ));
        };
        fds.push((held.slot.to_string(), fd.as_fd()));
    }
    let spawn = Spawn {
        program: program.as_fd(),
        argv: &[c"bulkhead", c"coordinator"],
        fds: &fds,
        profile,
        own_id,
        cgroup: cgroup.map(AsFd::as_fd),
    };
    spawn.spawn().map_err(|error| {
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
    memory_file::seal(&file)?;
    Ok(file)
}

/// The file that keeps what the guest's console prints.
fn open_console_file(path: &Path) -> Result<RotatedFile, Problem> {
    RotatedFile::append(path, CONSOLE_FILE_LEN_MAX).map_err(|error| {
        Problem::host(
            format!("the console's file cannot be written: {error}"),
            printable::path(path),
            "give another file with --console-file",
        )
    })
}

/// Connects standard input to the guest's console; a terminal is in raw mode as long as the result lives.
fn start_input(console: UnixStream, quit: mpsc::Sender<()>) -> Result<Option<GivenBack>, Problem> {
    let stdin = io::stdin();
    let kind = Input::of(&stdin)?;
    let terminal = kind.given_back();
    relay::start_input(stdin, kind, console, STOP, quit)
        .map_err(|error| refused("start a thread", &error))?;
    Ok(terminal)
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
