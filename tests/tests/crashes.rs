// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The vSMMU's process is killed under a stock Linux that works on its disk through it, again and again at random
//! moments, also in the middle of what users ask for: each time its next life goes on from the checkpoint, every block
//! that the guest reads is the one that it wrote, and its drivers notice nothing. Moments are drawn by a seed that is
//! printed.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at the first surprise, in its helpers too"
)]

#[expect(dead_code, reason = "this suite starts machines with devices only")]
mod support;

use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use serde_json::Value;
use support::{BOOT, COMMAND, launch_as};
use tests::SEEN;
use tests::crash::{Life, kill_and_await};
use tests::disk::{self, work};
use tests::draw::Draw;
use tests::guest::GuestFiles;
use tests::vm::Vm;

/// How often the process is killed, unless `BULKHEAD_KILLS` says how often.
const KILLS: u32 = 20;
const MIB: u64 = 32;
/// Milliseconds of the guest's work, or of what a user asked for, before a kill.
const BEFORE_MAX: u64 = 400;

/// A guest with a disk behind the vSMMU, at a shell.
fn machine(name: &str, image: &Path) -> Option<Vm> {
    let mut vm = launch_as(GuestFiles::cached(), name, |options| {
        options.extra = "iommu.passthrough=0 iommu.strict=1".into();
        options.nvme = vec![image.into()];
        // It dies more often here than a user would put up with.
        options.arguments = ["--smmu-restarts-per-minute", "1000"].map(Into::into).to_vec();
    })?;
    vm.console.shell(BOOT).unwrap();
    Some(vm)
}

/// The guest has noticed nothing, and ends in peace.
fn finish(mut vm: Vm) -> u64 {
    let rounds = work::end_unnoticed(&mut vm.console, COMMAND).unwrap();
    vm.power_off(COMMAND).unwrap();
    assert_eq!(vm.left_over(), [""; 0]);
    rounds
}

#[test]
fn vsmmu_that_is_killed_under_disk_io_comes_back_and_nobody_notices() {
    let folder = tempfile::tempdir().unwrap();
    let image = disk::image(&folder, MIB).unwrap();
    let Some(mut vm) = machine("crashes", &image) else { return };
    work::begin(&mut vm.console, COMMAND).unwrap();
    let kills = std::env::var("BULKHEAD_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    let mut draw = Draw::by_seed();
    let mut gaps = Vec::new();
    for _ in 0..kills {
        thread::sleep(Duration::from_millis(draw.message(BEFORE_MAX)));
        gaps.push(kill_and_await(&vm, "smmu0", COMMAND).unwrap());
        work::another_round(&mut vm.console, COMMAND).unwrap();
    }
    let status: Value = serde_json::from_str(&vm.control_json("status").unwrap()).unwrap();
    let deaths = &status["deaths"]["smmu0"];
    assert_eq!(deaths["count"], kills, "{status}");
    assert!(deaths["last"].as_str().unwrap().contains("killed by signal 9"), "{status}");
    let rounds = finish(vm);
    gaps.sort_unstable();
    let (median, most) = (gaps[gaps.len() / 2], gaps[gaps.len() - 1]);
    println!(
        "{SEEN}{kills} kills of smmu0 in {rounds} rounds of disk I/O: back after {median:?} (median), {most:?} at most, as `ps` sees it"
    );
}

#[test]
fn vsmmu_that_is_killed_while_a_user_asks_for_something_comes_back_and_the_guest_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let image = disk::image(&folder, MIB).unwrap();
    let Some(mut vm) = machine("crashes-asked", &image) else { return };
    work::begin(&mut vm.console, COMMAND).unwrap();
    let mut draw = Draw::by_seed();
    for _ in 0..2 {
        for words in [&["pause"][..], &["resume"], &["save-restore"], &["restart", "smmu0"], &["dirty-rate"]]
        {
            if words == ["resume"] {
                vm.control_json("pause").unwrap();
            }
            let life = Life::of(&vm, "smmu0").unwrap().unwrap();
            let (task, arguments) = words.split_first().unwrap();
            let mut command = vm.controller().command(task, arguments);
            let running = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            thread::sleep(Duration::from_millis(draw.message(BEFORE_MAX)));
            // Of a move that was faster it is gone already.
            let killed = life.kill();
            let answer = running.wait_with_output().unwrap();
            println!("{words:?}, killed: {killed}: {}", String::from_utf8_lossy(&answer.stderr).trim());
            // Only what relied on that life may fail.
            assert!(answer.status.success() || !["pause", "resume"].contains(task), "{answer:?}");
            vm.control_json("resume").unwrap();
            work::another_round(&mut vm.console, COMMAND).unwrap();
        }
    }
    finish(vm);
}
