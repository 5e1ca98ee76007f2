// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The process that is sealed: takes its descriptors, seals itself, obeys commands.
//!
//! What it does after `sealed` is what the product's processes do: threads, allocation, waiting, an async runtime,
//! and, as the coordinator, a child of its own. Anything a profile lacks ends it, which the tests see.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Barrier, Condvar, Mutex, mpsc};
use std::time::{Duration, Instant};

use sandbox::spawn::Exit;
use sandbox::{CrashPage, Inherited, Names};

use crate::process::{Process, profile_named};

/// What a coordinator has to start its child with: the program and the child's crash page.
struct ForChild {
    program: OwnedFd,
    page: CrashPage,
}

/// Seals and serves; the role is the first argument, a fault to commit the second, then come the names of its
/// descriptors.
pub fn main() {
    let args: Vec<String> = std::env::args().collect();
    let (role, fault) = (args[1].as_str(), args[2].as_str());
    assert!(std::env::vars_os().next().is_none(), "the environment is not empty");
    let profile = profile_named(role);
    let mut fds = Inherited::take_all(args[3..].iter().cloned()).unwrap();
    let mut names = fds.names().clone();
    let (control, page) = (fds.take("control").unwrap(), fds.take("crash-page").unwrap());
    let for_child = (role == "coordinator").then(|| ForChild {
        program: fds.take("program").unwrap(),
        page: CrashPage::from_fd(fds.take("crash-page:child").unwrap()).unwrap(),
    });
    let page = CrashPage::from_fd(page).unwrap();
    let mut programs: Vec<BorrowedFd<'_>> = for_child.iter().map(|given| given.program.as_fd()).collect();
    let mut sealing = profile.clone();
    match fault {
        "" => {}
        "extra-thread" => drop(std::thread::spawn(|| std::thread::sleep(Duration::from_secs(60)))),
        "extra-descriptor" => std::mem::forget(control.try_clone().unwrap()),
        "count-too-high" => names = Names::new(names.iter().chain(["more"]).map(str::to_owned)).unwrap(),
        "rule-without-descriptor" => {
            let all = sandbox::profiles::all(sandbox::Arch::host());
            sealing = all.into_iter().find(|profile| profile.name == "vfio-kernel").unwrap();
            programs.clear();
        }
        "inherited-twice" => {
            panic!("{}", Inherited::take_all(names.iter().map(str::to_owned)).unwrap_err())
        }
        "programs" => {
            sealing = profile_named("smmu");
            programs.truncate(1);
        }
        // A profile that lacks a call which starting a child needs: before exec, or after.
        lacking => sealing.rules.retain(|rule| rule.syscall != lacking),
    }
    let locked = match sandbox::seal_to_spawn(&sealing, &names, page, &programs) {
        Ok(locked) => locked,
        Err(error) => panic!("{error}"),
    };
    eprintln!("{}", locked.enforced());
    // As a file: what the socket type calls is not in every profile.
    let mut control = BufReader::new(File::from(control));
    writeln!(control.get_mut(), "sealed").unwrap();
    let mut child: Option<Process> = None;
    let mut command = String::new();
    while control.read_line(&mut command).unwrap() > 0 {
        let answer = obey(command.trim_end(), for_child.as_ref(), &mut child);
        command.clear();
        writeln!(control.get_mut(), "{answer}").unwrap();
    }
}

fn obey(command: &str, given: Option<&ForChild>, child: &mut Option<Process>) -> String {
    let (verb, rest) = command.split_once(' ').unwrap_or((command, ""));
    match verb {
        "threads" => threads(),
        "memory" => memory(),
        "waiting" => waiting(),
        "too-much-memory" => too_much_memory(),
        "descriptors" => descriptors(),
        "runtime" => runtime(),
        "caught-panic" => {
            let caught = std::thread::spawn(|| panic!("caught {}", "one")).join();
            assert!(caught.is_err());
            "done".to_owned()
        }
        "panic" => panic!("told to \u{1b}[31mpanic\nin two lines"),
        "abort" => std::process::abort(),
        "overflow" => format!("{}", overflow(1)),
        "overflow-in-thread" => std::thread::spawn(|| format!("{}", overflow(1))).join().unwrap(),
        "exit" => std::process::exit(rest.parse().unwrap()),
        // Nothing but a signal ends it: not the end of its control channel either.
        "stuck" => loop {
            std::thread::sleep(Duration::from_secs(60));
        },
        "probe" => {
            let attempt = sandbox::probe::Attempt::by_name(rest).unwrap();
            match sandbox::probe::attempt(attempt) {
                sandbox::probe::Outcome::Refused(errno) => format!("refused {errno}"),
                sandbox::probe::Outcome::Succeeded => "succeeded".to_owned(),
            }
        }
        "probe-in-thread" => {
            let attempt = sandbox::probe::Attempt::by_name(rest).unwrap();
            format!("{:?}", std::thread::spawn(move || sandbox::probe::attempt(attempt)).join().unwrap())
        }
        "spawn" => {
            let given = given.unwrap();
            let page = given.page.try_clone().unwrap();
            let mut started = Process::start_with(rest, "", given.program.as_fd(), &[], page);
            let greeting = started.line();
            if greeting != "sealed" {
                return format!("not sealed: {}", started.end().exit);
            }
            let pid = started.pid();
            *child = Some(started);
            // The first is always process 2: the coordinator is 1.
            format!("sealed {pid}")
        }
        "child" => child.as_mut().unwrap().ask(rest),
        "child-kill" => {
            child.as_ref().unwrap().kill();
            "done".to_owned()
        }
        "child-end" => {
            let end = child.take().unwrap().end();
            eprintln!("{}", end.log);
            match end.exit {
                Exit::Code(code) => format!("code {code}"),
                Exit::Signal(signal) => format!("signal {signal}"),
            }
        }
        _ => format!("unknown command {verb}"),
    }
}

