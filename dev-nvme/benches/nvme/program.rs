// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The program over an image of its own, and a client that keeps it busy.
//!
//! The client is a host of the simplest kind: one thread, memory that the program has mapped, one queue, doorbells kept
//! in memory, one for all the commands that it has at a time, and an interrupt when there was nothing to take for a
//! moment.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::host::client::Client;
use super::host::{Driver, PAGE, Queue, Ram, read, status, write};
use super::pattern::{DATA_LEN, IMAGE_LEN, Pattern};
use super::{Measured, cpu_seconds, goes_on};

/// Queues and lists, beside the data.
const REST_LEN: u64 = 2 << 20;

/// Completions that are taken before the controller is told: it need not know of each.
const UNTOLD_MAX: usize = 16;

/// How long the client looks for completions before it waits for an interrupt: what being woken costs.
const PATIENCE: Duration = Duration::from_micros(20);

pub struct Program {
    directory: PathBuf,
    child: Child,
}

impl Program {
    /// Starts it, and waits until it serves.
    pub fn start() -> Program {
        let directory = std::env::temp_dir().join(format!("bulkhead-nvme-bench-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        std::fs::File::create(directory.join("disk.img")).unwrap().set_len(IMAGE_LEN).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_bulkhead-nvme"));
        command.arg("--image").arg(directory.join("disk.img"));
        command.arg("--socket-path").arg(directory.join("socket")).stderr(Stdio::null());
        let program = Program { child: command.spawn().unwrap(), directory };
        let since = Instant::now();
        while UnixStream::connect(program.directory.join("socket")).is_err() {
            assert!(since.elapsed() < Duration::from_secs(20), "the program never listens");
            thread::sleep(Duration::from_millis(5));
        }
        program
    }

    pub fn image(&self) -> PathBuf {
        self.directory.join("disk.img")
    }

    /// The sealed process: the launcher's only child.
    fn sealed(&self) -> u32 {
        let pid = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        children.trim().parse().unwrap()
    }

    pub fn run(&self, pattern: Pattern) -> Measured {
        drive(UnixStream::connect(self.directory.join("socket")).unwrap(), pattern, self.sealed())
    }
}

/// Keeps the controller at the other end busy, whose process is `pid`.
pub fn drive(stream: UnixStream, pattern: Pattern, pid: u32) -> Measured {
    let ram = Ram::new(DATA_LEN + REST_LEN);
    let client = Client::connect(stream);
    client.map(&ram, true);
    let eventfds = client.eventfds(2);
    let driver = Driver::start(client, ram);
    let mut host = Host::new(&driver, pattern);
    let before = cpu_seconds(pid);
    let since = Instant::now();
    host.submit((0..pattern.depth as usize).collect());
    let mut done = 0u64;
    let mut last = since;
    while goes_on(pattern, since, done) {
        let free = host.take();
        done += free.len() as u64;
        if !free.is_empty() {
            host.submit(free);
            last = Instant::now();
        } else if last.elapsed() > PATIENCE {
            wait(&eventfds[1]);
        } else {
            std::hint::spin_loop();
        }
    }
    let measured = Measured::new(since.elapsed(), done, cpu_seconds(pid) - before);
    driver.disable();
    driver.wire.connection.close();
    measured
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        drop(std::fs::remove_dir_all(&self.directory));
    }
}

/// What the client knows of its commands.
struct Host<'a> {
    driver: &'a Driver<Client>,
    pattern: Pattern,
    queue: Queue,
    slots: Vec<Slot>,
    /// Which slot a command has, by its identifier.
    owner: Vec<usize>,
    number: u64,
    untold: usize,
}

/// Memory of one command.
struct Slot {
    prp1: u64,
    prp2: u64,
}

impl<'a> Host<'a> {
    fn new(driver: &'a Driver<Client>, pattern: Pattern) -> Self {
        driver.keep_doorbells(&[]).unwrap();
        let queue = driver.create(1, 64);
        let slots = (0..pattern.depth).map(|_| Slot::new(driver, pattern.len)).collect();
        Self { driver, pattern, queue, slots, owner: vec![0; 1 << 16], number: 0, untold: 0 }
    }

    /// Submits a command for each of these slots.
    fn submit(&mut self, free: Vec<usize>) {
        for index in free {
            let Slot { prp1, prp2 } = self.slots[index];
            let (slba, count) = (self.pattern.offset(self.number) / 512, (self.pattern.len / 512) as u32);
            self.number += 1;
            let command = if self.pattern.write {
                write(slba, count, prp1, prp2)
            } else {
                read(slba, count, prp1, prp2)
            };
            let cid = self.driver.enqueue(&mut self.queue, command);
            self.owner[usize::from(cid)] = index;
        }
        self.driver.ring(&self.queue);
    }

    /// The slots of the commands that are complete.
    fn take(&mut self) -> Vec<usize> {
        let mut free = Vec::new();
        while let Some(completion) = self.driver.poll(&mut self.queue, false) {
            assert_eq!(status(&completion), 0);
            free.push(self.owner[usize::from(completion.cid.get())]);
        }
        self.untold += free.len();
        if self.untold > UNTOLD_MAX {
            self.driver.tell_head(&self.queue);
            self.untold = 0;
        }
        free
    }
}

impl Slot {
    fn new(driver: &Driver<Client>, len: u64) -> Slot {
        let pages = len / PAGE;
        let prp1 = driver.pages(pages);
        let prp2 = if pages > 2 { driver.pages(1) } else { prp1 + PAGE };
        for page in 1..pages {
            driver.ram.put(prp2 + (page - 1) * 8, &(prp1 + page * PAGE).to_le_bytes());
        }
        Slot { prp1, prp2 }
    }
}

/// Waits for an interrupt, and takes it back.
fn wait(eventfd: &OwnedFd) {
    let mut polled = [rustix::event::PollFd::new(eventfd, rustix::event::PollFlags::IN)];
    let deadline = rustix::event::Timespec { tv_sec: 1, tv_nsec: 0 };
    rustix::event::poll(&mut polled, Some(&deadline)).unwrap();
    let mut count = [0; 8];
    // One that came while nobody waited is an interrupt too many: the next look finds nothing, and waits again.
    let _ = rustix::io::read(eventfd, &mut count);
}
