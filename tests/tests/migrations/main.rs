// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A stock Linux moves between two coordinators with runtime folders of their own, as `bulkhead migrate` and `bulkhead
//! receive` do it, while it works on its disk and both CPUs dirty memory: nothing is lost, and its drivers notice
//! nothing. [`network`]: the same between two hosts, over TLS.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at the first surprise, in its helpers too"
)]

mod damage;
mod matrix;
mod network;
mod packed;
mod phases;
mod relay;
mod stage1;
#[expect(dead_code, reason = "this suite starts machines with devices only")]
#[path = "../support/mod.rs"]
mod support;
mod throttle;

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::{Duration, Instant};

use network::Network;
use serde_json::Value;
use support::{COMMAND, launch_at_shell};
use tests::crash::Life;
use tests::disk::{self, busy};
use tests::draw::Draw;
use tests::guest::GuestFiles;
use tests::tools::CROSS;
use tests::vm::Vm;
use tests::{SEEN, SKIPPED, Spread, in_run};

/// How often the guest moves, and in a long run.
const MOVES: usize = 4;
const MOVES_LONG: usize = 100;
const MIB: u64 = 32;

/// On each CPU: writes a pattern into memory of its own, over and over, and notes if it reads another one. At three
/// rates in turn, the last of which is what the CPU can do.
const DIRTY: &str = "\
    for cpu in 0 1; do (n=0; while [ ! -e /tmp/stop ]; do n=$((n+1)); \
    dd if=/dev/urandom of=/tmp/dirty$cpu bs=64k count=16 2>/dev/null; \
    a=$(md5sum < /tmp/dirty$cpu); cp /tmp/dirty$cpu /tmp/copy$cpu; \
    [ \"$(md5sum < /tmp/copy$cpu)\" = \"$a\" ] || echo memory FAILED; echo $n; \
    case $((n/16%3)) in 0) sleep 0.2;; 1) sleep 0.02;; esac; \
    done >/tmp/written$cpu 2>&1 &) 2>/dev/null; done";

/// A guest with two CPUs at a shell, perhaps with a disk.
fn machine(name: &str, set: impl FnOnce(&mut tests::vm::Options)) -> Option<Vm> {
    launch_at_shell(name, |options| {
        options.memory = "256M".into();
        options.arguments = vec!["--vcpus".into(), "2".into()];
        set(options);
    })
}

/// Moves the guest to another host, and returns that, with the report.
fn moved(vm: Vm, arguments: &[&str]) -> (Vm, Value) {
    let next = vm.other_host(COMMAND).unwrap();
    moved_to(next, vm, arguments)
}

/// The same to a machine that waits for it.
fn moved_to(next: Vm, mut vm: Vm, arguments: &[&str]) -> (Vm, Value) {
    let answer = vm.migrate_to(&next, &[&["--json"], arguments].concat()).unwrap();
    assert!(answer.status.success(), "{answer:?}\n{}\n{}", vm.console.errors(), next.console.errors());
    let status = vm.console.wait_exit(COMMAND).unwrap();
    assert!(status.success(), "{status}: {}", vm.console.errors());
    (next, serde_json::from_slice(&answer.stdout).unwrap())
}

fn number(report: &Value, field: &str) -> u64 {
    report[field].as_u64().unwrap()
}

