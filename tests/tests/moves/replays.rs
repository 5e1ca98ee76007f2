// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Why stage 1 is replayed, and before anything runs: a stock Linux that writes and verifies on its disk moves to a
//! host as shipped and notices nothing, and from there to one that does otherwise ([`crate::unfaithful`]), which it
//! notices.

use std::time::{Duration, Instant};

use tests::disk::{self, work};
use tests::vm::Vm;
use tests::{SEEN, programs};

use crate::support::{self, COMMAND, launch_at_shell};
use crate::unfaithful::Breach;

const MIB: u64 = 32;
/// How long the guest waits for its disk before it complains, in milliseconds: that of Linux is half a minute.
const IO_TIMEOUT_MS: u64 = 5000;

/// Nothing is attached.
pub fn left_out() {
    run("replay-left-out", "bulkhead-vfio", Breach::NoReplay);
}

/// Devices and CPUs run before anything is attached.
pub fn late() {
    run("replay-late", "bulkhead-smmu", Breach::LateReplay);
}

fn run(name: &str, program: &str, breach: Breach) {
    let Some(built) = support::programs() else { return };
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join("programs");
    programs::folder_without(Some(program), &built, &own).unwrap();
    breach.write(&own.join(program));
    let image = disk::image(&folder, MIB).unwrap();
    let set = |options: &mut tests::vm::Options| {
        options.memory = "256M".into();
        options.nvme = vec![image];
    };
    let Some(mut vm) = launch_at_shell(name, set) else { return };
    work::begin(&mut vm.console, COMMAND).unwrap();
    vm.console.output("dmesg -c >/dev/null", COMMAND).unwrap();
    let next = vm.other_host(COMMAND).unwrap();
    vm = moved(vm, next);
    for _ in 0..2 {
        work::another_round(&mut vm.console, COMMAND).unwrap();
    }
    assert_eq!(noticed(&mut vm), "", "as shipped");
    let patience = format!("echo {IO_TIMEOUT_MS} > /sys/block/nvme0n1/queue/io_timeout");
    vm.console.output(&patience, COMMAND).unwrap();
    let next = vm.other_host_with(COMMAND, |options| options.programs = own).unwrap();
    vm = moved(vm, next);
    let until = Instant::now() + COMMAND;
    let seen = loop {
        let seen = noticed(&mut vm);
        if !seen.is_empty() {
            break seen;
        }
        assert!(Instant::now() < until, "{breach:?}, and the guest goes on as if nothing were");
        std::thread::sleep(Duration::from_millis(200));
    };
    println!("{SEEN}{breach:?}: the guest says: {}", seen.lines().next().unwrap_or_default());
    // Its disk may never answer: it does not switch itself off.
    vm.control_json("stop").unwrap();
    vm.console.wait_exit(COMMAND).unwrap();
}

/// To this host, which says that all is well.
fn moved(mut vm: Vm, next: Vm) -> Vm {
    let answer = vm.migrate_to(&next, &[]).unwrap();
    assert!(answer.status.success(), "{answer:?}\n{}", next.console.errors());
    assert!(vm.console.wait_exit(COMMAND).unwrap().success(), "{}", vm.console.errors());
    next
}

/// What the guest has noticed: what it has not read as it was written, or not written, and every word of its drivers
/// since they found the disk.
fn noticed(vm: &mut Vm) -> String {
    let failed = vm.console.output("grep FAILED /tmp/rounds || true", COMMAND).unwrap();
    let drivers = vm.console.output("dmesg | grep -iE 'nvme|smmu' || true", COMMAND).unwrap();
    [failed, drivers].concat().trim().to_owned()
}
