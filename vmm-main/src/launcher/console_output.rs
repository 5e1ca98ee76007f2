// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where the guest's console output goes: standard output, a file of bounded size, both, or nowhere.
//!
//! Output is neither delayed nor dropped by rate: the reader's speed limits it. A destination that fails is tried
//! again with the next bytes (a full disk may get room); lost bytes are counted and reported once in the log, and at
//! the end.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use ipc::log::Level;

use super::console_socket::Output;
use super::log::OwnLog;
use super::relay::Sink;
use super::rotated_file::RotatedFile;
use super::screen::Screen;

/// The guest's output.
#[derive(Debug)]
pub struct ConsoleOutput {
    /// Standard output, if the console is shown there.
    pub stdout: Option<File>,
    /// Who attaches, if the console is a socket.
    pub attached: Option<Output>,
    /// The console file.
    pub file: Option<RotatedFile>,
    /// The state of standard output.
    pub screen: Arc<Screen>,
    /// For reporting losses. Weak: the log ends when its last owner is gone.
    pub log: Weak<OwnLog>,
    /// What was lost.
    pub lost: Lost,
}

/// Lost bytes, and the first reason.
#[derive(Debug, Default)]
pub struct Lost {
    /// How many.
    pub len: u64,
    /// Why the first of them.
    pub why: Option<String>,
}

impl Sink for ConsoleOutput {
    fn take(&mut self, bytes: &[u8]) {
        let Self { stdout, attached, file, screen, .. } = self;
        if let Some(attached) = attached {
            attached.print(bytes);
        }
        let shown = stdout.as_mut().map_or(Ok(()), |stdout| screen.guest(bytes, || put(stdout, bytes)));
        let kept = file.as_mut().map_or(Ok(()), |file| put(file, bytes));
        match shown {
            // The reader closed its end, as `| head` does: not an error.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => self.stdout = None,
            shown => self.count(bytes, "standard output", shown),
        }
        self.count(bytes, "the console's file", kept);
    }

    fn finish(&mut self) {
        if let Some(attached) = &self.attached {
            attached.end();
        }
    }
}

impl ConsoleOutput {
    fn count(&mut self, bytes: &[u8], place: &str, written: io::Result<()>) {
        let Err(error) = written else { return };
        self.lost.len = self.lost.len.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        if self.lost.why.is_none() {
            let why = format!("{place} does not take it: {error}");
            if let Some(log) = self.log.upgrade() {
                log.say(Level::Warn, &format!("output of the guest's console is lost: {why}"));
            }
            self.lost.why = Some(why);
        }
    }
}

/// Writes all of `bytes`, also to a descriptor that another process has made non-blocking.
pub fn put(sink: &mut impl Write, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match sink.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(len) => bytes = bytes.get(len..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(FULL_INTERVAL),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// How often a full descriptor is tried again.
const FULL_INTERVAL: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn output(stdout: Option<File>, file: Option<RotatedFile>) -> ConsoleOutput {
        ConsoleOutput {
            stdout,
            attached: None,
            file,
            screen: Arc::default(),
            log: Weak::new(),
            lost: Lost::default(),
        }
    }

    #[test]
    fn console_output_on_a_full_disk_is_counted_and_the_file_still_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("console");
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut output = output(Some(full), Some(RotatedFile::append(&path, 1 << 20).unwrap()));
        output.take(b"one\n");
        output.take(b"two\n");
        assert_eq!(output.lost.len, 8);
        let why = output.lost.why.unwrap();
        assert!(why.starts_with("standard output does not take it: No space left"), "{why}");
        assert_eq!(std::fs::read(&path).unwrap(), b"one\ntwo\n");
    }

    #[test]
    fn console_output_that_nobody_reads_any_more_is_no_loss() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let mut output = output(Some(File::from(std::os::fd::OwnedFd::from(writer))), None);
        output.take(b"one\n");
        assert_eq!(output.lost.len, 0);
        assert!(output.stdout.is_none());
    }

    #[test]
    fn console_output_to_a_non_blocking_pipe_is_whole() {
        let (mut reader, writer) = io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        let bytes: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
        let mut output = output(Some(File::from(std::os::fd::OwnedFd::from(writer))), None);
        let read = thread::spawn(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).unwrap();
            all
        });
        output.take(&bytes);
        assert_eq!(output.lost.len, 0);
        drop(output);
        assert_eq!(read.join().unwrap(), bytes);
    }
}