#[test]
fn guest_that_moves_back_and_forth_under_disk_io_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let image = disk::image(&folder, MIB).unwrap();
    // Between two hosts, where this machine makes them.
    let network = Network::make();
    let start = |options: &mut tests::vm::Options| {
        // Of the programs in it one keeps the disk busy.
        options.guest = GuestFiles::selftest().unwrap_or_else(|| options.guest.clone());
        options.nvme = vec![image];
        options.under = network.as_ref().map(|network| network.under(0)).unwrap_or_default();
    };
    if GuestFiles::selftest().is_none() {
        println!("{SKIPPED}{}", CROSS.missing());
        return;
    }
    let Some(mut vm) = machine("migrations", start) else { return };
    vm.console.output(DIRTY, COMMAND).unwrap();
    busy::begin(&mut vm.console, COMMAND).unwrap();
    let moves = in_run(MOVES, MOVES_LONG);
    let (mut downtimes, mut gaps) = (Vec::new(), Vec::new());
    for turn in 1..=moves {
        busy::gap(&mut vm.console, COMMAND).unwrap();
        let report;
        (vm, report) = match &network {
            Some(network) => network.moved(vm, turn % 2, &["--vcpus", "2"]),
            None => moved(vm, &[]),
        };
        let rounds = report["rounds"].as_array().unwrap();
        assert!(rounds.len() > 1, "it runs while its memory is sent: {report}");
        let pages = number(&rounds[0], "page_count") + number(&rounds[0], "zero_page_count");
        assert_eq!(pages, 256 << 20 >> 12, "all of RAM is sent once");
        downtimes.push(Duration::from_micros(number(&report, "downtime_us")));
        gaps.push(busy::gap(&mut vm.console, COMMAND).unwrap().length);
    }
    let requests = busy::end_unnoticed(&mut vm.console, COMMAND).unwrap();
    vm.console.output("touch /tmp/stop; sleep 1", COMMAND).unwrap();
    let failed = vm.console.output("grep FAILED /tmp/written* || true", COMMAND).unwrap();
    assert_eq!(failed, "", "memory is not what was written");
    let written = vm.console.output("tail -qn 1 /tmp/written*", COMMAND).unwrap();
    let written: Vec<u64> = written.lines().filter_map(|line| line.trim().parse().ok()).collect();
    assert!(written.len() == 2 && written.iter().all(|count| *count > 0), "{written:?}");
    // A VM like any other.
    vm.control_json("save-restore").unwrap();
    vm.finish(COMMAND).unwrap();
    println!(
        "{SEEN}{moves} migrations ({}), {requests} requests of the disk, {written:?} MiB of memory: stood still for: {}; \
         the guest's disk for: {}",
        if network.is_some() { "TLS between network namespaces" } else { "over a Unix socket" },
        Spread::of(downtimes),
        Spread::of(gaps)
    );
}

#[test]
fn paused_guest_moves_and_arrives_paused() {
    let Some(vm) = machine("stop-and-copy", |_| ()) else { return };
    vm.control_json("pause").unwrap();
    let (mut vm, report) = moved(vm, &[]);
    assert_eq!(report["rounds"].as_array().unwrap().len(), 1, "{report}");
    let status: Value = serde_json::from_str(&vm.control_json("status").unwrap()).unwrap();
    assert_eq!(status["phase"], "paused");
    let executed = |vm: &Vm| {
        let each = [0, 1].map(|cpu| vm.counter(&format!("vcpu{cpu}.instructions")));
        each.into_iter().map(Option::unwrap).sum::<u64>()
    };
    assert_eq!(executed(&vm), 0, "it has run where it arrived");
    vm.control_json("resume").unwrap();
    let until = Instant::now() + COMMAND;
    while executed(&vm) == 0 {
        assert!(Instant::now() < until, "it does not run");
    }
    assert_eq!(vm.console.output("echo still $((6 * 7))", COMMAND).unwrap().trim(), "still 42");
    vm.power_off(COMMAND).unwrap();
}

#[test]
fn guest_that_does_not_fit_is_refused_by_field_and_value_and_runs_on() {
    let Some(mut vm) = machine("misfit", |_| ()) else { return };
    let next = vm.other_host_with(COMMAND, |options| {
        options.memory = "512M".into();
        options.arguments = vec!["--vcpus".into(), "1".into()];
    });
    let mut next = next.unwrap();
    let refused = vm.migrate_to(&next, &[]).unwrap();
    assert_eq!(refused.status.code(), Some(5), "{refused:?}");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    for word in
        ["memory: 268435456 at the source, 536870912 here", "vcpus: 2 at the source, 1 here", "running"]
    {
        assert!(said.contains(word), "{word}: {said}");
    }
    assert!(!next.console.wait_exit(COMMAND).unwrap().success());
    assert!(next.console.errors().contains("no guest has come"), "{}", next.console.errors());
    assert_eq!(vm.console.output("echo still $((6 * 7))", COMMAND).unwrap().trim(), "still 42");
    // The next attempt, to a machine that fits, succeeds.
    let (mut vm, _) = moved(vm, &[]);
    assert_eq!(vm.console.output("echo still $((6 * 7))", COMMAND).unwrap().trim(), "still 42");
    vm.power_off(COMMAND).unwrap();
}

