// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The program used by itself: opens image and socket, and hands them to a sealed process that serves.
//!
//! Two lives of one program. The launcher has the user's rights, opens what the command line names, and execs itself
//! through `sandbox`; the sealed process gets exactly these descriptors, and Landlock, namespaces and filter keep it
//! from any other: 0 nothing to read, 1 crash page, 2 log, 3 listening socket, 4 image. The launcher then prints
//! the log, waits, and says how it ended. The sealed process dies with the launcher.

use std::ffi::{CString, OsString};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{FlockOperation, SeekFrom};
use sandbox::spawn::Exit;
use sandbox::{CrashPage, Inherited, Spawn, profiles, report};

use crate::device::Device;
use crate::identity::Identity;
use crate::media::Image;
use crate::service::{self, Socket};

/// First argument of the sealed process.
const SEALED: &str = "--sealed";

/// Descriptors 0 to 4.
const FD_COUNT: u32 = 5;

/// The longest line of the log that is printed whole.
const LINE_LEN_MAX: u64 = 4096;

/// What the command line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The image.
    pub image: PathBuf,
    /// Where clients connect.
    pub socket: PathBuf,
    /// 512 or 4096.
    pub block_len: u32,
    /// Serial number; the namespace's names follow from it.
    pub serial: String,
    /// Somebody else may have the image open: the other end of a migration.
    pub shared: bool,
}

/// How the program is used.
pub const USAGE: &str = "\
bulkhead-nvme: an NVMe controller for vfio-user clients, over a raw image, in a sandbox of its own

  bulkhead-nvme --image FILE --socket-path PATH [--block-size 512|4096] [--serial TEXT] [--shared-image]

  --image FILE         raw image or block device: the namespace's blocks
  --socket-path PATH   Unix socket that clients connect to, one at a time (also: --socket)
  --block-size BYTES   logical block size, 512 unless given
  --serial TEXT        serial number, up to 20 characters, BULKHEAD0001 unless given
  --shared-image       do not insist on being the only user of the image: for a migration's other end
";

impl Options {
    /// Reads a command line without the program's name.
    ///
    /// # Errors
    /// What is missing, unknown or wrong.
    pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Self> {
        let (mut image, mut socket) = (None, None);
        let (mut block_len, mut serial, mut shared) = (512, "BULKHEAD0001".to_owned(), false);
        let mut args = args.into_iter();
        while let Some(option) = args.next() {
            let name = option.to_str().unwrap_or_default().to_owned();
            let mut value = || args.next().with_context(|| format!("{name} needs a value"));
            match name.as_str() {
                "--image" => image = Some(PathBuf::from(value()?)),
                "--socket-path" | "--socket" => socket = Some(PathBuf::from(value()?)),
                "--block-size" => {
                    let text = value()?;
                    block_len = text
                        .to_str()
                        .and_then(|text| text.parse().ok())
                        .context("--block-size is no number")?;
                }
                "--serial" => serial = value()?.into_string().ok().context("--serial is not text")?,
                "--shared-image" => shared = true,
                _ => bail!("unknown option {}\n\n{USAGE}", option.display()),
            }
        }
        ensure!(
            (1..=20).contains(&serial.len()) && serial.bytes().all(|byte| byte.is_ascii_graphic()),
            "--serial is 1 to 20 visible ASCII characters"
        );
        let image = image.with_context(|| format!("--image is missing\n\n{USAGE}"))?;
        let socket = socket.with_context(|| format!("--socket-path is missing\n\n{USAGE}"))?;
        Ok(Self { image, socket, block_len, serial, shared })
    }
}

/// Whether this is the sealed process, which then serves.
///
/// # Errors
/// Why it could not be sealed, or cannot go on.
pub fn serve_if_sealed() -> Result<bool> {
    let mut args = std::env::args().skip(1);
    if args.next().as_deref() != Some(SEALED) {
        return Ok(false);
    }
    let block_len =
        args.next().and_then(|text| text.parse().ok()).context("no block size was handed over")?;
    let serial = args.next().context("no serial number was handed over")?;
    let mut fds = Inherited::take_all(FD_COUNT)?;
    let crash_page = CrashPage::from_fd(fds.take(1)?).context("the crash page")?;
    let (socket, image) = (fds.take(3)?, File::from(fds.take(4)?));
    let locked = sandbox::seal(&profiles::nvme_standalone(), FD_COUNT, crash_page)?;
    let len = rustix::fs::seek(&image, SeekFrom::End(0)).context("the image's length")?;
    let identity = Identity::new(&serial, len, block_len)?;
    let device = std::sync::Arc::new(Device::new(identity, Box::new(Image::new(image))));
    for line in locked.enforced().lines() {
        eprintln!("nvme: sealed: {line}");
    }
    service::serve(&locked, &device, Socket::Listening(socket))?;
    Ok(true)
}

