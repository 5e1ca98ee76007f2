// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Kills a process at a named point of its work: at the entry or the exit of one of its system calls, or so many
//! instructions behind it.
//!
//! What a process does for a guest it does between calls: a message received, a block read or written, a message sent,
//! somebody woken. A tracer of its own thread attaches to the process that runs (`PTRACE_SEIZE`), lets it go on to the
//! call, and from there instruction by instruction, so that what it only does in memory, such as a line of a journal,
//! is cut in two as well. The programs are those that ship. Linux documents all of this in ptrace(2).

use std::collections::BTreeMap;
use std::fs;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tests::draw::Draw;

/// A call by its name.
type Call = (&'static str, libc::c_long);

const RECEIVE: Call = ("recvmsg", libc::SYS_recvmsg);
const SEND: Call = ("sendmsg", libc::SYS_sendmsg);
const SEND_TO: Call = ("sendto", libc::SYS_sendto);
const READ: Call = ("pread", libc::SYS_pread64);
const WRITE: Call = ("pwrite", libc::SYS_pwrite64);
const FLUSH: Call = ("fdatasync", libc::SYS_fdatasync);
const WAKE: Call = ("futex", libc::SYS_futex);
/// Those of which the kernel writes into shared memory how far they came.
const COUNTED: [Call; 2] = [("recvmmsg", libc::SYS_recvmmsg), ("sendmmsg", libc::SYS_sendmmsg)];

/// What each process does for a request of the guest's, call by call; and a device's in front of a foreign server.
const CALLS: [(&str, &[Call]); 4] = [
    (FOREIGN, &COUNTED),
    ("smmu0", &[RECEIVE, SEND_TO, WAKE]),
    ("vfio0", &[RECEIVE, SEND, SEND_TO, WAKE]),
    ("nvme0", &[RECEIVE, SEND, READ, WRITE, FLUSH, WAKE]),
];

/// The process of a device in front of a foreign server.
pub const FOREIGN: &str = "foreign";

/// The call is let pass up to so often first.
const PASSED_MAX: usize = 8;
/// The most instructions behind its exit.
const STEPS_MAX: usize = 2000;
/// For the point to be reached, in a guest that works.
const LIMIT: Duration = Duration::from_secs(20);

/// A point at which a process is killed.
#[derive(Debug, Clone, Copy)]
pub struct Point {
    call: Call,
    /// How often it is let pass first.
    passed: usize,
    place: Place,
}

#[derive(Debug, Clone, Copy)]
enum Place {
    Entry,
    /// So many instructions behind the exit.
    Behind(usize),
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Killed {
    AtPoint,
    /// It did not come there.
    Elsewhere,
    /// This user may not trace it.
    Refused,
}

impl Point {
    /// The kill number `number` of this process: each of its calls comes in turn, its entry, its exit, and behind it.
    pub fn of(name: &str, number: usize, draw: &mut Draw) -> Self {
        let calls = CALLS.iter().find(|(process, _)| *process == name).unwrap().1;
        let passed = draw.below(PASSED_MAX);
        let call = calls[number % calls.len()];
        // Of flushes there are few.
        let passed = if call == FLUSH { 0 } else { passed };
        let place = match number / calls.len() % 3 {
            0 => Place::Entry,
            1 => Place::Behind(0),
            _ => Place::Behind(1 + draw.below(STEPS_MAX)),
        };
        Self { call, passed, place }
    }

    /// Waits until the process comes there, and kills it. Returns when it has ended.
    pub fn kill(self, process: Pid) -> Killed {
        let (done, over) = channel();
        // Only the thread that attaches is told of its tracees, and of nobody else's children.
        let tracer = thread::spawn(move || {
            Trace { process, point: self, threads: BTreeMap::new(), at: None }.run(&done)
        });
        if over.recv_timeout(LIMIT) == Err(RecvTimeoutError::Timeout) {
            let _ = kill(process, Signal::SIGKILL);
        }
        tracer.join().unwrap()
    }
}

impl std::fmt::Display for Point {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (name, _) = self.call;
        match self.place {
            Place::Entry => write!(f, "entry of {name} {}", self.passed + 1),
            Place::Behind(steps) => write!(f, "{steps} instructions behind {name} {}", self.passed + 1),
        }
    }
}

struct Trace {
    process: Pid,
    point: Point,
    /// Its threads, and whether each is inside of a call.
    threads: BTreeMap<Pid, bool>,
    /// The thread that has left the call, and how many instructions it has to go.
    at: Option<(Pid, usize)>,
}

impl Trace {
    /// `done` is dropped when the process has ended.
    fn run(mut self, _done: &Sender<()>) -> Killed {
        if self.attach().is_err() {
            return Killed::Refused;
        }
        let mut killed = Killed::Elsewhere;
        loop {
            match waitpid(None::<Pid>, Some(WaitPidFlag::__WNOTHREAD | WaitPidFlag::__WALL)) {
                Ok(status) => match self.step(status) {
                    Ok(false) => {}
                    Ok(true) => {
                        let _ = kill(self.process, Signal::SIGKILL);
                        killed = Killed::AtPoint;
                    }
                    // It was killed at this moment.
                    Err(Errno::ESRCH) => {}
                    Err(error) => panic!("{status:?}: {error}"),
                },
                Err(Errno::EINTR) => {}
                Err(_) => return killed,
            }
        }
    }

    /// Attaches to every thread, as long as there are new ones.
    fn attach(&mut self) -> Result<(), Errno> {
        let options = Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE;
        loop {
            let tasks = fs::read_dir(format!("/proc/{}/task", self.process)).into_iter().flatten().flatten();
            let threads = tasks.filter_map(|task| task.file_name().to_str()?.parse().ok().map(Pid::from_raw));
            let new: Vec<Pid> = threads.filter(|thread| !self.threads.contains_key(thread)).collect();
            if new.is_empty() {
                return Ok(());
            }
            for thread in new {
                match ptrace::seize(thread, options) {
                    Ok(()) => ptrace::interrupt(thread)?,
                    // It was traced from its start on, or is gone.
                    Err(Errno::ESRCH) => {}
                    Err(Errno::EPERM) if !self.threads.is_empty() => {}
                    Err(error) => return Err(error),
                }
                self.threads.insert(thread, false);
            }
        }
    }

    /// Whether it has come to its point.
    fn step(&mut self, status: WaitStatus) -> Result<bool, Errno> {
        match status {
            WaitStatus::PtraceSyscall(thread) => self.call(thread),
            WaitStatus::PtraceEvent(thread, ..) => self.go_on(thread, None),
            WaitStatus::Stopped(thread, Signal::SIGTRAP) if self.at.is_some_and(|(at, _)| at == thread) => {
                if let Some((_, steps)) = &mut self.at {
                    *steps -= 1;
                }
                self.go_on(thread, None)
            }
            WaitStatus::Stopped(thread, signal) => self.go_on(thread, Some(signal)),
            _ => Ok(false),
        }
    }

    fn call(&mut self, thread: Pid) -> Result<bool, Errno> {
        let inside = self.threads.entry(thread).or_insert(false);
        *inside = !*inside;
        let is_due = match self.point.place {
            Place::Entry => *inside,
            Place::Behind(_) => !*inside,
        };
        if is_due && self.at.is_none() && number_of_call(thread)? == self.point.call.1 {
            if self.point.passed > 0 {
                self.point.passed -= 1;
            } else {
                let steps = match self.point.place {
                    Place::Entry => 0,
                    Place::Behind(steps) => steps,
                };
                self.at = Some((thread, steps));
            }
        }
        self.go_on(thread, None)
    }

    /// Lets a thread run to its next call, or by one instruction. True: the process is at its point.
    fn go_on(&self, thread: Pid, signal: Option<Signal>) -> Result<bool, Errno> {
        match self.at {
            Some((_, 0)) => return Ok(true),
            Some((at, _)) if at == thread => ptrace::step(thread, signal)?,
            _ => ptrace::syscall(thread, signal)?,
        }
        Ok(false)
    }
}

/// The number of the call that a thread enters or leaves.
#[cfg(target_arch = "x86_64")]
fn number_of_call(thread: Pid) -> Result<libc::c_long, Errno> {
    Ok(ptrace::getregs(thread)?.orig_rax.cast_signed())
}

/// The number of the call that a thread enters or leaves.
#[cfg(target_arch = "aarch64")]
fn number_of_call(thread: Pid) -> Result<libc::c_long, Errno> {
    Ok(ptrace::getregs(thread)?.regs[8].cast_signed())
}
