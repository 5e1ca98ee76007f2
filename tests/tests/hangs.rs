// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Processes that hang under a stock Linux at work on its disk. One that is stopped (SIGSTOP), or whose ring thread
//! alone is, is noticed within the configured time, killed, and costs what its death costs; stopped together with their
//! coordinator, and let go on after a multiple of that time, none of them is taken for hung.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at the first surprise, in its helpers too"
)]

#[expect(dead_code, reason = "this suite starts machines with devices only")]
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::{COMMAND, launch_at_shell};
use tests::crash::Life;
use tests::disk::{self, work};
use tests::vm::Vm;
use tests::{SEEN, SKIPPED};

const MIB: u64 = 32;
/// As configured: the shortest that there is.
const HANG_DEADLINE: Duration = Duration::from_secs(2);

/// A guest at work on its disk behind the vSMMU, whose every transfer is mapped and invalidated: a CMD_SYNC that it
/// gave up, as it does after a second, would be in its log, and what it reads from its disk would be wrong.
fn machine(name: &str, image: &Path, arguments: &[&str]) -> Option<Vm> {
    let mut vm = launch_at_shell(name, |options| {
        options.nvme = vec![image.into()];
        options.arguments = vec!["--hang-deadline".into(), HANG_DEADLINE.as_secs().to_string()];
        options.arguments.extend(arguments.iter().map(|argument| (*argument).to_owned()));
    })?;
    work::begin(&mut vm.console, COMMAND).unwrap();
    Some(vm)
}

fn status(vm: &Vm) -> Value {
    serde_json::from_str(&vm.control_json("status").unwrap()).unwrap()
}

/// Stops the process called `name`.
fn stop(vm: &Vm, name: &str) {
    let life = Life::of(vm, name).unwrap().unwrap();
    kill_process(life.pid, Signal::STOP).unwrap();
}

/// Waits until `status` tells of a hang in the way that `told` looks for: how long that took, and what it says.
fn await_told(vm: &Vm, told: impl Fn(&Value) -> Option<String>) -> (Duration, String) {
    let begun = Instant::now();
    loop {
        let status = status(vm);
        if let Some(why) = told(&status) {
            return (begun.elapsed(), why);
        }
        assert!(begun.elapsed() < COMMAND, "nobody notices: {status}");
    }
}

/// How this process died last.
fn death_of(process: &str) -> impl Fn(&Value) -> Option<String> {
    move |status| text(&status["deaths"][process]["last"])
}

/// The guest goes on, has noticed nothing, and ends in peace.
fn finish(mut vm: Vm) {
    work::another_round(&mut vm.console, COMMAND).unwrap();
    work::another_round(&mut vm.console, COMMAND).unwrap();
    work::finish_unnoticed(vm, COMMAND).unwrap();
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

#[test]
fn vsmmu_that_is_stopped_under_disk_io_is_started_anew_and_the_guest_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let image = disk::image(&folder, MIB).unwrap();
    let Some(vm) = machine("hangs", &image, &[]) else { return };
    assert_eq!(status(&vm)["hang_deadline_s"], HANG_DEADLINE.as_secs());
    stop(&vm, "smmu0");
    let (after, why) = await_told(&vm, death_of("smmu0"));
    assert!(why.contains("it hangs: it is stopped or busy") && why.contains("had to be killed"), "{why}");
    finish(vm);
    println!("{SEEN}smmu0 stopped under disk I/O, told as hung after {after:?}, and the guest went on");
}

#[test]
fn vsmmu_whose_ring_thread_alone_is_stuck_is_started_anew_and_the_guest_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let image = disk::image(&folder, MIB).unwrap();
    let Some(vm) = machine("hangs-ring", &image, &[]) else { return };
    let process = Life::of(&vm, "smmu0").unwrap().unwrap().pid;
    let thread = thread_of(process, "ring");
    // A signal would stop all of its threads.
    if let Err(errno) = ptrace::seize(thread, ptrace::Options::empty()) {
        println!("{SKIPPED}a sealed process's thread cannot be traced here, as root can: {errno}");
        return;
    }
    ptrace::interrupt(thread).unwrap();
    waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
    let (after, why) = await_told(&vm, |status| {
        // Killed, it is gone once its tracer has heard of that.
        let _ = waitpid(thread, Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG));
        death_of("smmu0")(status)
    });
    assert!(why.contains("its ring thread has made no progress"), "{why}");
    finish(vm);
    println!(
        "{SEEN}smmu0's ring thread stuck under disk I/O, told as hung after {after:?}, and the guest went on"
    );
}

