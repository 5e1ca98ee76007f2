// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The other process: this program again, with a ring or a control socket as its standard input.

use core::error::Error;
use core::time::Duration;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};

use ipc::channel::{self, Channel, Incoming};
use ipc::deadline::Deadline;
use ipc::hello::{Hello, Role};
use ipc::protocol::control::{Reply, Request};
use ipc::shm::region::Region;
use ipc::shm::ring::{self, Interrupt, Requester, Responder};
use rustix::thread::CpuSet;

/// The argument that makes the program a peer; behind it what it is, its CPU, its spin in microseconds.
pub(crate) const ROLE: &str = "--peer";

const NO_FDS: [OwnedFd; 0] = [];

/// A write here ends the device.
const STOP: u64 = 8;

fn late() -> Deadline {
    Deadline::after(Duration::from_secs(60))
}

/// Two CPUs that this process may use, the furthest apart in number: siblings of one core are neighbours.
pub(crate) fn two_cpus() -> Result<Option<[usize; 2]>, Box<dyn Error>> {
    let allowed = rustix::thread::sched_getaffinity(None)?;
    let mut cpus = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu));
    Ok(cpus.next().and_then(|first| Some([first, cpus.next_back()?])))
}

/// Keeps the calling thread on one CPU.
pub(crate) fn pin(cpu: usize) -> Result<(), Box<dyn Error>> {
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}

fn spawn(what: &str, cpu: usize, spin: Duration, end: OwnedFd) -> Result<Child, Box<dyn Error>> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args([ROLE, what, &cpu.to_string(), &spin.as_micros().to_string()]);
    Ok(command.stdin(Stdio::from(end)).spawn()?)
}

/// The program as a peer.
pub(crate) fn be(arguments: &[String]) -> Result<(), Box<dyn Error>> {
    let [what, cpu, spin] = arguments else { return Err("a peer has three arguments".into()) };
    pin(cpu.parse()?)?;
    let spin = Duration::from_micros(spin.parse()?);
    let end = std::io::stdin().as_fd().try_clone_to_owned()?;
    match what.as_str() {
        "device" => be_device(end, spin),
        "service" => be_service(end),
        other => Err(format!("no peer is called {other}").into()),
    }
}

fn be_device(end: OwnedFd, spin: Duration) -> Result<(), Box<dyn Error>> {
    let mut responder = Responder::attach(&Region::from_fd(end, ring::RING_LEN)?, 1, spin)?;
    let interrupt = Interrupt::new();
    let deadline = late();
    loop {
        let token = responder.next(&interrupt, deadline)?;
        let offset = token.access().offset;
        token.complete(offset);
        if offset == STOP {
            return Ok(());
        }
    }
}

fn be_service(end: OwnedFd) -> Result<(), Box<dyn Error>> {
    let channel: Channel = Channel::from_fd(end, Hello::new(Role::Vcpu, 1));
    channel.hello(Role::Coordinator, late())?;
    loop {
        if let Incoming::Request { request_id, body, .. } = channel.recv(late())? {
            channel.reply(request_id, &Reply::Done, &NO_FDS, late())?;
            if body == Request::Quit {
                return Ok(());
            }
        }
    }
}

/// A device process behind a ring.
pub(crate) struct Device {
    requester: Requester,
    interrupt: Interrupt,
    /// Of the whole measurement: a caller that reads the clock for every access pays for that, not for the ring.
    deadline: Deadline,
    child: Child,
}

impl Device {
    pub(crate) fn start(cpu: usize, spin: Duration) -> Result<Self, Box<dyn Error>> {
        let ring = ring::create("bench")?;
        let requester = Requester::attach(&ring, spin)?;
        let child = spawn("device", cpu, spin, ring.as_fd().try_clone_to_owned()?)?;
        let device = Self { requester, interrupt: Interrupt::new(), deadline: late(), child };
        // Answered once the process is up.
        device.requester.read(0, 0, 4, &device.interrupt, late())?;
        Ok(device)
    }

    pub(crate) fn trip(&self) {
        let read = self.requester.read(0, 0, 4, &self.interrupt, self.deadline);
        assert!(read.is_ok(), "the device answers: {read:?}");
    }

    pub(crate) fn stop(mut self) -> Result<(), Box<dyn Error>> {
        self.requester.write(0, STOP, 4, 0, &self.interrupt, late())?;
        self.child.wait()?;
        Ok(())
    }
}

/// A process behind a control channel.
pub(crate) struct Service {
    channel: Channel,
    child: Child,
}

impl Service {
    pub(crate) fn start(cpu: usize) -> Result<Self, Box<dyn Error>> {
        let (ours, theirs) = channel::pair()?;
        let child = spawn("service", cpu, Duration::ZERO, theirs)?;
        let channel = Channel::from_fd(ours, Hello::new(Role::Coordinator, 1));
        channel.hello(Role::Vcpu, late())?;
        Ok(Self { channel, child })
    }

    pub(crate) fn trip(&self) {
        let answer = self.channel.request(&Request::Go, &NO_FDS, late());
        assert!(answer.is_ok(), "the service answers: {answer:?}");
    }

    pub(crate) fn stop(mut self) -> Result<(), Box<dyn Error>> {
        self.channel.request(&Request::Quit, &NO_FDS, late())?;
        self.child.wait()?;
        Ok(())
    }
}
