// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The program's rates beside those of its image file: the same pattern through both, and the ratio.
//!
//! `cargo bench -p dev-nvme`, or `cargo bench -p dev-nvme -- read` for the patterns so named; `TMPDIR` is where the image goes. The client is a host of the
//! simplest kind: one thread, mapped memory, one queue, one doorbell for all the commands that it has at a time, an
//! interrupt when it has waited for a moment. Beside it the file: at depth 1 one thread that reads and waits, at
//! depth 32 as many threads as the program has workers. The file is in the page cache for both, where what is measured
//! is the way and not the disk; or, "cold", in neither's. Rates depend on who else uses the machine, and on who gets how many threads; so the processor
//! time of an access is printed too, the program's beside the file's (the client's is not in it).
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a bench may stop at the first surprise"
)]

#[path = "../tests/host/mod.rs"]
mod host;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use dev_nvme::service::WORKERS;
use host::client::Client;
use host::{Driver, PAGE, Queue, Ram, read, status, write};

const IMAGE_LEN: u64 = 256 << 20;
const SPAN: Duration = Duration::from_millis(1500);

/// A pattern of accesses.
#[derive(Clone, Copy)]
struct Pattern {
    name: &'static str,
    write: bool,
    len: u64,
    depth: u32,
    random: bool,
    /// The image is put out of the page cache before.
    cold: bool,
}

const PATTERNS: [Pattern; 7] = [
    Pattern {
        name: "4 KiB random read,  depth 1",
        write: false,
        len: 4096,
        depth: 1,
        random: true,
        cold: false,
    },
    Pattern {
        name: "4 KiB random write, depth 1",
        write: true,
        len: 4096,
        depth: 1,
        random: true,
        cold: false,
    },
    Pattern {
        name: "4 KiB random read,  depth 32",
        write: false,
        len: 4096,
        depth: 32,
        random: true,
        cold: false,
    },
    Pattern {
        name: "4 KiB random write, depth 32",
        write: true,
        len: 4096,
        depth: 32,
        random: true,
        cold: false,
    },
    Pattern {
        name: "4 KiB random read,  depth 32, cold",
        write: false,
        len: 4096,
        depth: 32,
        random: true,
        cold: true,
    },
    Pattern {
        name: "1 MiB sequential read,  depth 4",
        write: false,
        len: 1 << 20,
        depth: 4,
        random: false,
        cold: false,
    },
    Pattern {
        name: "1 MiB sequential write, depth 4",
        write: true,
        len: 1 << 20,
        depth: 4,
        random: false,
        cold: false,
    },
];

impl Pattern {
    /// How many accesses: where the image is cold, a part of it once, so that it stays cold.
    fn count(self) -> u64 {
        if self.cold { 16384 } else { u64::MAX }
    }

    /// The offset of access `number`.
    fn offset(self, number: u64) -> u64 {
        let slots = IMAGE_LEN / self.len;
        let slot = if self.random { number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20 } else { number };
        slot % slots * self.len
    }
}

fn main() {
    let wanted = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).unwrap_or_default();
    let directory = std::env::temp_dir().join(format!("bulkhead-nvme-bench-{}", std::process::id()));
    std::fs::create_dir(&directory).unwrap();
    let image = directory.join("disk.img");
    fill(&File::create(&image).unwrap());
    let mut program = start(&directory);
    let sealed = sealed(&program);
    println!(
        "{:<34}{:>14}{:>14}{:>8}{:>14}{:>10}{:>8}",
        "", "program", "file", "ratio", "CPU us: prog.", "file", "ratio"
    );
    for pattern in PATTERNS.into_iter().filter(|pattern| pattern.name.contains(&wanted)) {
        evict_if_cold(pattern, &image);
        let before = cpu_seconds(sealed);
        let ours = through_the_program(&directory, pattern);
        let our_cost = (cpu_seconds(sealed) - before) / ours.done;
        evict_if_cold(pattern, &image);
        let before = cpu_seconds(std::process::id());
        let raw = through_the_file(&image, pattern);
        let raw_cost = (cpu_seconds(std::process::id()) - before) / raw.done;
        let rate = |rate: f64| match pattern.len {
            4096 => format!("{rate:.0} IOPS"),
            len => format!("{:.0} MB/s", rate * len as f64 / 1e6),
        };
        let name = pattern.name;
        print!("{name:<34}{:>14}{:>14}{:>8.2}", rate(ours.rate), rate(raw.rate), ours.rate / raw.rate);
        println!("{:>14.2}{:>10.2}{:>8.2}", our_cost * 1e6, raw_cost * 1e6, raw_cost / our_cost);
    }
    program.kill().unwrap();
    program.wait().unwrap();
    std::fs::remove_dir_all(directory).unwrap();
}

fn fill(file: &File) {
    let block = vec![0x5a; 1 << 20];
    for number in 0..IMAGE_LEN >> 20 {
        file.write_all_at(&block, number << 20).unwrap();
    }
    file.sync_all().unwrap();
}

