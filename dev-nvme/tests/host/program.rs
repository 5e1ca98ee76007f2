// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The program in a process of its own, over an image of its own.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::client::Client;

pub const MIB: u64 = 1 << 20;

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// The program; all gone with the value.
pub struct Program {
    pub folder: TempDir,
    pub child: Child,
    log: Receiver<String>,
}

impl Program {
    pub fn start(options: &[&str]) -> Program {
        let folder = tempfile::tempdir().unwrap();
        File::create(folder.path().join("disk.img")).unwrap().set_len(16 * MIB).unwrap();
        let mut command = Program::command(folder.path());
        command.args(options);
        Program::run(folder, command)
    }

    /// Starts it by a command over that folder, and waits until it listens.
    pub fn run(folder: TempDir, mut command: Command) -> Program {
        let mut child = command.spawn().unwrap();
        let said = child.stderr.take().unwrap();
        let (line, log) = channel();
        thread::spawn(move || {
            for said in BufReader::new(said).lines().map_while(Result::ok) {
                if line.send(said).is_err() {
                    return;
                }
            }
        });
        let mut program = Program { folder, child, log };
        let since = Instant::now();
        while UnixStream::connect(program.socket()).is_err() {
            assert!(program.child.try_wait().unwrap().is_none(), "it ended: {:?}", program.said());
            assert!(since.elapsed() < PATIENCE, "the program never listens");
            thread::sleep(Duration::from_millis(5));
        }
        program
    }

    /// The program over the image `disk.img` in a folder, at the socket `socket` there.
    pub fn command(folder: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bulkhead-nvme"));
        command.arg("--image").arg(folder.join("disk.img"));
        command.arg("--socket-path").arg(folder.join("socket"));
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        command
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn socket(&self) -> PathBuf {
        self.path().join("socket")
    }

    pub fn image(&self) -> File {
        File::options().read(true).write(true).open(self.path().join("disk.img")).unwrap()
    }

    pub fn client(&self) -> Client {
        Client::connect(UnixStream::connect(self.socket()).unwrap())
    }

    /// The sealed process: the launcher's only child.
    pub fn sealed(&self) -> i32 {
        let pid = self.child.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        children.trim().parse().unwrap()
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for its end.
    pub fn ended(&mut self) -> ExitStatus {
        let since = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(since.elapsed() < PATIENCE, "it does not end");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// What it said since the last look.
    pub fn said(&self) -> Vec<String> {
        self.log.try_iter().collect()
    }

    /// What it says up to a line with this in it.
    pub fn says(&self, wanted: &str) -> String {
        let since = Instant::now();
        let mut others = Vec::new();
        while let Ok(line) = self.log.recv_timeout(PATIENCE.saturating_sub(since.elapsed())) {
            if line.contains(wanted) {
                return line;
            }
            others.push(line);
        }
        panic!("it never says {wanted:?}, but {others:?}");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
