// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The test's end of a sealed process: start it, talk to it line by line, see how it ended.
//!
//! Descriptors of the helper: 0 control (stream socket), 1 crash page, 2 log, and for the coordinator 3, the
//! program that it starts its child from. Every wait has a deadline.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use sandbox::profile::Profile;
use sandbox::spawn::Exit;
use sandbox::{Child, CrashPage, Death, Spawn};

/// The argv[0] under which this program is the sealed process.
pub const HELPER_NAME: &CStr = c"sealed-helper";

const DEADLINE: Duration = Duration::from_secs(20);

/// A running helper.
pub struct Process {
    pub child: Child,
    pub profile: Profile,
    pub page: CrashPage,
    control: BufReader<UnixStream>,
    log: std::io::PipeReader,
}

/// How a helper ended.
#[derive(Debug)]
pub struct End {
    pub exit: Exit,
    pub death: Option<Death>,
    pub log: String,
}

/// This program, opened for exec.
pub fn own_program() -> File {
    File::open("/proc/self/exe").unwrap()
}

/// The profile of this name.
pub fn profile_named(name: &str) -> Profile {
    sandbox::profiles::all(sandbox::Arch::host()).into_iter().find(|profile| profile.name == name).unwrap()
}

impl Process {
    /// Starts a helper that seals itself with the profile called `role`, and waits until it says so.
    pub fn start(role: &str) -> Process {
        let program = own_program();
        let extra = if role == "coordinator" { vec![program.as_fd()] } else { Vec::new() };
        let mut process = Process::start_from(role, program.as_fd(), &extra);
        let greeting = process.line();
        assert_eq!(greeting, "sealed", "log: {}", process.read_log());
        process
    }

    /// Starts `program` as a helper with further descriptors, whatever it then does.
    pub fn start_from(role: &str, program: BorrowedFd<'_>, extra: &[BorrowedFd<'_>]) -> Process {
        let profile = profile_named(role);
        let page = CrashPage::create().unwrap();
        let (control, theirs) = UnixStream::pair().unwrap();
        let (log, log_writer) = std::io::pipe().unwrap();
        // Not from inside a sealed coordinator: no profile allows socket options, and the test outside has a deadline.
        if std::process::id() != 1 {
            control.set_read_timeout(Some(DEADLINE)).unwrap();
        }
        let role = CString::new(role).unwrap();
        let mut fds = vec![(0, theirs.as_fd()), (1, page.as_fd()), (2, log_writer.as_fd())];
        fds.extend(extra.iter().enumerate().map(|(at, fd)| (3 + i32::try_from(at).unwrap(), *fd)));
        let spawn = Spawn { program, argv: &[HELPER_NAME, &role], fds: &fds, profile: &profile };
        let child = spawn.spawn().unwrap_or_else(|error| panic!("{error}"));
        Process { child, profile, page, control: BufReader::new(control), log }
    }

    /// Sends a command and returns the answer; empty when the process ended instead.
    pub fn ask(&mut self, command: &str) -> String {
        // A process that has just ended gives no answer, which is what the caller then sees.
        drop(writeln!(self.control.get_mut(), "{command}"));
        self.line()
    }

    /// The next line the process says.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        match self.control.read_line(&mut line) {
            Ok(_) => line.trim_end().to_owned(),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => String::new(),
            Err(error) => panic!("no answer: {error}"),
        }
    }

    /// What the process has logged; it must have ended, or never log again.
    fn read_log(&mut self) -> String {
        drop(self.child.kill());
        let mut log = String::new();
        self.log.read_to_string(&mut log).unwrap();
        log
    }

    /// Waits until the process has ended of itself.
    pub fn end(mut self) -> End {
        let mut polled = [rustix::event::PollFd::new(&self.child.pidfd, rustix::event::PollFlags::IN)];
        let deadline = rustix::event::Timespec { tv_sec: 20, tv_nsec: 0 };
        let ready = rustix::event::poll(&mut polled, Some(&deadline)).unwrap();
        if ready == 0 {
            panic!("the process did not end; log: {}", self.read_log());
        }
        let exit = self.child.wait().unwrap();
        End { exit, death: sandbox::report::read(&self.page, &self.profile), log: self.read_log() }
    }
}
