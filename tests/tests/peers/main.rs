// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Peers that stop, slow down, or flood: what one process does or leaves undone costs its own device and nobody else.
//!
//! A machine with two NVMe devices. The first is the neighbour: the guest here, a monitor that the test drives, maps
//! pages for it, waits for the SMMU, and has it read and write. The processes of the second are stopped, slowed, or
//! another program that floods whatever it shares with others. Each time the neighbour's I/O goes on, the machine can
//! be inspected, paused, resumed and stopped, and the device that fails is named with a reason. In `messages.rs` the
//! moment is any message of any process. One in `wider.rs` does nothing to others, and could do more than it may.
//!
//! The hostile program has to be a static program in the place of `bulkhead-vfio`, so this one plays both parts, as the
//! hostile device of the coordinator's tests does: what it does is a byte in the copy that the test makes of itself. In
//! the place of `bulkhead-nvme` it is the one of `wider.rs`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at the first surprise, in its helpers too"
)]

mod hostile;
mod machine;
mod messages;
#[expect(dead_code, reason = "the guest of another suite, of which this one needs a part")]
#[path = "../faults/monitor.rs"]
mod monitor;
#[expect(dead_code, reason = "its driver")]
#[path = "../faults/nvme.rs"]
mod nvme;
#[expect(dead_code, reason = "its driver")]
#[path = "../faults/smmu.rs"]
mod smmu;
#[expect(dead_code, reason = "this suite starts machines of its own making only")]
#[path = "../support/mod.rs"]
mod support;
#[expect(dead_code, reason = "another suite counts while its machine lives")]
mod tracer;
mod wider;

use machine::Machine;
use std::time::Duration;

/// By name, as test runners ask for them.
const TESTS: [(&str, fn()); 7] = [
    ("stopped_process_of_a_device_costs_that_device_alone", stopped),
    ("slowed_processes_of_a_device_cost_nobody_anything_but_time", slowed),
    ("hostile_process_of_a_device_costs_that_device_alone", flooded),
    ("killed_process_of_a_device_costs_that_device_alone", killed),
    ("process_that_has_sealed_itself_otherwise_than_its_profile_is_named_by_audit", wider::named),
    ("device_whose_process_ends_or_stops_at_any_message_is_lost_alone", messages::devices),
    ("machine_whose_process_ends_or_stops_at_any_message_says_so_and_ends", messages::machines),
];

fn main() {
    let words: Vec<String> = std::env::args().collect();
    if words.first().is_some_and(|word| word == "bulkhead-vfio") {
        return hostile::main(&words[1], words[2].parse().unwrap(), &words[3..]);
    }
    if words.first().is_some_and(|word| word == "bulkhead-nvme") {
        return wider::main();
    }
    tests::runner::run(&words, &TESTS);
}

/// The device is lost for a reason, and the neighbour goes on.
fn assert_lost(machine: &mut Machine, reason: &str) {
    machine.neighbour_works();
    assert!(machine.victim_is_lost());
    machine.neighbour_works();
    machine.await_report("vfio1", &[reason]);
}

fn stopped() {
    for (process, reason) in
        [("vfio1", "CMD_SYNC waiting"), ("nvme1", "deadline passed while waiting to receive its reply")]
    {
        let Some(mut machine) = Machine::start(&format!("stopped-{process}"), None) else { return };
        machine.signal(process, rustix::process::Signal::STOP);
        machine.neighbour_works();
        assert!(machine.victim_is_lost());
        machine.neighbour_works();
        // On a busy host the coordinator may find that it hangs before whoever waits for it does.
        machine.await_report("vfio1", &[reason, "it hangs"]);
        // The one has been ended, the other one is only stopped.
        machine.can_be_looked_at();
        machine.end();
    }
}

fn slowed() {
    let Some(mut machine) = Machine::start("slowed", None) else { return };
    assert!(machine.victim_works());
    for process in ["vfio1", "nvme1"] {
        machine.slow(process, Duration::from_millis(60), Duration::from_millis(20));
    }
    for _ in 0..3 {
        machine.neighbour_works();
        assert!(machine.victim_works(), "it answers late, and that is all");
        machine.can_be_looked_at();
    }
    machine.end();
}

fn flooded() {
    for (script, reason) in hostile::SCRIPTS {
        let name = format!("hostile-{}", char::from(script));
        let Some(mut machine) = Machine::start(&name, Some(script)) else { return };
        println!("script {}", char::from(script));
        assert_lost(&mut machine, reason);
        machine.can_be_looked_at();
        machine.end();
    }
}

fn killed() {
    let Some(mut machine) = Machine::start("killed", None) else { return };
    machine.signal("vfio1", rustix::process::Signal::KILL);
    assert_lost(&mut machine, "killed by signal 9");
    machine.can_be_looked_at();
    machine.end();
}
