// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A process that keeps dying, or that asks: the guest is held, users are told why, and an order brings it back, into
//! another program if that is wanted.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test stops at the first surprise, in its helpers too"
)]

mod support;

use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Lab, Vm, guest, signal};

/// What the guest's CPU has executed.
fn instructions(lab: &Lab) -> u64 {
    let all = lab.json(&["inspect", "--json"]);
    let row = all.as_array().unwrap().iter().find(|row| row["process"] == "vcpu").unwrap().clone();
    row["values"]["vcpu0.instructions"].as_u64().unwrap()
}

/// The guest is held, and executes nothing.
fn assert_held(lab: &Lab) -> Value {
    let status = lab.json(&["status", "--json"]);
    assert_eq!(status["phase"], "held", "{status}");
    // A CPU that was called out of guest code may be on its way for a moment.
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut before = instructions(lab);
    loop {
        let now = instructions(lab);
        if now == before {
            return status;
        }
        assert!(Instant::now() < deadline, "it executes: {before}, {now}");
        before = now;
    }
}

/// What a command that is refused says.
fn refused(lab: &Lab, words: &[&str]) -> String {
    let refused = lab.bulkhead(words);
    assert!(!refused.status.success(), "{words:?}: {refused:?}");
    String::from_utf8(refused.stderr).unwrap()
}

/// The guest goes on, and what it counts is right.
fn assert_goes_on(vm: &mut Vm<'_>) {
    vm.drain();
    let output = vm.output_of(200);
    assert!(!output.contains(&b'!'), "{}", String::from_utf8_lossy(&output));
}

fn stop(vm: Vm<'_>) {
    let lab = vm.lab;
    assert!(lab.bulkhead(&["stop"]).status.success());
    let (status, _, log) = vm.end();
    assert_eq!(status.code(), Some(0), "{log}");
    assert_eq!(lab.left_behind(), Vec::<String>::new());
}

#[test]
fn vsmmu_that_keeps_dying_running_or_paused_has_the_guest_held_until_it_is_restarted() {
    let Some(lab) = Lab::new() else { return };
    let kernel = lab.file("Image", &guest::counts_for_ever());
    let mut vm = lab.start(&kernel, &["--smmu-restarts-per-minute", "3", "--name", "held"]);
    vm.await_running();
    for (generation, phase) in [(2, "running"), (3, "paused"), (4, "running")] {
        let moves = if phase == "paused" { "pause" } else { "resume" };
        assert!(lab.bulkhead(&[moves]).status.success());
        signal(vm.pid("smmu0"), "KILL");
        vm.await_log("smmu0 goes on where it died");
        let row = vm.process("smmu0");
        assert_eq!((&row["generation"], &row["state"]), (&generation.into(), &phase.into()), "{row}");
        assert_eq!(row["restart"], "starts anew");
    }
    let shown = String::from_utf8(lab.bulkhead(&["status"]).stdout).unwrap();
    assert!(shown.contains("smmu0 has died 3 times") && shown.contains("signal 9"), "{shown}");

    signal(vm.pid("smmu0"), "KILL");
    let line = vm.await_log("the guest is held");
    let way_out = "`bulkhead restart smmu0 held` starts it from its checkpoint";
    for words in ["killed by signal 9", "it has died 4 times within 60 s", way_out, "`bulkhead stop held`"] {
        assert!(line.contains(words), "{line}");
    }
    let status = assert_held(&lab);
    let held = &status["held"];
    assert_eq!((&held["process"], &held["missing"]), (&"smmu0".into(), &vec!["smmu0"].into()), "{status}");
    assert_eq!(held["deaths_per_minute"], 4);
    let shown = String::from_utf8(lab.bulkhead(&["status"]).stdout).unwrap();
    assert!(shown.contains("held for smmu0: ") && shown.contains(way_out), "{shown}");
    let row = vm.process("smmu0");
    assert_eq!((&row["state"], &row["pid"]), (&"dead".into(), &0.into()), "{row}");
    for words in [&["pause"][..], &["resume"], &["save-restore"], &["restart", "vcpu"], &["dirty-rate"]] {
        let said = refused(&lab, words);
        assert!(
            said.contains("the guest is held: ") && said.contains("`bulkhead restart smmu0 NAME`"),
            "{said}"
        );
    }

    let done = lab.bulkhead(&["restart", "smmu0"]);
    assert!(done.status.success(), "{done:?}");
    let said = String::from_utf8(done.stdout).unwrap();
    assert!(said.starts_with("smmu0: generation 5 runs, and the guest goes on"), "{said}");
    assert_goes_on(&mut vm);
    let status = lab.json(&["status", "--json"]);
    assert_eq!((&status["phase"], &status["held"]), (&"running".into(), &Value::Null), "{status}");
    // The count has begun anew.
    signal(vm.pid("smmu0"), "KILL");
    vm.await_log("smmu0 goes on where it died");
    assert_goes_on(&mut vm);
    stop(vm);
}

