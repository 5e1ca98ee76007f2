// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One process of a running VM is started anew, as `bulkhead restart` does it, also into another program, while a stock
//! Linux works on its disk through the vSMMU: every block that it reads is the one that it wrote, and its drivers
//! notice nothing.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at the first surprise, in its helpers too"
)]

#[expect(dead_code, reason = "this suite starts machines with devices only")]
mod support;

use std::fs::{OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{COMMAND, launch_at_shell};
use tests::crash::{Life, kill_and_await};
use tests::disk::{self, work};
use tests::vm::Vm;
use tests::{SEEN, SKIPPED, Spread, asked};

/// How often the process is restarted, unless `BULKHEAD_RESTARTS` says how often.
const RESTARTS: u32 = 20;
const MIB: u64 = 32;

/// A guest with a disk behind the vSMMU, at a shell.
fn machine(name: &str, image: &Path) -> Option<Vm> {
    launch_at_shell(name, |options| options.nvme = vec![image.into()])
}

#[test]
fn vsmmu_that_is_restarted_under_disk_io_loses_and_doubles_nothing() {
    restarted_with_disk("smmu0", &["smmu0"]);
}

#[test]
fn nvme_controller_that_is_restarted_under_disk_io_loses_and_doubles_nothing() {
    restarted_with_disk("nvme0", &["vfio0", "nvme0"]);
}

#[test]
fn device_process_that_is_restarted_under_disk_io_loses_and_doubles_nothing() {
    restarted_with_disk("vfio0", &["vfio0", "nvme0"]);
}

#[test]
fn device_process_whose_server_stays_is_restarted_without_it_and_keeps_its_connection() {
    let folder = tempfile::tempdir().unwrap();
    let image = disk::image(&folder, MIB).unwrap();
    let Some(programs) = support::programs() else { return };
    let socket = folder.path().join("nvme.sock");
    let mut command = Command::new(programs.join("bulkhead-nvme"));
    command.arg("--image").arg(&image).arg("--socket-path").arg(&socket);
    let mut server = Server(command.spawn().unwrap());
    let until = Instant::now() + COMMAND;
    while !socket.exists() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
    let Some(vm) = launch_at_shell("stays", |options| options.vfio_user = vec![socket]) else { return };
    restarted_under_io(vm, "vfio0", &["vfio0"]);
    assert_eq!(server.0.try_wait().unwrap(), None, "it serves the next client");
}

/// A process that is ended with its test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Restarts a process of a machine with a disk of its own.
fn restarted_with_disk(process: &str, together: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let image = disk::image(&folder, MIB).unwrap();
    let Some(vm) = machine(&format!("restarts-{process}"), &image) else { return };
    restarted_under_io(vm, process, together);
}

/// Restarts a process, with what is started anew together with it.
fn restarted_under_io(mut vm: Vm, process: &str, together: &[&str]) {
    work::begin(&mut vm.console, COMMAND).unwrap();
    let turns = asked("BULKHEAD_RESTARTS").unwrap().unwrap_or(RESTARTS);
    let before = processes(&vm);
    let mut downtimes = Vec::new();
    for turn in 1..=turns {
        // In the middle of a round: there are commands in flight.
        let answer = vm.control("restart", &["--json", process]).unwrap();
        assert!(answer.status.success(), "{answer:?}");
        let answer: Value = serde_json::from_slice(&answer.stdout).unwrap();
        assert_eq!(answer["process"], process);
        assert_eq!(answer["generation"], turn + 1, "{answer}");
        let mut saved: Vec<_> = answer["units"]
            .as_array()
            .unwrap()
            .iter()
            .map(|unit| unit["process"].as_str().unwrap())
            .collect();
        saved.sort_by_key(|name| together.iter().position(|member| member == name));
        assert_eq!(saved, together);
        downtimes.push(Duration::from_micros(answer["downtime_us"].as_u64().unwrap()));
        work::another_round(&mut vm.console, COMMAND).unwrap();
    }
    let after = processes(&vm);
    for (old, new) in before.iter().zip(&after) {
        if together.contains(&new.name.as_str()) {
            assert!(new.pid != old.pid && new.generation == u64::from(turns) + 1, "{after:?}");
            assert_eq!((&new.name, &new.descriptors), (&old.name, &old.descriptors));
        } else {
            assert_stays(old, new);
        }
    }
    assert_eq!(before.len(), after.len());
    // The last life can be saved and restored with all others.
    vm.control_json("save-restore").unwrap();
    work::another_round(&mut vm.console, COMMAND).unwrap();
    let rounds = work::finish_unnoticed(vm, COMMAND).unwrap();
    let spread = Spread::of(downtimes);
    println!("{SEEN}{turns} restarts of {process} in {rounds} rounds of disk I/O: paused for: {spread}");
}

#[test]
fn vsmmu_is_upgraded_in_place_under_disk_io() {
    upgraded_with_disk("smmu0", "bulkhead-smmu");
}

#[test]
fn nvme_controller_is_upgraded_in_place_under_disk_io() {
    upgraded_with_disk("nvme0", "bulkhead-nvme");
}

#[test]
fn device_process_is_upgraded_in_place_under_disk_io() {
    upgraded_with_disk("vfio0", "bulkhead-vfio");
}

/// Restarts a process into another build of its program, which later lives run too, by order and after a death.
fn upgraded_with_disk(process: &str, program: &str) {
    let folder = tempfile::tempdir().unwrap();
    let image = disk::image(&folder, MIB).unwrap();
    let Some(mut vm) = machine(&format!("upgrades-{process}"), &image) else { return };
    let (upgrade, len) = other_build(program, &folder);
    let old_len = executed_len(&vm, process);
    work::begin(&mut vm.console, COMMAND).unwrap();
    let status: Value = serde_json::from_str(&vm.control_json("status").unwrap()).unwrap();
    assert_eq!(status["programs"], Value::Null);
    let path = upgrade.to_str().unwrap().to_owned();
    let answer = vm.control("restart", &["--program", &path, process]).unwrap();
    assert!(answer.status.success(), "{answer:?}");
    work::another_round(&mut vm.console, COMMAND).unwrap();
    let assert_runs = |vm: &Vm| {
        let rows = vm.processes().unwrap();
        let files =
            rows.iter().filter_map(|row| Some((row["name"].as_str()?, row["program_file"].as_str()?)));
        assert_eq!(files.collect::<Vec<_>>(), [(process, path.as_str())]);
        let status: Value = serde_json::from_str(&vm.control_json("status").unwrap()).unwrap();
        assert_eq!(status["programs"][process], path, "{status}");
        match executed_len(vm, process) {
            Some(executed) => assert!(executed == len && old_len != Some(len), "{executed}, {old_len:?}"),
            None => println!("{SKIPPED}this user may not see what a sealed process executes"),
        }
    };
    assert_runs(&vm);

    // The file is not needed any more: what runs is a copy.
    std::fs::remove_file(&upgrade).unwrap();
    assert!(vm.control("restart", &[process]).unwrap().status.success());
    work::another_round(&mut vm.console, COMMAND).unwrap();
    assert_runs(&vm);
    kill_and_await(&vm, process, COMMAND).unwrap();
    work::another_round(&mut vm.console, COMMAND).unwrap();
    assert_runs(&vm);
    vm.control_json("save-restore").unwrap();
    work::another_round(&mut vm.console, COMMAND).unwrap();
    assert_runs(&vm);
    let last = Life::of(&vm, process).unwrap().unwrap().pid;
    let rounds = work::finish_unnoticed(vm, COMMAND).unwrap();
    // What it runs has no path by which it would be found among what is left.
    assert!(!Path::new(&format!("/proc/{}", last.as_raw_nonzero())).exists());
    println!("{SEEN}{process} upgraded, restarted, killed and restored in {rounds} rounds of disk I/O");
}

/// A file that runs as `program` does and is another one, and its length.
fn other_build(program: &str, folder: &tempfile::TempDir) -> (PathBuf, u64) {
    let upgrade = folder.path().join(format!("{program}-next"));
    std::fs::copy(support::programs().unwrap().join(program), &upgrade).unwrap();
    let mut file = OpenOptions::new().append(true).open(&upgrade).unwrap();
    file.write_all(b"another build").unwrap();
    (upgrade, file.metadata().unwrap().len())
}

/// A controller of another protocol.
fn other_protocol(folder: &tempfile::TempDir) -> PathBuf {
    let (path, _) = other_build("bulkhead-nvme", folder);
    let mut program = std::fs::read(&path).unwrap();
    let head = ipc::hello::PROGRAM_MARK_HEAD;
    let marks = program.windows(head.len()).enumerate().filter(|(_, found)| *found == head);
    let marks: Vec<usize> = marks.map(|(at, _)| at + head.len()).collect();
    assert!(!marks.is_empty());
    marks.into_iter().for_each(|at| program[at..at + 4].fill(0xff));
    std::fs::write(&path, program).unwrap();
    path
}

/// How long the file is that a process executes, where this user may see that.
fn executed_len(vm: &Vm, process: &str) -> Option<u64> {
    let life = Life::of(vm, process).unwrap().unwrap();
    let executed = format!("/proc/{}/exe", life.pid.as_raw_nonzero());
    Some(std::fs::metadata(executed).ok()?.len())
}

#[test]
fn program_that_cannot_follow_is_refused_and_the_old_life_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let image = disk::image(&folder, MIB).unwrap();
    let Some(mut vm) = machine("downgrades", &image) else { return };
    work::begin(&mut vm.console, COMMAND).unwrap();
    let before = processes(&vm);
    let text = folder.path().join("text");
    std::fs::write(&text, "no program").unwrap();
    let script = folder.path().join("script");
    std::fs::write(&script, "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(&script, Permissions::from_mode(0o700)).unwrap();
    let other_protocol = other_protocol(&folder);
    let other_role = support::programs().unwrap().join("bulkhead-smmu");
    let missing = folder.path().join("missing");
    for (program, words) in [
        (&missing, "no such program"),
        (&text, "Permission denied"),
        (&script, "it has no protocol mark"),
        (&other_protocol, "speaks protocol 4294967295, and this VM protocol"),
        (&other_role, "nvme0 is started with the program of a smmu"),
    ] {
        let refused = vm.control("restart", &["--program", program.to_str().unwrap(), "nvme0"]).unwrap();
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.contains(words), "{}: {refused:?}", program.display());
        println!("{}: {}", program.display(), said.trim());
        work::another_round(&mut vm.console, COMMAND).unwrap();
    }
    let after = processes(&vm);
    before.iter().zip(&after).for_each(|(old, new)| assert_stays(old, new));
    let status: Value = serde_json::from_str(&vm.control_json("status").unwrap()).unwrap();
    assert_eq!(status["programs"], Value::Null, "{status}");
    // The next life runs the program that it had.
    assert!(vm.control("restart", &["nvme0"]).unwrap().status.success());
    work::another_round(&mut vm.console, COMMAND).unwrap();
    work::finish_unnoticed(vm, COMMAND).unwrap();
}

