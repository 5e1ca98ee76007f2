// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Nothing stays behind: no process, no zombie, no mount, whoever dies first and however.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::Case;
use crate::process::{LAUNCHER_NAME, Process, Role};

pub const CASES: &[Case] = &[
    ("ended_process_leaves_nothing", ended),
    ("failed_spawn_leaves_nothing", failed),
    ("coordinator_death_ends_its_children", coordinator_dies),
    ("launcher_death_ends_the_coordinator", launcher_dies),
];

fn children() -> BTreeSet<String> {
    let mut pids = BTreeSet::new();
    for task in fs::read_dir("/proc/self/task").unwrap() {
        let path = task.unwrap().path().join("children");
        pids.extend(fs::read_to_string(path).unwrap_or_default().split_whitespace().map(str::to_owned));
    }
    pids
}

fn mounts() -> String {
    fs::read_to_string("/proc/self/mountinfo").unwrap()
}

fn ended() {
    let before = (children(), mounts());
    let mut process = Process::start(Role::Vcpu);
    process.tell("exit 0");
    assert_eq!(process.end().exit, sandbox::spawn::Exit::Code(0));
    assert_eq!((children(), mounts()), before);
}

fn failed() {
    let before = (children(), mounts());
    super::refusal::exec_failure();
    assert_eq!((children(), mounts()), before);
}

fn gone_soon(pid: i32) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while fs::exists(format!("/proc/{pid}")).unwrap() {
        assert!(Instant::now() < deadline, "process {pid} is still there");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The child is deaf to its channels: only the end of the coordinator's pid namespace can end it.
fn coordinator_dies() {
    let mut process = Process::start(Role::Smmu);
    process.send("child stuck");
    let (coordinator, child) = (process.coordinator_pid(), process.pid());
    assert_ne!(coordinator, child);
    assert!(fs::exists(format!("/proc/{child}")).unwrap());
    process.kill();
    drop(process);
    gone_soon(child);
    gone_soon(coordinator);
}

/// A process that starts a coordinator and is then killed: the coordinator and its child must follow.
fn launcher_dies() {
    let mut launcher =
        Command::new("/proc/self/exe").arg0(LAUNCHER_NAME).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(launcher.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let pids: Vec<i32> = line.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
    assert_eq!(pids.len(), 2, "{line}");
    assert!(pids.iter().all(|pid| fs::exists(format!("/proc/{pid}")).unwrap()));
    launcher.kill().unwrap();
    launcher.wait().unwrap();
    pids.into_iter().for_each(gone_soon);
}

/// The launcher's side of the case above.
pub fn launcher() -> ! {
    let mut process = Process::start(Role::Smmu);
    // The coordinator waits for its child, which is deaf: neither sees that the launcher is gone.
    process.send("child stuck");
    println!("{} {}", process.coordinator_pid(), process.pid());
    loop {
        std::thread::sleep(Duration::from_secs(60));
    }
}
