// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest that writes its memory faster than a slow link carries it: it moves when its CPUs are slowed down, and is as
//! fast as before if it stays.

use serde_json::Value;
use tests::SEEN;
use tests::vm::Vm;

use crate::matrix::{answer_of, begin, socket_of};
use crate::relay::{Relay, until};
use crate::support::COMMAND;
use crate::{machine, number};

/// Of the link, in bytes.
const PER_SECOND: u64 = 8 << 20;
/// It writes 16 MiB over and over, in about a second, which take the link two.
const DIRTY: &str = "dd if=/dev/urandom of=/tmp/pages bs=64k count=256 2>/dev/null; \
    (while [ ! -e /tmp/stop ]; do dd if=/tmp/pages of=/tmp/written bs=64k conv=notrunc 2>/dev/null; \
    done >/tmp/notes 2>&1; cmp /tmp/pages /tmp/written >>/tmp/notes 2>&1 || echo memory FAILED >>/tmp/notes) & \
    sleep 0";
const LIMIT: &[&str] = &["--lanes", "1", "--downtime-limit", "100", "--give-up"];

/// A migration over the link.
fn moved(vm: &Vm, next: &Vm, arguments: &[&str]) -> std::process::Output {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::slow(folder.path(), &socket_of(next), PER_SECOND);
    answer_of(begin(vm, &relay.address(), &[LIMIT, arguments].concat()))
}

fn throttle(vm: &Vm) -> u64 {
    vm.counter("throttle.percent").unwrap()
}

#[test]
fn guest_that_writes_faster_than_the_link_moves_when_its_cpus_are_slowed_down() {
    let Some(mut vm) = machine("throttle", |options| options.memory = "128M".into()) else { return };
    vm.console.output(DIRTY, COMMAND).unwrap();
    // Slowed down, and given up: it has all of its time again.
    let mut next = vm.other_host(COMMAND).unwrap();
    let stays = moved(&vm, &next, &["--max-rounds", "3", "--throttle"]);
    let said = String::from_utf8_lossy(&stays.stderr).into_owned();
    assert!(!stays.status.success() && said.contains("after 3 rounds"), "{stays:?}");
    assert!(!next.console.wait_exit(COMMAND).unwrap().success());
    let log = vm.console.errors();
    assert!(log.contains("slowed down by 20 %") && log.contains("all of their time again"), "{log}");
    assert!(until(COMMAND, || throttle(&vm) == 0), "{}", throttle(&vm));

    let mut next = vm.other_host(COMMAND).unwrap();
    let moves = moved(&vm, &next, &["--max-rounds", "30", "--throttle"]);
    assert!(moves.status.success(), "{moves:?}");
    let report: Value = serde_json::from_slice(&moves.stdout).unwrap();
    assert!(number(&report, "throttle_percent") >= 20, "{report}");
    assert!(vm.console.wait_exit(COMMAND).unwrap().success());
    // There it is not slowed down, and nothing is lost.
    assert_eq!(throttle(&next), 0);
    next.console.output("touch /tmp/stop; sleep 1", COMMAND).unwrap();
    assert_eq!(next.console.output("grep FAILED /tmp/notes || true", COMMAND).unwrap(), "");
    next.power_off(COMMAND).unwrap();
    println!(
        "{SEEN}{} rounds, CPUs slowed down by {} %, stood still for {} ms",
        report["rounds"].as_array().unwrap().len(),
        report["throttle_percent"],
        number(&report, "downtime_us") / 1000
    );
}
