// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The processes of several disks die at once, and each next life takes a while to load ([`SLOW`]): they do so side by
//! side, and the guest waits for one of them, not for their sum.

use std::collections::BTreeSet;
use std::time::Instant;

use tests::crash::{Life, await_next};
use tests::disk::{self, busy};
use tests::guest::GuestFiles;
use tests::tools::CROSS;
use tests::{SEEN, SKIPPED, Spread, in_run, programs};

use crate::support::{self, BOOT, COMMAND, launch_as};
use crate::unfaithful::{Breach, HAS_LOADED, LOADS, SLOW};

const MIB: u64 = 32;
const KILLS: usize = 5;
const KILLS_LONG: usize = 50;
const DISKS: [usize; 2] = [1, 4];
/// They die more often here than a user would put up with.
const DEATHS: [&str; 2] = ["--device-restarts-per-minute", "1000"];

pub fn side_by_side() {
    let Some(built) = support::programs() else { return };
    if GuestFiles::selftest().is_none() {
        return println!("{SKIPPED}{}", CROSS.missing());
    }
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join("programs");
    programs::folder_without(Some("bulkhead-nvme"), &built, &own).unwrap();
    Breach::SlowLoad.write(&own.join("bulkhead-nvme"));
    for count in DISKS {
        let folders: Vec<_> = (0..count).map(|_| tempfile::tempdir().unwrap()).collect();
        let images: Vec<_> = folders.iter().map(|folder| disk::image(folder, MIB).unwrap()).collect();
        let set = |options: &mut tests::vm::Options| {
            options.nvme = images;
            options.arguments = DEATHS.map(Into::into).to_vec();
            options.programs.clone_from(&own);
        };
        let Some(mut vm) = launch_as(GuestFiles::selftest(), "loads", set) else { return };
        vm.console.shell(BOOT).unwrap();
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
        assert_eq!(most_at_once(&vm.console.errors()), count);
        vm.finish(COMMAND).unwrap();
        println!("{SEEN}{count} disks, {} ms in each load: {}", SLOW.as_millis(), Spread::of(gaps));
    }
}

/// How many loads were under way at once, at most: one that was killed is followed by another of its process.
fn most_at_once(log: &str) -> usize {
    let (mut loading, mut most) = (BTreeSet::new(), 0);
    for line in log.lines() {
        let process = line.split_whitespace().find_map(|word| word.strip_prefix("process="));
        if line.contains(LOADS) {
            loading.insert(process.unwrap());
        } else if line.contains(HAS_LOADED) {
            loading.remove(process.unwrap());
        }
        most = most.max(loading.len());
    }
    most
}
