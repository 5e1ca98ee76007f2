// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What happens in the middle of a command: processes that die or do not stop while others are waited for. Nothing that
//! a command waits for keeps the coordinator from seeing the rest, and what users are told of the VM stays true.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test stops at the first surprise, in its helpers too"
)]

mod support;

use std::fs;
use std::os::unix::net::UnixListener;
use std::process::Output;
use std::thread;
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use serde_json::Value;
use support::{Lab, PATIENCE, Vm, guest, signal};

/// Requests a pause that waits for the vSMMU's process, which is stopped; does `meanwhile` once the CPUs stand still.
fn while_it_pauses(vm: &mut Vm<'_>, meanwhile: impl FnOnce(&mut Vm<'_>)) -> Output {
    let lab = vm.lab;
    signal(vm.pid("smmu0"), "STOP");
    thread::scope(|scope| {
        let paused = scope.spawn(|| lab.bulkhead(&["pause"]));
        let begun = Instant::now();
        loop {
            let all = lab.json(&["inspect", "--json"]);
            let row = all.as_array().unwrap().iter().find(|row| row["process"] == "vcpu");
            if row.is_some_and(|row| row["values"]["state"] == "paused") {
                break;
            }
            assert!(begun.elapsed() < PATIENCE, "the pause does not begin: {all:#}");
        }
        meanwhile(vm);
        paused.join().unwrap()
    })
}

fn stop(vm: Vm<'_>) {
    let stopped = vm.lab.bulkhead(&["stop"]);
    assert!(stopped.status.success(), "{stopped:?}");
    let (status, _, log) = vm.end();
    assert_eq!(status.code(), Some(0), "{log}");
}

#[test]
fn device_process_that_dies_during_a_pause_is_told_before_the_pause_is_through() {
    let Some(lab) = Lab::new() else { return };
    let kernel = lab.file("Image", &guest::counts_for_ever());
    let image = lab.file("disk.img", &[0; 1 << 20]);
    let words = ["--nvme", image.to_str().unwrap(), "--device-restart", "never"];
    let mut vm = lab.start(&kernel, &words);
    vm.await_running();
    let paused = while_it_pauses(&mut vm, |vm| {
        signal(vm.pid("vfio0"), "KILL");
        let told = vm.await_log("the guest goes on without it");
        assert!(told.contains("vfio0 is lost") && told.contains("killed by signal 9"), "{told}");
        let status = vm.lab.json(&["status", "--json"]);
        // The one that the pause waits for has not even been let go on.
        assert_eq!(status["phase"], "running", "{status}");
        assert!(status["lost_devices"]["vfio0"].is_string(), "{status}");
        signal(vm.pid("smmu0"), "CONT");
    });
    assert!(paused.status.success(), "the pause goes on without the device: {paused:?}");
    assert_eq!(lab.json(&["status", "--json"])["phase"], "paused");
    vm.drain();
    assert!(lab.bulkhead(&["resume"]).status.success());
    vm.output_of(10);
    stop(vm);
}

#[test]
fn process_that_takes_the_vm_along_during_a_pause_is_what_the_report_names() {
    let Some(lab) = Lab::new() else { return };
    let kernel = lab.file("Image", &guest::spins());
    let mut vm = lab.start(&kernel, &[]);
    vm.await_running();
    let paused = while_it_pauses(&mut vm, |vm| signal(vm.pid("vcpu"), "KILL"));
    assert_eq!(paused.status.code(), Some(3), "{paused:?}");
    let (status, _, log) = vm.end();
    assert_eq!(status.code(), Some(3), "{log}");
    let report = log.lines().last().unwrap();
    // And not the silence of the other one, which would be noticed later.
    assert!(report.contains("process vcpu") && report.contains("killed by signal 9"), "{report}");
    assert_eq!(lab.left_behind(), Vec::<String>::new());
}

#[test]
fn process_that_dies_while_a_device_is_being_opened_ends_the_vm_without_waiting_for_the_device() {
    let Some(lab) = Lab::new() else { return };
    let socket = lab.path("device.sock");
    // Somebody listens, and never answers.
    let _listener = UnixListener::bind(&socket).unwrap();
    let kernel = lab.file("Image", &guest::spins());
    let vm = lab.start(&kernel, &["--vfio-user", socket.to_str().unwrap()]);
    // While the device is being opened every process answers.
    let begun = Instant::now();
    loop {
        let output = lab.bulkhead(&["inspect", "--json"]);
        let all: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let rows = all.as_array().into_iter().flatten();
        if rows.into_iter().any(|row| row["values"]["state"] == "opening") {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "the device is not opened: {all:#}");
    }
    signal(vm.pid("smmu0"), "KILL");
    let (status, _, log) = vm.end();
    assert_eq!(status.code(), Some(3), "{log}");
    assert!(!log.contains("vfio0 is lost") && !log.contains("guest runs"), "it was waited for: {log}");
    let report = log.lines().last().unwrap();
    assert!(report.contains("process smmu0") && report.contains("killed by signal 9"), "{report}");
}

/// One thread of a process, held by the kernel for whoever traces it: the rest of the process runs.
struct Held(Pid);

impl Held {
    fn new(process: i32, thread: &str) -> Result<Self, Errno> {
        let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap();
        let mut ids = tasks.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let name = |id: &String| fs::read_to_string(format!("/proc/{process}/task/{id}/comm")).unwrap();
        let id = ids.find(|id| name(id).trim() == thread).unwrap();
        let pid = Pid::from_raw(id.parse().unwrap());
        ptrace::seize(pid, ptrace::Options::empty())?;
        ptrace::interrupt(pid)?;
        waitpid(pid, Some(WaitPidFlag::__WALL))?;
        Ok(Self(pid))
    }

    fn let_go(self) {
        ptrace::detach(self.0, None).unwrap();
    }
}

#[test]
fn pause_that_the_cpus_do_not_obey_is_undone_and_the_guest_runs_as_the_phase_says() {
    let Some(lab) = Lab::new() else { return };
    let kernel = lab.file("Image", &guest::counts_for_ever());
    let mut vm = lab.start(&kernel, &[]);
    vm.await_running();
    vm.output_of(10);
    let held = match Held::new(vm.pid("vcpu"), "vcpu0") {
        Ok(held) => held,
        Err(Errno::EPERM) => {
            eprintln!("SKIPPED: this user may not hold a thread of a sealed process (ptrace)");
            return stop(vm);
        }
        Err(errno) => panic!("ptrace: {errno}"),
    };
    let refused = lab.bulkhead(&["pause"]);
    held.let_go();
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("did not stop within"), "{said}");
    assert_eq!(lab.json(&["status", "--json"])["phase"], "running");
    vm.drain();
    vm.output_of(200);
    // Nothing of it is left: the next pause is one.
    assert!(lab.bulkhead(&["pause"]).status.success());
    assert_eq!(lab.json(&["status", "--json"])["phase"], "paused");
    assert!(lab.bulkhead(&["resume"]).status.success());
    vm.output_of(10);
    stop(vm);
}
