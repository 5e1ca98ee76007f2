// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The processes of several disks die at once, or move, and each takes a while to load and to save ([`SLOW`]): they do
//! so side by side, and the guest waits for one of them, not for their sum.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use tests::crash::{Life, await_next};
use tests::disk::{self, busy};
use tests::guest::GuestFiles;
use tests::tools::CROSS;
use tests::vm::Vm;
use tests::{SEEN, SKIPPED, Spread, in_run, programs};

use crate::support::{self, BOOT, COMMAND, launch_as};
use crate::unfaithful::{Breach, LOADS, SAVES, SLOW};

const MIB: u64 = 32;
const DISKS: [usize; 2] = [1, 4];
const KILLS: usize = 5;
const KILLS_LONG: usize = 50;
const MOVES: usize = 3;
const MOVES_LONG: usize = 30;
/// They die more often here than a user would put up with.
const DEATHS: [&str; 2] = ["--device-restarts-per-minute", "1000"];

/// Programs among which that of a disk's controller is slow.
fn slow_programs() -> Option<(TempDir, PathBuf)> {
    let built = support::programs()?;
    if GuestFiles::selftest().is_none() {
        println!("{SKIPPED}{}", CROSS.missing());
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join("programs");
    programs::folder_without(Some("bulkhead-nvme"), &built, &own).unwrap();
    Breach::Slow.write(&own.join("bulkhead-nvme"));
    Some((folder, own))
}

/// A guest that works on the first of so many disks, whose folders are there for as long.
fn with_disks(count: usize, own: &PathBuf) -> Option<(Vm, Vec<TempDir>)> {
    let folders: Vec<_> = (0..count).map(|_| tempfile::tempdir().unwrap()).collect();
    let set = |options: &mut tests::vm::Options| {
        options.nvme = folders.iter().map(|folder| disk::image(folder, MIB).unwrap()).collect();
        options.arguments = DEATHS.map(Into::into).to_vec();
        options.programs.clone_from(own);
    };
    let mut vm = launch_as(GuestFiles::selftest(), "side-by-side", set)?;
    vm.console.shell(BOOT).unwrap();
    Some((vm, folders))
}

pub fn loads() {
    let Some((_folder, own)) = slow_programs() else { return };
    for count in DISKS {
        let Some((mut vm, _disks)) = with_disks(count, &own) else { return };
        busy::begin(&mut vm.console, COMMAND).unwrap();
        let mut gaps = Vec::new();
        for _ in 0..in_run(KILLS, KILLS_LONG) {
            busy::gap(&mut vm.console, COMMAND).unwrap();
            let names = (0..count).map(|index| format!("nvme{index}"));
            let lives: Vec<_> = names.map(|name| (Life::of(&vm, &name).unwrap().unwrap(), name)).collect();
            for (life, name) in &lives {
                assert!(life.kill(), "{name} has ended");
            }
            let until = Instant::now() + COMMAND;
            lives.iter().for_each(|(life, name)| await_next(&vm, name, *life, until).unwrap());
            gaps.push(busy::gap(&mut vm.console, COMMAND).unwrap().length);
        }
        busy::end_unnoticed(&mut vm.console, COMMAND).unwrap();
        assert_eq!(most_at_once(&vm.console.errors(), LOADS), count);
        vm.finish(COMMAND).unwrap();
        println!("{SEEN}{count} disks, {} ms in each load: {}", SLOW.as_millis(), Spread::of(gaps));
    }
}

pub fn saves() {
    let Some((_folder, own)) = slow_programs() else { return };
    for count in DISKS {
        let Some((mut vm, _disks)) = with_disks(count, &own) else { return };
        let mut stood = Vec::new();
        for _ in 0..in_run(MOVES, MOVES_LONG) {
            let next = vm.other_host(COMMAND).unwrap();
            let moved = vm.migrate_to(&next, &["--json"]).unwrap();
            assert!(moved.status.success(), "{moved:?}");
            assert!(vm.console.wait_exit(COMMAND).unwrap().success());
            assert_eq!(most_at_once(&vm.console.errors(), SAVES), count);
            assert_eq!(most_at_once(&next.console.errors(), LOADS), count);
            let report: Value = serde_json::from_slice(&moved.stdout).unwrap();
            stood.push(Duration::from_micros(report["downtime_us"].as_u64().unwrap()));
            vm = next;
        }
        vm.finish(COMMAND).unwrap();
        println!("{SEEN}{count} disks, {} ms in each save and load: {}", SLOW.as_millis(), Spread::of(stood));
    }
}

/// How many processes were between these words at once, at most: one that was killed is followed by another of its
/// name.
fn most_at_once(log: &str, [begins, is_over]: [&str; 2]) -> usize {
    let (mut busy, mut most) = (BTreeSet::new(), 0);
    for line in log.lines() {
        let process = line.split_whitespace().find_map(|word| word.strip_prefix("process="));
        if line.contains(begins) {
            busy.insert(process.unwrap());
        } else if line.contains(is_over) {
            busy.remove(process.unwrap());
        }
        most = most.max(busy.len());
    }
    most
}
