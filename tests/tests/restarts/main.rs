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
#[path = "../support/mod.rs"]
mod support;

use std::path::Path;
use std::time::Instant;

use serde_json::Value;
use support::{BOOT, COMMAND, launch_as};
use tests::guest::GuestFiles;
use tests::vm::Vm;
use tests::{SEEN, disk, runner, starved};

/// By name, as test runners ask for them.
const TESTS: [(&str, fn()); 2] = [
    ("vsmmu_that_is_restarted_under_disk_io_loses_and_doubles_nothing", restarts),
    ("process_that_cannot_be_restarted_is_refused_and_the_guest_goes_on", refusals),
];

fn main() {
    let words: Vec<String> = std::env::args().collect();
    runner::run(&words, &TESTS);
}

/// How often the process is restarted, unless `BULKHEAD_RESTARTS` says how often.
const RESTARTS: u32 = 20;
const MIB: u64 = 32;

/// A program of the guest's: writes a mebibyte to the disk, drops its caches, reads it back from there, and notes
/// whether it is the same, over and over, each time elsewhere. Under strict translation each transfer is mapped,
/// invalidated and synchronised.
const WORK: &str = "\
    dd if=/dev/urandom of=/tmp/mib bs=64k count=16 2>/dev/null; sum=$(md5sum < /tmp/mib); \
    (i=0; while [ ! -e /tmp/stop ]; do i=$((i+1)); at=$((i%16*16)); \
    dd if=/tmp/mib of=/dev/nvme0n1 bs=64k seek=$at conv=fsync 2>/dev/null || echo write FAILED; \
    echo 3 > /proc/sys/vm/drop_caches; \
    [ \"$(dd if=/dev/nvme0n1 bs=64k skip=$at count=16 2>/dev/null | md5sum)\" = \"$sum\" ] || echo read FAILED; \
    echo $i; done >/tmp/rounds 2>&1 &) 2>/dev/null";

/// A guest with a disk behind the vSMMU, at a shell.
fn machine(name: &str, image: &Path) -> Option<Vm> {
    starved::watch();
    let mut vm = launch_as(GuestFiles::cached(), name, |options| {
        options.extra = "iommu.passthrough=0 iommu.strict=1".into();
        options.nvme = vec![image.into()];
    })?;
    vm.console.shell(BOOT).unwrap();
    Some(vm)
}

fn restarts() {
    let folder = tempfile::tempdir().unwrap();
    let image = disk::image(&folder, MIB).unwrap();
    let Some(mut vm) = machine("restarts", &image) else { return };
    output(&mut vm, WORK);
    await_round(&mut vm, 1);
    let turns = std::env::var("BULKHEAD_RESTARTS").map_or(RESTARTS, |turns| turns.parse().unwrap());
    let before = processes(&vm);
    let mut downtimes = Vec::new();
    for turn in 1..=turns {
        // In the middle of a round: there are commands in flight.
        let answer = vm.control("restart", &["--json", "smmu0"]).unwrap();
        assert!(answer.status.success(), "{answer:?}");
        let answer: Value = serde_json::from_slice(&answer.stdout).unwrap();
        assert_eq!(answer["process"], "smmu0");
        assert_eq!(answer["generation"], turn + 1, "{answer}");
        downtimes.push(answer["downtime_us"].as_u64().unwrap());
        let seen = last_round(&mut vm);
        await_round(&mut vm, seen + 1);
    }
    let after = processes(&vm);
    for (old, new) in before.iter().zip(&after) {
        if new.name == "smmu0" {
            assert!(new.pid != old.pid && new.generation == u64::from(turns) + 1, "{after:?}");
            assert_eq!((&new.name, &new.descriptors), (&old.name, &old.descriptors));
        } else {
            assert_stays(old, new);
        }
    }
    assert_eq!(before.len(), after.len());
    // What follows the restarts is as what came before: it is saved and restored with all others.
    vm.control_json("save-restore").unwrap();
    let seen = last_round(&mut vm);
    await_round(&mut vm, seen + 1);
    output(&mut vm, "touch /tmp/stop; sleep 1");
    assert_eq!(output(&mut vm, "grep -c FAILED /tmp/rounds || true"), "0");
    let complaints = "dmesg | grep -E 'arm-smmu-v3|nvme' | grep -iE 'error|timeout| fault|event 0x' || true";
    assert_eq!(output(&mut vm, complaints), "");
    let rounds = last_round(&mut vm);
    vm.power_off(COMMAND).unwrap();
    assert_eq!(vm.left_over(), [""; 0]);
    downtimes.sort_unstable();
    let (median, most) = (downtimes[downtimes.len() / 2], downtimes[downtimes.len() - 1]);
    println!(
        "{SEEN}{turns} restarts of smmu0 in {rounds} rounds of disk I/O: paused for {median} us (median), {most} us at most"
    );
}

fn refusals() {
    let folder = tempfile::tempdir().unwrap();
    let image = disk::image(&folder, MIB).unwrap();
    let Some(mut vm) = machine("refusals", &image) else { return };
    let before = processes(&vm);
    for (process, word) in
        [("vcpu", "console"), ("vfio0", "stage 1"), ("nvme0", "vfio-user"), ("tea", "no process")]
    {
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
    output(&mut vm, "dd if=/dev/nvme0n1 of=/dev/null bs=64k count=1");
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
    let all: Value = serde_json::from_str(&vm.control_json("ps").unwrap()).unwrap();
    // By the name of the VM, of which there is one.
    let rows = all.as_object().unwrap().values().flat_map(|rows| rows.as_array().unwrap());
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
    rows.map(seen).collect()
}

/// What the guest answers to a command that must end well.
fn output(vm: &mut Vm, command: &str) -> String {
    let answer = vm.console.run(command, COMMAND).unwrap();
    assert_eq!(answer.code, 0, "{command}: {}", answer.output);
    answer.output.trim().to_owned()
}

/// How often the disk has been written and read.
fn last_round(vm: &mut Vm) -> u64 {
    output(vm, "tail -n 1 /tmp/rounds").parse().unwrap_or(0)
}

fn await_round(vm: &mut Vm, wanted: u64) {
    let until = Instant::now() + COMMAND;
    loop {
        let seen = last_round(vm);
        if seen >= wanted {
            return;
        }
        assert!(Instant::now() < until, "the disk stands still at round {seen}");
    }
}
