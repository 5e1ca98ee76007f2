// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The truth of the dirty logs by content: what all harvests together had of a guest's RAM is what changed in it.
//!
//! Everybody writes pages that are drawn: both CPUs, an NVMe and another device by DMA, a message that goes to memory,
//! the vSMMU its events; and devices once more when they are asked to stop. Meanwhile a migration sends the pages of
//! one harvest after the other to a host that is this test ([`crate::another_host`]), and in the end each page of RAM
//! must be there as it is. Then the guest is saved and restored, and the next logs are those of other processes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::PathBuf;

use tests::draw::Draw;
use tests::vm::address;
use tests::{SEEN, in_run};

use crate::another_host::{AnotherHost, REASON};
use crate::traffic::{POOL_COUNT, Traffic};

/// Migrations with a save-restore behind each; and in a long run.
const TURNS: u64 = 4;
const TURNS_LONG: u64 = 200;
/// Rounds of a migration while the guest runs, at least and at most: the guest is paused behind a drawn one.
const ROUNDS_MIN: usize = 2;
const ROUNDS_MAX: usize = 9;

/// No page that was changed is missing.
pub fn truth() {
    let Some(mut traffic) = Traffic::start("moves-contents") else { return };
    let mut draw = Draw::by_seed();
    traffic.round();
    let turns = in_run(TURNS, TURNS_LONG);
    let (mut harvests, mut pages, mut unchanged) = (0, 0, 0);
    for turn in 0..turns {
        let socket = traffic.folder().join(format!("host-{turn}"));
        let host = AnotherHost::listen(&socket, ram(&traffic));
        let rounds = (ROUNDS_MIN + draw.below(ROUNDS_MAX - ROUNDS_MIN + 1)).to_string();
        let to = address(&socket);
        // No guest ever stands still for nothing: all rounds are sent.
        let arguments = ["--to", &to, "--lanes", "1", "--downtime-limit", "0", "--max-rounds", &rounds];
        let mut is_accepted = false;
        let output = traffic.during("migrate", &arguments, |traffic| {
            if !is_accepted && host.is_asked() {
                let refused = traffic.m.vm.control::<&str>("save-restore", &[]).unwrap();
                let said = String::from_utf8_lossy(&refused.stderr);
                assert!(!refused.status.success() && said.contains("is being migrated"), "{said}");
                host.go_on();
                is_accepted = true;
            }
            write(traffic, &mut draw);
        });
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(REASON), "{said}");
        let received = host.received();
        let missing: Vec<_> = received.missing.iter().map(|page| format!("page {page:#x}")).collect();
        assert_eq!(missing, [""; 0], "changed and not in any harvest, in turn {turn}: {:?}", received.rounds);
        harvests += received.rounds.len() - 1;
        pages += received.rounds[1..].iter().sum::<usize>();
        unchanged += received.unchanged;
        traffic.settle();
        traffic.m.vm.control_json("save-restore").unwrap();
        traffic.settle();
    }
    println!(
        "{SEEN}{turns} migrations with a save-restore behind each: {harvests} harvests had {pages} pages, {unchanged} of them marked \
         and not changed, and every page that changed"
    );
    traffic.end();
}

/// Everybody writes, here and there.
fn write(traffic: &mut Traffic, draw: &mut Draw) {
    traffic.round();
    let mut below = |count: u64| u64::try_from(draw.below(usize::try_from(count).unwrap())).unwrap();
    for _ in 0..4 {
        let (page, value) = (below(POOL_COUNT), below(u32::MAX.into()));
        match below(4) {
            0 => traffic.write_by_cpu(page, value),
            1 => traffic.write_by_device(page, value),
            2 => traffic.write_by_message(page, u32::try_from(value).unwrap()),
            _ => traffic.write_by_disk(page),
        }
    }
}

/// The guest's RAM, as the coordinator has it.
pub fn ram(traffic: &Traffic) -> File {
    let row = traffic.m.vm.processes().unwrap().into_iter().find(|row| row["name"] == "coordinator");
    let pid = row.unwrap()["host_pid"].to_string();
    let links = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten().map(|fd| fd.path());
    let named: BTreeMap<PathBuf, PathBuf> =
        links.filter_map(|link| Some((fs::read_link(&link).ok()?, link))).collect();
    let found = named.iter().find(|(name, _)| name.to_string_lossy().contains("-guest-ram"));
    File::open(found.unwrap().1).unwrap()
}
