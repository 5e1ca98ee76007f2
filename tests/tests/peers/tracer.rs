// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Stops a process of a machine at one of its messages, and not a moment earlier or later.
//!
//! A message is a system call that has moved something to or from another process: a datagram or a part of a stream,
//! the count of an eventfd, a wake or a wait at a shared word. The launcher starts under `ptrace`; of what it starts,
//! and that starts, only the processes that are counted stay traced call by call. At its message the process is stopped
//! by SIGSTOP and let go of, so that what happens to it next is between it and the machine. Linux documents all of this
//! in ptrace(2).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::support::COMMAND;

/// Calls that move something between processes when they succeed.
const MESSAGES: [libc::c_long; 9] = [
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendto,
    libc::SYS_recvfrom,
    libc::SYS_sendmmsg,
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_preadv2,
    libc::SYS_futex,
];

/// A life of a process: its name and its generation.
pub type Life = (String, u32);

/// How many messages each has had.
pub type Counts = BTreeMap<Life, u64>;

/// What is traced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Every process is counted, none is stopped.
    Count,
    /// This life of the process is stopped when it has had so many messages.
    Stop { process: &'static str, generation: u32, message: u64 },
}

/// The tracer of one machine: a thread, since ptrace reports to the tracing thread alone.
pub struct Tracer {
    /// The process, as soon as it is stopped. Closed when there is nothing more to trace.
    pub stopped: Receiver<Pid>,
    given_up: Arc<AtomicBool>,
    counts: Arc<Mutex<Counts>>,
    thread: JoinHandle<()>,
}

/// Program and arguments that run another one which waits to be traced and writes its pid to `file`.
pub fn under(file: &Path) -> Vec<String> {
    let script = r#"echo $$ >"$0" && kill -STOP $$ && exec "$@""#;
    vec!["sh".into(), "-c".into(), script.into(), file.display().to_string()]
}

impl Tracer {
    /// Traces the program that writes its pid to `file`.
    pub fn start(file: PathBuf, plan: Plan) -> Self {
        Self::trace(file, plan, true)
    }

    /// The same; nothing is stopped before [`Self::begin`].
    pub fn start_counting(file: PathBuf, plan: Plan) -> Self {
        Self::trace(file, plan, false)
    }

    fn trace(file: PathBuf, plan: Plan, stops: bool) -> Self {
        let (tell, stopped) = channel();
        let given_up = Arc::new(AtomicBool::new(!stops));
        let counts = Arc::<Mutex<Counts>>::default();
        let (seen, counted) = (Arc::clone(&given_up), Arc::clone(&counts));
        let thread = thread::spawn(move || Trace::new(launcher(&file), plan, tell, seen, counted).run());
        Self { stopped, given_up, counts, thread }
    }

    /// Stops nothing from here on. A process that is being stopped at this moment is still reported.
    pub fn give_up(&self) {
        self.given_up.store(true, Ordering::SeqCst);
    }

    /// Counts anew, and stops from here on.
    pub fn begin(&self) {
        self.counts.lock().unwrap().clear();
        self.given_up.store(false, Ordering::SeqCst);
    }

    /// The counts so far.
    pub fn counts(&self) -> Counts {
        self.counts.lock().unwrap().clone()
    }

    /// Waits until everything traced has ended, and gives the counts.
    pub fn finish(self) -> Counts {
        self.thread.join().unwrap();
        self.counts.lock().unwrap().clone()
    }
}

/// The launcher, once it waits.
fn launcher(file: &Path) -> Pid {
    let until = Instant::now() + COMMAND;
    loop {
        let pid = fs::read_to_string(file).ok().and_then(|text| text.trim_end().parse::<i32>().ok());
        if let Some(pid) = pid
            && status(Pid::from_raw(pid), "State").is_some_and(|state| state.starts_with('T'))
        {
            return Pid::from_raw(pid);
        }
        assert!(Instant::now() < until, "the launcher does not wait to be traced");
        thread::sleep(Duration::from_millis(1));
    }
}