/// The thread of this name.
fn thread_of(process: Pid, name: &str) -> nix::unistd::Pid {
    let tasks = format!("/proc/{}/task", process.as_raw_nonzero());
    let mut tasks = fs::read_dir(tasks).unwrap().map(|task| task.unwrap().path());
    let is_named = |task: &PathBuf| fs::read_to_string(task.join("comm")).unwrap().trim() == name;
    let task = tasks.find(is_named).unwrap_or_else(|| panic!("it has no thread {name}"));
    nix::unistd::Pid::from_raw(task.file_name().unwrap().to_str().unwrap().parse().unwrap())
}

#[test]
fn processes_of_a_device_that_are_stopped_under_disk_io_are_started_anew_and_the_guest_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let image = disk::image(&folder, MIB).unwrap();
    let Some(mut vm) = machine("hangs-anew", &image, &[]) else { return };
    for process in ["nvme0", "vfio0"] {
        stop(&vm, process);
        let (after, why) = await_told(&vm, death_of(process));
        assert!(why.contains("it hangs") && why.contains("had to be killed"), "{why}");
        work::another_round(&mut vm.console, COMMAND).unwrap();
        println!(
            "{SEEN}{process} stopped under disk I/O, told as hung after {after:?}, and the guest went on"
        );
    }
    finish(vm);
}

#[test]
fn device_that_does_not_come_back_is_lost_when_it_is_stopped_and_the_guest_goes_on_without_it() {
    let folder = tempfile::tempdir().unwrap();
    let image = disk::image(&folder, MIB).unwrap();
    let Some(mut vm) = machine("hangs-device", &image, &["--device-restart", "never"]) else { return };
    stop(&vm, "vfio0");
    let (after, why) = await_told(&vm, |status| text(&status["lost_devices"]["vfio0"]));
    assert!(why.contains("it hangs"), "{why}");
    assert_eq!(vm.console.run("echo $((6*7))", COMMAND).unwrap().output, "42");
    // Its driver would wait for the disk at a power-off.
    vm.control_json("stop").unwrap();
    vm.console.wait_exit(COMMAND).unwrap();
    assert_eq!(vm.left_over(), [""; 0]);
    println!("{SEEN}vfio0 stopped under disk I/O, and told as hung after {after:?}");
}

#[test]
fn processes_that_are_stopped_all_together_go_on_where_they_were() {
    let folder = tempfile::tempdir().unwrap();
    let image = disk::image(&folder, MIB).unwrap();
    let Some(mut vm) = machine("hangs-all", &image, &[]) else { return };
    // The coordinator last: until then it must not have waited for anybody for long.
    let rows = vm.processes().unwrap();
    let (coordinator, others): (Vec<&Value>, Vec<&Value>) =
        rows.iter().partition(|row| row["role"] == "coordinator");
    let pid = |row: &Value| Pid::from_raw(row["host_pid"].as_i64().unwrap().try_into().unwrap()).unwrap();
    let all: Vec<Pid> = others.into_iter().chain(coordinator).map(pid).collect();
    for signal in [Signal::STOP, Signal::CONT] {
        all.iter().for_each(|pid| kill_process(*pid, signal).unwrap());
        if signal == Signal::STOP {
            // Not a wait for something: this is the time in which nothing runs.
            thread::sleep(3 * HANG_DEADLINE);
        }
    }
    work::another_round(&mut vm.console, COMMAND).unwrap();
    // Whoever is taken for hung would be, by now.
    thread::sleep(2 * HANG_DEADLINE);
    let after: Vec<Pid> = vm.processes().unwrap().iter().map(pid).collect();
    assert!(all.iter().all(|pid| after.contains(pid)), "{all:?} were stopped, {after:?} are there");
    assert_eq!(status(&vm)["deaths"], Value::Null);
    work::finish_unnoticed(vm, COMMAND).unwrap();
    println!("{SEEN}{} processes stopped for {:?}: none was taken for hung", all.len(), 3 * HANG_DEADLINE);
}
