// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The test's end of a sealed process: start it, talk to it line by line, see how it ended.
//!
//! Descriptors of a helper: control (a stream socket), crash page, log; for the coordinator also the program that it
//! starts its child from, and that child's crash page. A vCPU or vSMMU process is started as in the product: by a
//! sealed coordinator, which passes commands on. Every wait of the test has a deadline.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use sandbox::profile::Profile;
use sandbox::spawn::Exit;
use sandbox::{Child, CrashPage, Death, Spawn};

/// The argv[0] under which this program is a sealed process.
pub const HELPER_NAME: &CStr = c"sealed-helper";
/// The argv[0] under which this program tells its descriptors and ends.
pub const TABLE_NAME: &CStr = c"sealed-table";
/// The argv[0] under which this program starts processes and waits to be killed.
pub const LAUNCHER_NAME: &str = "sealed-launcher";

/// The names of a helper's descriptors; the last two are the coordinator's alone.
const SLOTS: [&str; 5] = ["control", "crash-page", "log", "program", "crash-page:child"];

const DEADLINE: Duration = Duration::from_secs(20);

/// The roles that have a profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Coordinator,
    Vcpu,
    Smmu,
    Nvme,
}

impl Role {
    pub fn name(self) -> &'static str {
        match self {
            Role::Coordinator => "coordinator",
            Role::Vcpu => "vcpu-soft",
            Role::Smmu => "smmu",
            Role::Nvme => "nvme",
        }
    }

    pub fn profile(self) -> Profile {
        profile_named(self.name())
    }
}

/// The profile of this name. No process here has the descriptors that some rules are about: theirs is a number far
/// above.
pub fn profile_named(name: &str) -> Profile {
    let all = sandbox::profiles::all(sandbox::Arch::host());
    all.into_iter().find(|profile| profile.name == name).unwrap().with_numbers(|_| vec![250])
}

/// This program, opened for exec.
pub fn own_program() -> File {
    File::open("/proc/self/exe").unwrap()
}

/// A running helper, or one below a coordinator.
pub struct Process {
    child: Child,
    profile: Profile,
    page: CrashPage,
    control: BufReader<UnixStream>,
    log: std::io::PipeReader,
    nested: Option<(Role, CrashPage)>,
}

/// How a helper ended.
#[derive(Debug)]
pub struct End {
    pub exit: Exit,
    pub death: Option<Death>,
    pub log: String,
}

impl Process {
    /// Starts a helper that seals itself with the profile of `role`, and waits until it says so.
    pub fn start(role: Role) -> Process {
        let program = own_program();
        let page = CrashPage::create().unwrap();
        let mut process =
            Process::start_from("coordinator", "", program.as_fd(), &[program.as_fd(), page.as_fd()]);
        let greeting = process.line();
        assert_eq!(greeting, "sealed", "log: {}", process.read_log());
        if role != Role::Coordinator {
            let answer = process.ask(&format!("spawn {}", role.name()));
            let told = sandbox::report::read(&page, &role.profile());
            assert_eq!(answer, "sealed 2", "{told:?}; log: {}", process.read_log());
            process.nested = Some((role, page));
        }
        process
    }

    /// Starts `program` as a helper for `role` with a crash page of its own.
    pub fn start_from(role: &str, fault: &str, program: BorrowedFd<'_>, extra: &[BorrowedFd<'_>]) -> Process {
        Process::start_with(role, fault, program, extra, CrashPage::create().unwrap())
    }

    /// Starts `program` as a helper for `role`; `fault` is something that it should do wrong.
    pub fn start_with(
        role: &str,
        fault: &str,
        program: BorrowedFd<'_>,
        extra: &[BorrowedFd<'_>],
        page: CrashPage,
    ) -> Process {
        let profile = profile_named(role);
        let (control, theirs) = UnixStream::pair().unwrap();
        let (log, log_writer) = std::io::pipe().unwrap();
        // Not from inside a sealed coordinator: no profile allows socket options, and the test outside has a deadline.
        if std::process::id() != 1 {
            control.set_read_timeout(Some(DEADLINE)).unwrap();
        }
        let (role, fault) = (CString::new(role).unwrap(), CString::new(fault).unwrap());
        let all = [theirs.as_fd(), page.as_fd(), log_writer.as_fd()].into_iter().chain(extra.iter().copied());
        let fds: Vec<_> = SLOTS.iter().map(|name| (*name).to_owned()).zip(all).collect();
        let spawn = Spawn {
            program,
            argv: &[HELPER_NAME, &role, &fault],
            fds: &fds,
            profile: &profile,
            own_id: None,
            cgroup: None,
        };
        let child = spawn.spawn().unwrap_or_else(|error| panic!("{error}"));
        Process { child, profile, page, control: BufReader::new(control), log, nested: None }
    }

    /// Sends a command to the process that this one is about and returns the answer; empty when it ended instead.
    pub fn tell(&mut self, command: &str) -> String {
        if self.nested.is_some() { self.ask(&format!("child {command}")) } else { self.ask(command) }
    }

    /// Sends a command to the process that the test itself started.
    pub fn ask(&mut self, command: &str) -> String {
        self.send(command);
        self.line()
    }

    /// Sends a command and waits for no answer.
    pub fn send(&mut self, command: &str) {
        // A process that has just ended gives no answer, which is what the caller then sees.
        drop(writeln!(self.control.get_mut(), "{command}"));
    }

    /// The next line the process says; empty when it has ended.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        match self.control.read_line(&mut line) {
            Ok(_) => line.trim_end().to_owned(),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => String::new(),
            Err(error) => panic!("no answer: {error}"),
        }
    }

    /// The coordinator's pid, as seen here.
    pub fn coordinator_pid(&self) -> i32 {
        self.child.pid
    }

    /// The pid of the process that this one is about, as seen here.
    pub fn pid(&self) -> i32 {
        if self.nested.is_none() {
            return self.child.pid;
        }
        let file = format!("/proc/{0}/task/{0}/children", self.child.pid);
        std::fs::read_to_string(file).unwrap().trim().parse().unwrap()
    }

    /// Kills the process that the test itself started.
    pub fn kill(&self) {
        self.child.kill().unwrap();
    }

    /// All that was logged; ends the process.
    fn read_log(&mut self) -> String {
        self.kill();
        let mut log = String::new();
        self.log.read_to_string(&mut log).unwrap();
        log
    }

    /// Waits until the process has ended of itself.
    pub fn end(mut self) -> End {
        let Some((role, page)) = self.nested.take() else {
            let mut polled = [rustix::event::PollFd::new(&self.child.pidfd, rustix::event::PollFlags::IN)];
            let deadline = rustix::event::Timespec { tv_sec: 20, tv_nsec: 0 };
            let ready = rustix::event::poll(&mut polled, Some(&deadline)).unwrap();
            assert_eq!(ready, 1, "the process did not end; log: {}", self.read_log());
            let exit = self.child.wait().unwrap();
            let death = sandbox::report::read(&self.page, &self.profile);
            return End { exit, death, log: self.read_log() };
        };
        let answer = self.ask("child-end");
        let number = |text: &str| text.parse().unwrap();
        let exit = match answer.split_once(' ') {
            Some(("code", code)) => Exit::Code(number(code)),
            Some(("signal", signal)) => Exit::Signal(number(signal)),
            _ => panic!("{answer}; log: {}", self.read_log()),
        };
        End { exit, death: sandbox::report::read(&page, &role.profile()), log: self.read_log() }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have been waited for already.
        drop(self.child.kill().and_then(|()| self.child.wait()));
    }
}