fn start(directory: &Path) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bulkhead-nvme"));
    command.arg("--image").arg(directory.join("disk.img"));
    command.arg("--socket-path").arg(directory.join("socket")).stderr(std::process::Stdio::null());
    let child = command.spawn().unwrap();
    let since = Instant::now();
    while UnixStream::connect(directory.join("socket")).is_err() {
        assert!(since.elapsed() < Duration::from_secs(20), "the program never listens");
        thread::sleep(Duration::from_millis(5));
    }
    child
}

fn evict_if_cold(pattern: Pattern, image: &Path) {
    if pattern.cold {
        let file = File::open(image).unwrap();
        file.sync_all().unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    }
}

/// What was done in a while.
struct Measured {
    done: f64,
    rate: f64,
}

impl Measured {
    fn since(since: Instant, done: u64) -> Measured {
        Measured { done: done as f64, rate: done as f64 / since.elapsed().as_secs_f64() }
    }
}

/// The sealed process: the launcher's only child.
fn sealed(program: &Child) -> u32 {
    let pid = program.id();
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    children.trim().parse().unwrap()
}

/// The processor time that a process has used, all of its threads, living and ended.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    // utime and stime, in hundredths: the kernel's USER_HZ.
    let ticks = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    ticks / 100.0
}

fn through_the_program(directory: &Path, pattern: Pattern) -> Measured {
    let ram = Ram::new(16 << 20);
    let client = Client::connect(UnixStream::connect(directory.join("socket")).unwrap());
    client.map(&ram, true);
    let eventfds = client.eventfds(2);
    let driver = Driver::start(client, ram);
    let mut queue = driver.create(1, 64);
    let slots: Vec<Slot> = (0..pattern.depth).map(|_| Slot::new(&driver, pattern.len)).collect();
    let mut owner = vec![0; 1 << 16];
    let mut number = 0;
    let mut submit = |queue: &mut Queue, slot: usize, owner: &mut Vec<usize>| {
        let Slot { prp1, prp2 } = slots[slot];
        let (slba, count) = (pattern.offset(number) / 512, (pattern.len / 512) as u32);
        number += 1;
        let command =
            if pattern.write { write(slba, count, prp1, prp2) } else { read(slba, count, prp1, prp2) };
        let cid = driver.enqueue(queue, command);
        owner[usize::from(cid)] = slot;
    };
    for slot in 0..slots.len() {
        submit(&mut queue, slot, &mut owner);
    }
    driver.ring(&queue);
    let (since, mut done) = (Instant::now(), 0u64);
    let mut untold = 0;
    let mut patience = PATIENCE;
    while since.elapsed() < SPAN && done < pattern.count() {
        let mut free = Vec::new();
        while let Some(completion) = driver.poll(&mut queue, false) {
            assert_eq!(status(&completion), 0);
            free.push(owner[usize::from(completion.cid.get())]);
        }
        if free.is_empty() {
            patience -= 1;
            if patience == 0 {
                wait(&eventfds[1]);
                patience = PATIENCE;
            }
            std::hint::spin_loop();
            continue;
        }
        patience = PATIENCE;
        done += free.len() as u64;
        untold += free.len();
        for slot in free {
            submit(&mut queue, slot, &mut owner);
        }
        driver.ring(&queue);
        // Completions need not be acknowledged one by one.
        if untold > 16 {
            driver.tell_head(&queue);
            untold = 0;
        }
    }
    let measured = Measured::since(since, done);
    driver.disable();
    driver.wire.connection.close();
    measured
}

/// How often the client looks before it waits for an interrupt.
const PATIENCE: u32 = 1;

/// Waits for an interrupt, and takes it back.
fn wait(eventfd: &OwnedFd) {
    let mut polled = [rustix::event::PollFd::new(eventfd, rustix::event::PollFlags::IN)];
    let deadline = rustix::event::Timespec { tv_sec: 1, tv_nsec: 0 };
    rustix::event::poll(&mut polled, Some(&deadline)).unwrap();
    let mut count = [0; 8];
    // One that came while nobody waited is an interrupt too many: the next look finds nothing, and waits again.
    let _ = rustix::io::read(eventfd, &mut count);
}

/// Memory of one command.
struct Slot {
    prp1: u64,
    prp2: u64,
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

/// By as many threads as the depth needs and the program has.
fn through_the_file(image: &Path, pattern: Pattern) -> Measured {
    let threads = (pattern.depth as usize).min(WORKERS);
    let since = Instant::now();
    let workers: Vec<_> = (0..threads as u64)
        .map(|worker| {
            let file = File::options().read(true).write(true).open(image).unwrap();
            thread::spawn(move || {
                let mut buffer = vec![0x33; pattern.len as usize];
                let mut done = 0u64;
                let count = pattern.count() / threads as u64;
                while since.elapsed() < SPAN && done < count {
                    let offset = pattern.offset(done * threads as u64 + worker);
                    if pattern.write {
                        file.write_all_at(&buffer, offset).unwrap();
                    } else {
                        file.read_exact_at(&mut buffer, offset).unwrap();
                    }
                    done += 1;
                }
                done
            })
        })
        .collect();
    let done: u64 = workers.into_iter().map(|worker| worker.join().unwrap()).sum();
    Measured::since(since, done)
}