/// Start, name, park, lock, wait with and without a deadline, allocate in parallel, end.
fn threads() -> String {
    let barrier = Arc::new(Barrier::new(9));
    let flag = Arc::new((Mutex::new(false), Condvar::new()));
    let (sender, receiver) = mpsc::channel();
    let workers: Vec<_> = (0..8usize)
        .map(|number| {
            let (barrier, flag, sender) = (barrier.clone(), flag.clone(), sender.clone());
            let worker = move || {
                barrier.wait();
                let mut ready = flag.0.lock().unwrap();
                while !*ready {
                    ready = flag.1.wait(ready).unwrap();
                }
                drop(ready);
                let blocks: Vec<Vec<u8>> = (0..200).map(|len| vec![1; len * 97 + number]).collect();
                std::thread::park_timeout(Duration::from_millis(1));
                sender.send(blocks.iter().map(Vec::len).sum::<usize>()).unwrap();
            };
            std::thread::Builder::new().name(format!("worker-{number}")).spawn(worker).unwrap()
        })
        .collect();
    barrier.wait();
    *flag.0.lock().unwrap() = true;
    flag.1.notify_all();
    for worker in workers {
        worker.join().unwrap();
    }
    let started = Instant::now();
    assert!(receiver.recv_timeout(Duration::from_secs(1)).is_ok());
    let _now = std::time::SystemTime::now();
    format!("done {}", started.elapsed().as_secs())
}

/// Small and large blocks, growth in place, giving memory back.
fn memory() -> String {
    let mut large = vec![0u8; 2 << 20];
    large.resize(16 << 20, 7);
    large.truncate(1 << 20);
    large.shrink_to_fit();
    let map: std::collections::HashMap<u32, String> = (0..10_000).map(|key| (key, key.to_string())).collect();
    format!("done {}", usize::from(large.len() == 1 << 20 && map.len() == 10_000))
}

/// Takes memory in blocks until there is no more: an allocation that fails is an error to its caller, and all of it
/// comes back.
fn too_much_memory() -> String {
    const BLOCK_LEN: usize = 16 << 20;
    let limit = 1 << 30;
    let mut blocks: Vec<Vec<u8>> = Vec::with_capacity(limit / BLOCK_LEN);
    while blocks.len() < blocks.capacity() {
        let mut block = Vec::new();
        if block.try_reserve_exact(BLOCK_LEN).is_err() {
            break;
        }
        blocks.push(block);
    }
    let (some, not_all) = (blocks.len() > 1, blocks.len() < blocks.capacity());
    drop(blocks);
    format!("done {}", usize::from(some && not_all && memory() == "done 1"))
}

/// An eventfd written by a thread and waited for by poll.
fn waiting() -> String {
    let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
    let writer = event.try_clone().unwrap();
    let thread = std::thread::spawn(move || rustix::io::write(&writer, &3u64.to_ne_bytes()).unwrap());
    let mut polled = [rustix::event::PollFd::new(&event, rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut polled, None).unwrap();
    let mut count = [0u8; 8];
    rustix::io::read(&event, &mut count).unwrap();
    thread.join().unwrap();
    format!("done {}", u64::from_ne_bytes(count))
}

/// Looking at and duplicating what it has.
fn descriptors() -> String {
    let file = std::io::stdout().as_fd().try_clone_to_owned().unwrap();
    assert_eq!(rustix::fs::fstat(&file).unwrap().st_size, 4096);
    let seals = rustix::fs::fcntl_get_seals(&file).unwrap();
    format!("done {}", usize::from(seals.contains(rustix::fs::SealFlags::SHRINK)))
}

/// The coordinator's runtime, made after sealing: timer, socket pair, blocking pool.
fn runtime() -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (mut here, mut there) = tokio::net::UnixStream::pair().unwrap();
        here.write_all(b"ping").await.unwrap();
        let mut answer = [0u8; 4];
        there.read_exact(&mut answer).await.unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
        let sum = tokio::task::spawn_blocking(|| 2 + 2).await.unwrap();
        format!("done {sum}")
    })
}

/// Deeper than any stack.
#[expect(unconditional_recursion, reason = "the guard page is to be hit")]
fn overflow(depth: u64) -> u64 {
    let block = std::hint::black_box([depth; 64]);
    overflow(depth + 1) + block[0]
}