/// Who is killed in the middle of a migration: at the source, or at the destination.
const VICTIMS: [(bool, &str); 5] =
    [(true, "mover"), (false, "mover"), (false, "coordinator"), (false, "vcpu"), (false, "smmu0")];
/// How often each, and in a long run.
const TURNS: usize = 1;
const TURNS_LONG: usize = 20;
/// How long a migration of this guest takes, or longer.
const MIGRATION: Duration = Duration::from_millis(1500);

#[test]
fn guest_is_on_exactly_one_side_whoever_dies_in_the_middle() {
    let start = || {
        machine("deaths", |options| {
            options.memory = "128M".into();
            options.arguments = vec![];
        })
    };
    let Some(mut vm) = start() else { return };
    let mut draw = Draw::by_seed();
    let turns = in_run(TURNS, TURNS_LONG);
    let mut outcomes = BTreeMap::<&str, u32>::new();
    for victim in (0..turns).flat_map(|_| VICTIMS) {
        let (outcome, left) = attempt(vm, victim, draw.moment(MIGRATION));
        *outcomes.entry(outcome).or_default() += 1;
        println!("{victim:?}: {outcome}");
        vm = left.unwrap_or_else(|| start().unwrap());
        assert_eq!(
            vm.console.output("echo still $((6 * 7))", COMMAND).unwrap().trim(),
            "still 42",
            "{victim:?}"
        );
    }
    // And whatever was left in between does not stand in the way.
    let (mut vm, _) = moved(vm, &[]);
    vm.power_off(COMMAND).unwrap();
    println!("{SEEN}{outcomes:?}");
}

/// Kills somebody so long after he is there, and returns what became of the guest, and where it is.
fn attempt(mut vm: Vm, (at_source, name): (bool, &str), moment: Duration) -> (&'static str, Option<Vm>) {
    let mut next = vm.other_host(COMMAND).unwrap();
    let mut command = vm.migration_to(&next, &["--json"]).unwrap();
    let mut migration = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut life = None;
    while life.is_none() && migration.try_wait().unwrap().is_none() {
        // A host that is ending does not answer.
        life = Life::of(if at_source { &vm } else { &next }, name).ok().flatten();
    }
    std::thread::sleep(moment);
    let _ = life.is_some_and(Life::kill);
    let answer = migration.wait_with_output().unwrap();
    if answer.status.success() {
        assert!(vm.console.wait_exit(COMMAND).unwrap().success());
        // Who died behind the commit has ended the VM that the guest had moved to, as he does in any VM.
        return match running(&next) {
            true => ("moved", Some(next)),
            false => ("moved, and ended there", None),
        };
    }
    let said = String::from_utf8_lossy(&answer.stderr).into_owned();
    if running(&vm) {
        assert!(!next.console.wait_exit(COMMAND).unwrap().success(), "it is on both sides: {said}");
        return ("stayed", Some(vm));
    }
    assert!(said.contains("--resolve"), "{said}");
    if running(&next) {
        assert!(vm.control("migrate", &["--resolve", "discard", "--force"]).unwrap().status.success());
        assert!(vm.console.wait_exit(COMMAND).unwrap().success());
        return ("not known, and it had moved", Some(next));
    }
    assert!(vm.control("migrate", &["--resolve", "resume", "--force"]).unwrap().status.success());
    assert!(running(&vm));
    ("not known, and it had not moved", Some(vm))
}

/// Whether the guest runs there: a machine that is ending is waited for.
fn running(vm: &Vm) -> bool {
    let until = Instant::now() + COMMAND;
    loop {
        let status = vm.control_json("status").ok();
        let status: Option<Value> = status.and_then(|status| serde_json::from_str(&status).ok());
        match status.as_ref().map(|status| status["phase"].as_str().unwrap()) {
            None => return false,
            Some("running") => {
                // One whose CPUs have died says so for a moment longer.
                std::thread::sleep(Duration::from_millis(200));
                if vm.control_json("status").is_ok_and(|status| status.contains("\"running\"")) {
                    return true;
                }
            }
            Some("paused") => return false,
            Some(_) => assert!(Instant::now() < until, "{status:?}"),
        }
    }
}
