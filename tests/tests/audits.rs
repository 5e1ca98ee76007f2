// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `bulkhead audit` of a VM that is at work, and in the middle of restarts, deaths and migrations: it finds nothing
//! that is not there, and harms nothing. It stops each process for a moment, one after the other, by ptrace.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at the first surprise, in its helpers too"
)]

#[expect(dead_code, reason = "this suite starts machines of its own making only")]
#[path = "support/mod.rs"]
mod support;

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{BOOT, COMMAND, launch_as};
use tests::crash::{Life, await_next};
use tests::disk::{self, busy};
use tests::draw::Draw;
use tests::guest::GuestFiles;
use tests::tools::CROSS;
use tests::vm::Vm;
use tests::{SEEN, SKIPPED, Spread, in_run};

const AUDITS: usize = 60;
const AUDITS_LONG: usize = 1000;
const MIB: u64 = 32;
const RESTARTED: [&str; 3] = ["smmu0", "vfio0", "nvme0"];
/// They die more often here than a user would put up with.
const DEATHS: [&str; 4] = ["--smmu-restarts-per-minute", "1000", "--device-restarts-per-minute", "1000"];

/// What audits have come to.
#[derive(Default)]
struct Audits {
    took: Vec<Duration>,
    /// For how long a process was stopped.
    stopped: Vec<Duration>,
    /// Of a VM that was gone meanwhile.
    without: usize,
}

impl Audits {
    /// One more. No process may differ; where one is just being started or ended, it is not found. A guest that moves
    /// takes the VM with it.
    fn look(&mut self, vm: &Vm, moves: bool) {
        let begun = Instant::now();
        let output = vm.controller().command("audit", &["--json"]).output().unwrap();
        let Ok(answer) = serde_json::from_slice::<Value>(&output.stdout) else {
            assert!(moves, "{output:?}");
            self.without += 1;
            return;
        };
        self.took.push(begun.elapsed());
        for process in answer["processes"].as_array().unwrap() {
            let drift = process["drift"].as_array().unwrap();
            assert!(drift.is_empty(), "{}: {drift:?}", process["process"]);
            self.stopped.extend(process["stopped_us"].as_u64().map(Duration::from_micros));
        }
    }

    /// As many as there is time for until this command has answered. True: it was obeyed.
    fn until_answered(&mut self, vm: &Vm, mut asked: Child, moves: bool) -> bool {
        let until = Instant::now() + COMMAND;
        loop {
            self.look(vm, moves);
            if let Some(status) = asked.try_wait().unwrap() {
                return status.success();
            }
            assert!(Instant::now() < until, "no answer");
        }
    }
}

fn begin(mut command: std::process::Command) -> Child {
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
fn audit_of_a_vm_at_work_that_is_restarted_and_moved_finds_nothing_and_harms_nothing() {
    if !rustix::process::geteuid().is_root() {
        return println!("{SKIPPED}filters and mappings of sealed processes: only root may see them");
    }
    if GuestFiles::selftest().is_none() {
        return println!("{SKIPPED}{}", CROSS.missing());
    }
    let folder = tempfile::tempdir().unwrap();
    let image = disk::image(&folder, MIB).unwrap();
    let vm = launch_as(GuestFiles::selftest(), "audits", |options| {
        options.nvme = vec![image];
        options.arguments = DEATHS.map(Into::into).to_vec();
    });
    let Some(mut vm) = vm else { return };
    vm.console.shell(BOOT).unwrap();
    busy::begin(&mut vm.console, COMMAND).unwrap();
    let (mut audits, mut draw) = (Audits::default(), Draw::by_seed());
    let (mut restarts, mut deaths, mut moves) = (0, 0, 0);
    let wanted = in_run(AUDITS, AUDITS_LONG);
    while audits.took.len() < wanted {
        busy::gap(&mut vm.console, COMMAND).unwrap();
        audits.look(&vm, false);
        let name = RESTARTED[draw.below(RESTARTED.len())];
        match draw.below(4) {
            0 | 1 => {
                let asked = begin(vm.controller().command("restart", &[name]));
                assert!(audits.until_answered(&vm, asked, false), "{name}: {}", vm.console.errors());
                restarts += 1;
            }
            2 => {
                let life = Life::of(&vm, name).unwrap().unwrap();
                assert!(life.kill(), "{name} has ended");
                audits.look(&vm, false);
                await_next(&vm, name, life, Instant::now() + COMMAND).unwrap();
                deaths += 1;
            }
            _ => {
                let next = vm.other_host(COMMAND).unwrap();
                audits.look(&next, false);
                let asked = begin(vm.migration_to(&next, &[]).unwrap());
                assert!(audits.until_answered(&vm, asked, true), "{}", vm.console.errors());
                assert!(vm.console.wait_exit(COMMAND).unwrap().success());
                vm = next;
                moves += 1;
            }
        }
    }
    let requests = busy::end_unnoticed(&mut vm.console, COMMAND).unwrap();
    vm.finish(COMMAND).unwrap();
    let Audits { took, stopped, without } = audits;
    println!(
        "{SEEN}{} audits ({without} of a VM that was gone), {restarts} restarts, {deaths} deaths, {moves} migrations, \
         {requests} requests of the disk: an audit took {}; a process was stopped for {}",
        took.len(),
        Spread::of(took),
        Spread::of(stopped)
    );
}
