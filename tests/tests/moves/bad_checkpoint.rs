// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A disk whose controller has a fault that its own checkpoint brings out: each next life dies of it, until one is
//! spared the checkpoint, and begins as a controller that has failed. The guest's driver resets that, and goes on.

use std::time::{Duration, Instant};

use tests::crash::Life;
use tests::disk::{self, work};
use tests::{SEEN, programs};

use crate::support::{self, COMMAND, launch_at_shell};
use crate::unfaithful::Breach;

const MIB: u64 = 32;
/// For how long the guest waits for its disk; by default that is half a minute.
const IO_TIMEOUT_MS: u32 = 2000;
const GIVEN_UP: &str = "3 lives of nvme0 have died on its checkpoint";

pub fn reset() {
    let Some(built) = support::programs() else { return };
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join("programs");
    programs::folder_without(Some("bulkhead-nvme"), &built, &own).unwrap();
    Breach::BadCheckpoint.write(&own.join("bulkhead-nvme"));
    let image = disk::image(&folder, MIB).unwrap();
    let set = |options: &mut tests::vm::Options| {
        options.nvme = vec![image];
        options.programs = own;
    };
    let Some(mut vm) = launch_at_shell("bad-checkpoint", set) else { return };
    let patience = format!("echo {IO_TIMEOUT_MS} > /sys/block/nvme0n1/queue/io_timeout");
    vm.console.output(&patience, COMMAND).unwrap();
    work::begin(&mut vm.console, COMMAND).unwrap();
    let begun = Instant::now();
    assert!(Life::of(&vm, "nvme0").unwrap().unwrap().kill());
    while !vm.console.errors().contains(GIVEN_UP) {
        assert!(begun.elapsed() < COMMAND, "{}", vm.console.errors());
        std::thread::sleep(Duration::from_millis(50));
    }
    // Twice: the first may have been under way.
    work::another_round(&mut vm.console, COMMAND).unwrap();
    work::another_round(&mut vm.console, COMMAND).unwrap();
    let took = begun.elapsed();
    let said = vm.console.output("dmesg | grep 'controller is down; will reset: CSTS=0x2'", COMMAND).unwrap();
    // Not a byte of what it wrote is lost: the driver has ordered again what was under way.
    work::end(&mut vm.console, COMMAND).unwrap();
    vm.finish(COMMAND).unwrap();
    println!("{SEEN}the guest says {:?}; it works again after {} ms", said.trim(), took.as_millis());
}