#[test]
fn process_that_asks_is_restarted_by_order_only_and_one_that_cannot_begin_leaves_the_guest_held() {
    let Some(lab) = Lab::new() else { return };
    let kernel = lab.file("Image", &guest::counts_for_ever());
    let image = lab.file("disk.img", &[0; 1 << 20]);
    let words = ["--nvme", image.to_str().unwrap(), "--device-restart", "ask", "--smmu-restart", "ask"];
    let mut vm = lab.start(&kernel, &words);
    vm.await_running();
    assert_eq!(vm.process("nvme0")["restart"], "the guest is held");
    signal(vm.pid("nvme0"), "KILL");
    let line = vm.await_log("the guest is held");
    assert!(line.contains("it is started anew by order only (`restart = \"ask\"`)"), "{line}");
    let status = assert_held(&lab);
    let mut missing: Vec<&str> =
        status["held"]["missing"].as_array().unwrap().iter().map(|it| it.as_str().unwrap()).collect();
    missing.sort_unstable();
    assert_eq!(missing, ["nvme0", "vfio0"], "{status}");

    // A program of another role ends at its greeting.
    let other = lab.path("bulkhead-smmu");
    let said = refused(&lab, &["restart", "nvme0", "--program", other.to_str().unwrap()]);
    assert!(said.contains("nvme0 is started with the program of a smmu"), "{said}");
    assert_held(&lab);
    let missing = lab.path("no-such-program");
    let said = refused(&lab, &["restart", "nvme0", "--program", missing.to_str().unwrap()]);
    assert!(said.contains("no such program"), "{said}");
    assert_held(&lab);

    // Its own, given as another one.
    let own = lab.path("bulkhead-nvme");
    let done = lab.bulkhead(&["restart", "nvme0", "--program", own.to_str().unwrap()]);
    assert!(done.status.success(), "{done:?}");
    assert_goes_on(&mut vm);
    assert_eq!(
        lab.json(&["status", "--json"])["programs"]["nvme0"],
        own.canonicalize().unwrap().to_str().unwrap()
    );

    signal(vm.pid("smmu0"), "KILL");
    vm.await_log("the guest is held");
    // Another process dies meanwhile: both come back by one order.
    signal(vm.pid("vfio0"), "KILL");
    vm.await_log("it is started anew by order only");
    assert_eq!(assert_held(&lab)["held"]["missing"].as_array().unwrap().len(), 3);
    assert!(lab.bulkhead(&["restart", "smmu0"]).status.success());
    assert_goes_on(&mut vm);
    stop(vm);
}

#[test]
fn held_vm_stops_and_leaves_nothing() {
    let Some(lab) = Lab::new() else { return };
    let kernel = lab.file("Image", &guest::counts_for_ever());
    let mut vm = lab.start(&kernel, &["--smmu-restart", "ask"]);
    vm.await_running();
    signal(vm.pid("smmu0"), "KILL");
    vm.await_log("the guest is held");
    assert_held(&lab);
    stop(vm);
}