#[test]
fn process_that_cannot_be_restarted_is_refused_and_the_guest_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let image = disk::image(&folder, MIB).unwrap();
    let Some(mut vm) = machine("refusals", &image) else { return };
    let before = processes(&vm);
    for (process, word) in [("vcpu", "console"), ("coordinator", "no process"), ("tea", "no process")] {
        let refused = vm.control("restart", &[process]).unwrap();
        assert_eq!(refused.status.code(), Some(2), "{process}: {refused:?}");
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(said.contains(process) && said.contains(word), "{process}: {said}");
    }
    vm.control_json("pause").unwrap();
    let refused = vm.control("restart", &["smmu0"]).unwrap();
    assert_eq!(refused.status.code(), Some(5), "{refused:?}");
    vm.control_json("resume").unwrap();
    let after = processes(&vm);
    assert_eq!(before.len(), after.len());
    before.iter().zip(&after).for_each(|(old, new)| assert_stays(old, new));
    vm.console.output("dd if=/dev/nvme0n1 of=/dev/null bs=64k count=1", COMMAND).unwrap();
    vm.finish(COMMAND).unwrap();
}

/// A process as it is seen from outside.
#[derive(Debug, PartialEq)]
struct Seen {
    name: String,
    pid: i64,
    generation: u64,
    descriptors: u64,
}

/// A control connection that was answered may still be open for a moment.
const CLOSING: u64 = 3;

/// The process is the same one, and nothing is left with it.
fn assert_stays(old: &Seen, new: &Seen) {
    assert_eq!((&new.name, new.pid, new.generation), (&old.name, old.pid, old.generation));
    let closing = if new.name == "coordinator" { CLOSING } else { 0 };
    let change = new.descriptors.abs_diff(old.descriptors);
    assert!(change <= closing, "{}: {} descriptors, {} before", new.name, new.descriptors, old.descriptors);
}

/// Every process.
fn processes(vm: &Vm) -> Vec<Seen> {
    let rows = vm.processes().unwrap();
    let seen = |row: &Value| {
        let facts = row["observed"]["facts"].as_array().unwrap();
        let descriptors = facts.iter().filter_map(|fact| fact.as_str()?.strip_suffix(" fds")).next();
        Seen {
            name: row["name"].as_str().unwrap().to_owned(),
            pid: row["pid"].as_i64().unwrap(),
            generation: row["generation"].as_u64().unwrap(),
            descriptors: descriptors.unwrap().parse().unwrap(),
        }
    };
    rows.iter().map(seen).collect()
}