/// A line of a thread's `status`; none once it is gone.
fn status(thread: Pid, key: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    text.lines().find_map(|line| Some(line.strip_prefix(key)?.strip_prefix(':')?.trim().to_owned()))
}

/// The process of a thread.
fn process_of(thread: Pid) -> Option<Pid> {
    status(thread, "Tgid")?.parse().ok().map(Pid::from_raw)
}

/// The threads of a process; none once it is gone.
fn threads_of(process: Pid) -> Vec<Pid> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    tasks.filter_map(|task| task.file_name().to_str()?.parse().ok().map(Pid::from_raw)).collect()
}

/// The name and generation of a process of a machine: its first two arguments. Without a generation it is the first.
fn life_of(process: Pid) -> Life {
    let line = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
    let mut words = line.split(|byte| *byte == 0).skip(1).map(String::from_utf8_lossy);
    let name = words.next().unwrap_or_default().into_owned();
    (name, words.next().and_then(|word| word.parse().ok()).unwrap_or(1))
}

/// The number and the result of the call that a thread has just ended.
#[cfg(target_arch = "x86_64")]
fn ended_call(thread: Pid) -> Result<(libc::c_long, i64), Errno> {
    let registers = ptrace::getregs(thread)?;
    Ok((registers.orig_rax.cast_signed(), registers.rax.cast_signed()))
}

/// The number and the result of the call that a thread has just ended.
#[cfg(target_arch = "aarch64")]
fn ended_call(thread: Pid) -> Result<(libc::c_long, i64), Errno> {
    let registers = ptrace::getregs(thread)?;
    Ok((registers.regs[8].cast_signed(), registers.regs[0].cast_signed()))
}

struct Trace {
    launcher: Pid,
    plan: Plan,
    tell: Sender<Pid>,
    given_up: Arc<AtomicBool>,
    /// The processes that are followed call by call.
    followed: BTreeMap<Pid, Life>,
    /// Threads that are inside of a call.
    inside: BTreeMap<Pid, bool>,
    counts: Arc<Mutex<Counts>>,
    /// The process that is being stopped.
    stopping: Option<Pid>,
    /// Processes that have started what is followed: a tracer hides the end of its tracees from their parents for a
    /// moment.
    released: BTreeSet<Pid>,
}

impl Trace {
    fn new(
        launcher: Pid,
        plan: Plan,
        tell: Sender<Pid>,
        given_up: Arc<AtomicBool>,
        counts: Arc<Mutex<Counts>>,
    ) -> Self {
        let (followed, inside, released) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        let stopping = None;
        Self { launcher, plan, tell, given_up, followed, inside, counts, stopping, released }
    }