/// Opens everything, starts the sealed process and stays until it ends.
///
/// # Errors
/// What could not be opened or started, or how the sealed process died.
pub fn launch(options: &Options) -> Result<()> {
    let image = open_image(options)?;
    let listener = bind(&options.socket)?;
    let served = run_sealed(options, &image, &listener);
    // Only this process made it.
    let _ = std::fs::remove_file(&options.socket);
    served
}

fn open_image(options: &Options) -> Result<File> {
    let name = options.image.display();
    let image = OpenOptions::new().read(true).write(true).open(&options.image);
    let image = image.with_context(|| format!("cannot open the image {name}"))?;
    if !options.shared {
        rustix::fs::flock(&image, FlockOperation::NonBlockingLockExclusive)
            .with_context(|| format!("the image {name} is in use (see --shared-image)"))?;
    }
    // Said here, where the user sees which file it is about.
    let len = rustix::fs::seek(&image, SeekFrom::End(0)).with_context(|| format!("the length of {name}"))?;
    Identity::new(&options.serial, len, options.block_len).with_context(|| format!("the image {name}"))?;
    Ok(image)
}

/// Binds the socket; one that a dead process left behind is replaced.
fn bind(path: &Path) -> Result<UnixListener> {
    let name = path.display();
    match UnixListener::bind(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            match UnixStream::connect(path) {
                Err(refused) if refused.kind() == std::io::ErrorKind::ConnectionRefused => {}
                _ => bail!("{name} is in use"),
            }
            std::fs::remove_file(path).with_context(|| format!("cannot replace {name}"))?;
            UnixListener::bind(path).with_context(|| format!("cannot bind {name}"))
        }
        bound => bound.with_context(|| format!("cannot bind {name}")),
    }
}

fn run_sealed(options: &Options, image: &File, listener: &UnixListener) -> Result<()> {
    let program = File::open("/proc/self/exe").context("cannot open this program")?;
    let page = CrashPage::create().context("the crash page")?;
    let (nothing, _nobody) = std::io::pipe().context("a pipe")?;
    let (log, log_writer) = std::io::pipe().context("a pipe")?;
    let log_writer = OwnedFd::from(log_writer);
    let block_len = CString::new(options.block_len.to_string()).context("the block size")?;
    let serial = CString::new(options.serial.as_str()).context("the serial number")?;
    let sealed = CString::new(SEALED).context("an argument")?;
    let fds = [
        (0, nothing.as_fd()),
        (1, page.as_fd()),
        (2, log_writer.as_fd()),
        (3, listener.as_fd()),
        (4, image.as_fd()),
    ];
    let profile = profiles::nvme_standalone();
    let argv = [c"bulkhead-nvme", &sealed, &block_len, &serial];
    let child = Spawn { program: program.as_fd(), argv: &argv, fds: &fds, profile: &profile }.spawn()?;
    drop(log_writer);
    print_log(log);
    let exit = child.wait().context("cannot wait for the sealed process")?;
    if exit == Exit::Code(0) {
        return Ok(());
    }
    match report::read(&page, &profile) {
        Some(death) => bail!("the sealed process died: {death}"),
        None => bail!("the sealed process ended: {exit:?}"),
    }
}

/// Prints what the sealed process says, until it ends. Its text may be a guest's: control characters are escaped.
fn print_log(log: std::io::PipeReader) {
    let mut log = BufReader::new(log);
    let mut line = Vec::new();
    while log.by_ref().take(LINE_LEN_MAX).read_until(b'\n', &mut line).is_ok_and(|len| len > 0) {
        let text = String::from_utf8_lossy(&line);
        let escaped: String = text
            .trim_end()
            .chars()
            .flat_map(|c| {
                let keep = !c.is_control();
                keep.then_some(c).into_iter().chain((!keep).then(|| c.escape_default()).into_iter().flatten())
            })
            .collect();
        eprintln!("{escaped}");
        line.clear();
    }
}

#[cfg(test)]
mod tests;
