// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Processes of a machine are killed under a stock Linux that works on its disk through them, again and again at random
//! moments, two at once, and in the middle of what users ask for: each time the next lives go on from the checkpoints,
//! every block that the guest reads is the one that it wrote, and its drivers notice nothing. Moments are drawn by a
//! seed that is printed.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at the first surprise, in its helpers too"
)]

#[expect(dead_code, reason = "this suite starts machines with devices only")]
mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use serde_json::Value;
use support::{COMMAND, launch_at_shell};
use tests::crash::{Life, kill_and_await_all};
use tests::disk::{self, work};
use tests::draw::Draw;
use tests::vm::Vm;
use tests::{SEEN, median_and_most};

/// How often the process is killed, unless `BULKHEAD_KILLS` says how often.
const KILLS: u32 = 20;
const MIB: u64 = 32;
/// Milliseconds of the guest's work, or of what a user asked for, before a kill.
const BEFORE_MAX: u64 = 400;

/// A guest with a disk behind the vSMMU, at a shell.
fn machine(name: &str, image: &Path) -> Option<Vm> {
    launch_at_shell(name, |options| {
        options.nvme = vec![image.into()];
        // It dies more often here than a user would put up with.
        options.arguments = ["--smmu-restarts-per-minute", "1000", "--device-restarts-per-minute", "1000"]
            .map(Into::into)
            .to_vec();
    })
}

#[test]
fn vsmmu_that_is_killed_under_disk_io_comes_back_and_nobody_notices() {
    killed_under_disk_io("crashes", &["smmu0"]);
}

#[test]
fn nvme_controller_that_is_killed_under_disk_io_comes_back_and_nobody_notices() {
    killed_under_disk_io("crashes-nvme", &["nvme0"]);
}

#[test]
fn device_process_that_is_killed_under_disk_io_comes_back_and_nobody_notices() {
    killed_under_disk_io("crashes-vfio", &["vfio0"]);
}

#[test]
fn any_two_processes_that_are_killed_at_once_under_disk_io_come_back_and_nobody_notices() {
    killed_under_disk_io("crashes-two", &["vfio0", "nvme0", "smmu0"]);
}

/// Kills one of these processes, or two of them where there are more, again and again.
fn killed_under_disk_io(machine_name: &str, names: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let image = disk::image(&folder, MIB).unwrap();
    let Some(mut vm) = machine(machine_name, &image) else { return };
    work::begin(&mut vm.console, COMMAND).unwrap();
    let kills = std::env::var("BULKHEAD_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    let mut draw = Draw::by_seed();
    let mut gaps = Vec::new();
    let mut expected = BTreeMap::new();
    for _ in 0..kills {
        thread::sleep(Duration::from_millis(draw.message(BEFORE_MAX)));
        let first = usize::try_from(draw.message(1000)).unwrap() % names.len();
        let together = names.iter().cycle().skip(first).take(names.len().min(2));
        let together: Vec<&str> = together.copied().collect();
        gaps.push(kill_and_await_all(&vm, &together, COMMAND).unwrap());
        together.iter().for_each(|name| *expected.entry(*name).or_insert(0) += 1);
        work::another_round(&mut vm.console, COMMAND).unwrap();
    }
    let status: Value = serde_json::from_str(&vm.control_json("status").unwrap()).unwrap();
    let deaths = |name: &str| status["deaths"][name]["count"].as_u64().unwrap_or(0);
    let counted: u64 = names.iter().map(|name| deaths(name)).sum();
    if let [name] = names {
        assert_eq!(counted, u64::from(kills), "{status}");
        let last = status["deaths"][name]["last"].as_str().unwrap();
        assert!(last.contains("killed by signal 9"), "{status}");
    }
    // Of two of one group the second may be ended for the first before it is seen that it has died.
    assert!(counted >= u64::from(kills), "{status}");
    let rounds = work::finish_unnoticed(vm, COMMAND).unwrap();
    let (median, most) = median_and_most(gaps);
    println!(
        "{SEEN}{kills} kills of {expected:?} in {rounds} rounds of disk I/O: back after {median:?} (median), {most:?} at most, as `ps` sees it"
    );
}

#[test]
fn vsmmu_that_is_killed_while_a_user_asks_for_something_comes_back_and_the_guest_goes_on() {
    killed_while_a_user_asks("crashes-asked", &["smmu0"]);
}

#[test]
fn device_that_is_killed_while_a_user_asks_for_something_comes_back_and_the_guest_goes_on() {
    killed_while_a_user_asks("crashes-asked-device", &["nvme0", "vfio0"]);
}

/// Kills each of these processes once in the middle of each thing that a user asks for.
fn killed_while_a_user_asks(machine_name: &str, names: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let image = disk::image(&folder, MIB).unwrap();
    let Some(mut vm) = machine(machine_name, &image) else { return };
    work::begin(&mut vm.console, COMMAND).unwrap();
    let mut draw = Draw::by_seed();
    for name in names.iter().cycle().take(2) {
        for words in [&["pause"][..], &["resume"], &["save-restore"], &["restart", name], &["dirty-rate"]] {
            if words == ["resume"] {
                vm.control_json("pause").unwrap();
            }
            let life = Life::of(&vm, name).unwrap();
            let life = life.unwrap_or_else(|| panic!("{name} is gone: {}", vm.console.errors()));
            let (task, arguments) = words.split_first().unwrap();
            let mut command = vm.controller().command(task, arguments);
            let running = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            thread::sleep(Duration::from_millis(draw.message(BEFORE_MAX)));
            // Of a move that was faster it is gone already.
            let killed = life.kill();
            let answer = running.wait_with_output().unwrap();
            println!(
                "{name}, {words:?}, killed: {killed}: {}",
                String::from_utf8_lossy(&answer.stderr).trim()
            );
            // Only what relied on that life may fail.
            assert!(answer.status.success() || !["pause", "resume"].contains(task), "{answer:?}");
            vm.control_json("resume").unwrap();
            work::another_round(&mut vm.console, COMMAND).unwrap();
        }
    }
    work::finish_unnoticed(vm, COMMAND).unwrap();
}