    fn run(mut self) {
        let options = Options::PTRACE_O_EXITKILL
            | Options::PTRACE_O_TRACESYSGOOD
            | Options::PTRACE_O_TRACEEXEC
            | Options::PTRACE_O_TRACEFORK
            | Options::PTRACE_O_TRACEVFORK
            | Options::PTRACE_O_TRACECLONE;
        ptrace::seize(self.launcher, options).unwrap();
        kill(self.launcher, Signal::SIGCONT).unwrap();
        loop {
            // Only what this thread traces, and threads as well as processes.
            match waitpid(None::<Pid>, Some(WaitPidFlag::__WNOTHREAD | WaitPidFlag::__WALL)) {
                // A thread that a signal ends at this moment is not there to be let go on.
                Ok(status) => match self.step(status) {
                    Ok(()) | Err(Errno::ESRCH) => {}
                    Err(error) => panic!("{status:?}: {error}"),
                },
                Err(Errno::ECHILD) => return,
                Err(Errno::EINTR) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn step(&mut self, status: WaitStatus) -> Result<(), Errno> {
        match status {
            WaitStatus::PtraceEvent(thread, signal, event) => self.event(thread, signal, event),
            WaitStatus::PtraceSyscall(thread) => self.call(thread),
            WaitStatus::Stopped(thread, signal) => self.go_on(thread, Some(signal)),
            _ => Ok(()),
        }
    }

    fn event(&mut self, thread: Pid, signal: Signal, event: i32) -> Result<(), Errno> {
        if event == libc::PTRACE_EVENT_STOP && signal == Signal::SIGSTOP {
            // A thread of a process that is stopped: it stays so when it is let go of.
            if process_of(thread).is_some_and(|process| self.stopping == Some(process)) {
                return self.let_go(thread);
            }
        }
        if event == libc::PTRACE_EVENT_EXEC {
            let process = process_of(thread).ok_or(Errno::ESRCH)?;
            let life = life_of(process);
            let is_coordinator = life.0 == "coordinator";
            if self.is_wanted(&life) {
                self.followed.insert(process, life);
                // It is inside of `execve`.
                self.inside.insert(thread, true);
            }
            if is_coordinator || self.followed.contains_key(&process) && self.plan != Plan::Count {
                self.release_parent(process);
            } else if !self.followed.contains_key(&process) && thread != self.launcher {
                return ptrace::detach(thread, None);
            }
        }
        self.go_on(thread, None)
    }

    /// Lets go of the process that has started this one.
    fn release_parent(&mut self, process: Pid) {
        let Some(parent) = status(process, "PPid").and_then(|pid| pid.parse().ok().map(Pid::from_raw)) else {
            return;
        };
        self.released.insert(parent);
        for thread in threads_of(parent) {
            // One that is stopped already, or has ended, needs no interruption.
            let _ = ptrace::interrupt(thread);
        }
    }

    fn is_wanted(&self, (name, its): &Life) -> bool {
        match &self.plan {
            Plan::Count => name != "run",
            Plan::Stop { process, generation, .. } => process == name && generation == its,
        }
    }

    fn let_go(&mut self, thread: Pid) -> Result<(), Errno> {
        ptrace::detach(thread, None)?;
        let Some(process) = process_of(thread) else { return Ok(()) };
        let is_ours = |thread| status(thread, "TracerPid").is_some_and(|tracer| tracer != "0");
        if !threads_of(process).into_iter().any(is_ours) {
            // A test that does not want to know has failed by itself.
            let _ = self.tell.send(process);
        }
        Ok(())
    }

    fn call(&mut self, thread: Pid) -> Result<(), Errno> {
        let inside = self.inside.entry(thread).or_insert(false);
        *inside = !*inside;
        let process = process_of(thread).ok_or(Errno::ESRCH)?;
        if *inside || self.stopping == Some(process) {
            return self.go_on(thread, None);
        }
        let (number, result) = ended_call(thread)?;
        if let Some(life) = self.followed.get(&process)
            && MESSAGES.contains(&number)
            && result >= 0
        {
            let at = {
                let mut counts = self.counts.lock().unwrap();
                let count = counts.entry(life.clone()).or_default();
                *count += 1;
                *count
            };
            if let Plan::Stop { message, .. } = self.plan
                && message == at
                && !self.given_up.load(Ordering::SeqCst)
            {
                self.stopping = Some(process);
                kill(process, Signal::SIGSTOP)?;
            }
        }
        self.go_on(thread, None)
    }

    /// Lets a thread run: to its next call, if it is one of those that are counted.
    fn go_on(&self, thread: Pid, signal: Option<Signal>) -> Result<(), Errno> {
        let process = process_of(thread).ok_or(Errno::ESRCH)?;
        if self.released.contains(&process) {
            return ptrace::detach(thread, signal);
        }
        if self.followed.contains_key(&process) && self.stopping != Some(process) {
            ptrace::syscall(thread, signal)
        } else {
            ptrace::cont(thread, signal)
        }
    }
}
