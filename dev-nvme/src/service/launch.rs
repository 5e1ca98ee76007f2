// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The program used by itself: opens image and socket, and hands them to a sealed process that serves.
//!
//! One program, two processes. The launcher has the user's rights, opens what the command line names, and execs
//! itself through `sandbox`; the sealed process gets exactly these descriptors, and Landlock, namespaces and seccomp
//! keep it from opening any other. The launcher then prints the log, waits for the end, reports it, and removes the
//! socket, also on SIGINT or SIGTERM. The sealed process is killed when the launcher ends.

mod options;
mod output;
pub mod sealed;

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use ipc::slot::SlotKind;
use ipc::socket_file;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FlockOperation, OFlags, SeekFrom};
use rustix::io::Errno;
use rustix::process::Signal;
use sandbox::spawn::{Child, Exit};
use sandbox::{CrashPage, Spawn, profiles, report, signals};

use crate::identity::Identity;
use crate::service::image::Presented;
pub use options::Options;
use output::{Output, say};
use sealed::{LaunchArgs, REPLACE_ME};

/// The signals that request an orderly end.
const ENDING: [Signal; 4] = [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT];

/// The most client memory that the sealed process can have mapped: more than the RAM of any guest of Bulkhead.
pub const CLIENT_MEMORY_LEN: u64 = 1 << 40;

/// The socket's mode before the umask: write permission allows connecting.
const SOCKET_MODE: u32 = 0o777;

/// Opens everything, starts the sealed process and stays until it ends, or a signal asks for an end.
///
/// # Errors
/// What could not be opened or started, or how the sealed process died.
pub fn launch(options: &Options) -> Result<()> {
    // First, so that an early signal leaves no socket behind.
    let asked = signals_asked()?;
    signals::keep_exit_statuses().context("the default action for SIGCHLD")?;
    let image = open_image(options)?;
    let (listener, _file) = socket_file::bind(&options.socket, SOCKET_MODE)?;
    let presented = Presented {
        block_len: options.block_len,
        serial: options.serial.clone(),
        readonly: options.readonly,
    };
    let launch = LaunchArgs { presented, image_name: format!("{:?}", options.image) };
    while run_sealed(&launch, &image, &listener, &asked)? == Ended::ToBeReplaced {
        say("bulkhead-nvme: a new process serves from now on");
    }
    Ok(())
}

/// A socket that becomes readable when a signal requests the end. Signals that the parent set to be ignored stay
/// ignored.
fn signals_asked() -> Result<UnixStream> {
    let (arrivals, writer) = UnixStream::pair().context("a socket pair for signals")?;
    for signal in ENDING.into_iter().filter(|signal| !signals::is_ignored(*signal)) {
        let writer = writer.try_clone().context("a socket for signals")?;
        signal_hook::low_level::pipe::register(signal.as_raw(), writer).context("a handler for signals")?;
    }
    Ok(arrivals)
}

fn open_image(options: &Options) -> Result<File> {
    let name = format!("the image {:?}", options.image);
    // Opening a FIFO or a terminal must not block.
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let image =
        OpenOptions::new().read(true).write(!options.readonly).custom_flags(flags).open(&options.image);
    let image = image.with_context(|| format!("{name} cannot be opened"))?;
    let kind = image.metadata().with_context(|| format!("{name} cannot be looked at"))?.file_type();
    ensure!(
        kind.is_file() || kind.is_block_device(),
        "{name} is neither a regular file nor a block device: give a raw image"
    );
    if !options.shared {
        let lock = match options.readonly {
            true => FlockOperation::NonBlockingLockShared,
            false => FlockOperation::NonBlockingLockExclusive,
        };
        rustix::fs::flock(&image, lock).with_context(|| format!("{name} is in use (see --shared-image)"))?;
    }
    // Checked here, where the user sees which file it is about.
    let len = rustix::fs::seek(&image, SeekFrom::End(0)).with_context(|| format!("the length of {name}"))?;
    Identity::new("", len, options.block_len).with_context(|| name)?;
    Ok(image)
}

/// How the sealed process ended, if not badly.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    /// As requested.
    InGoodOrder,
    /// Its last client blocks it: a new process has to take over.
    ToBeReplaced,
}

fn run_sealed(
    launch: &LaunchArgs,
    image: &File,
    listener: &UnixListener,
    asked: &UnixStream,
) -> Result<Ended> {
    let program = File::open("/proc/self/exe").context("cannot open this program")?;
    let page = CrashPage::create().context("the crash page")?;
    let (nothing, _nobody) = std::io::pipe().context("a pipe")?;
    let (log, log_writer) = std::io::pipe().context("a pipe")?;
    let log_writer = OwnedFd::from(log_writer);
    let fds = [
        (sealed::NOTHING.to_owned(), nothing.as_fd()),
        (SlotKind::CrashPage.to_string(), page.as_fd()),
        (SlotKind::Log.to_string(), log_writer.as_fd()),
        (sealed::LISTENER.to_owned(), listener.as_fd()),
        (SlotKind::Image.to_string(), image.as_fd()),
    ];
    let image_len = rustix::fs::seek(image, SeekFrom::End(0)).context("the image's length")?;
    let profile = profiles::nvme_standalone().sized(CLIENT_MEMORY_LEN, image_len);
    let args = launch.to_args().context("an argument")?;
    let argv: Vec<_> = std::iter::once(c"bulkhead-nvme").chain(args.iter().map(AsRef::as_ref)).collect();
    let child = Spawn {
        program: program.as_fd(),
        argv: &argv,
        fds: &fds,
        profile: &profile,
        own_id: None,
        cgroup: None,
    }
    .spawn()?;
    drop(log_writer);
    let stopped = follow(&child, log, asked)?;
    match child.wait().context("cannot wait for the sealed process")? {
        _ if stopped => Ok(Ended::InGoodOrder),
        Exit::Code(0) => Ok(Ended::InGoodOrder),
        Exit::Code(code) if code == i32::from(REPLACE_ME) => Ok(Ended::ToBeReplaced),
        exit => match report::read(&page, &profile) {
            Some(death) => bail!("the sealed process died: {death}"),
            None => bail!("the sealed process ended: {exit:?}"),
        },
    }
}

/// Prints the sealed process's log until it ends, and kills it on a signal. Returns whether a signal came.
fn follow(child: &Child, mut log: std::io::PipeReader, asked: &UnixStream) -> Result<bool> {
    let mut output = Output::new(Instant::now());
    let mut bytes = [0; 4096];
    let mut stopped = false;
    loop {
        let mut polled = [PollFd::new(&log, PollFlags::IN), PollFd::new(asked, PollFlags::IN)];
        // After the first signal further ones are ignored.
        let count = if stopped { 1 } else { 2 };
        match poll(polled.get_mut(..count).unwrap_or_default(), None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).context("cannot wait for the sealed process's log"),
        }
        let [from_log, from_signals] = polled.map(|fd| fd.revents());
        if !stopped && from_signals.contains(PollFlags::IN) {
            // SIGKILL loses nothing: completed writes are in the page cache.
            child.kill().context("cannot end the sealed process")?;
            stopped = true;
        }
        if from_log.is_empty() {
            continue;
        }
        match log.read(&mut bytes) {
            Ok(0) => return Ok(stopped),
            Ok(len) => output.feed(bytes.get(..len).unwrap_or_default(), Instant::now(), say),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context("cannot read the sealed process's log"),
        }
    }
}

#[cfg(test)]
mod tests;
