// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One process of a running VM is started anew, as `bulkhead restart` does it, while a stock Linux works on its disk
//! through the vSMMU: every block that it reads is the one that it wrote, and its drivers notice nothing.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at the first surprise, in its helpers too"
)]

#[expect(dead_code, reason = "this suite starts machines with devices only")]
mod support;

use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{COMMAND, launch_at_shell};
use tests::disk::{self, work};
use tests::vm::Vm;
use tests::{SEEN, median_and_most};

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
    let turns = std::env::var("BULKHEAD_RESTARTS").map_or(RESTARTS, |turns| turns.parse().unwrap());
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
        downtimes.push(answer["downtime_us"].as_u64().unwrap());
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
    let (median, most) = median_and_most(downtimes);
    println!(
        "{SEEN}{turns} restarts of {process} in {rounds} rounds of disk I/O: paused for {median} us (median), {most} us at most"
    );
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
    vm.power_off(COMMAND).unwrap();
    assert_eq!(vm.left_over(), [""; 0]);
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
