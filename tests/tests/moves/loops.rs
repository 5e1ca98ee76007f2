// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Save/restores that succeed: many in turn, and one looked at closely.

use std::process::Output;
use std::time::{Duration, Instant};

use tests::{SEEN, Spread, in_run};

use crate::traffic::Traffic;

/// How often the guest moves: in the long run, and else.
const MOVES_IN_LONG: u64 = 1000;
const MOVES: u64 = 30;

/// Whatever is in flight comes once, however often the guest moves.
pub fn everything_in_flight() {
    let Some(mut traffic) = Traffic::start("moves-traffic") else { return };
    traffic.round();
    let count = in_run(MOVES, MOVES_IN_LONG);
    let (mut spans, mut downtimes) = (Vec::new(), Vec::new());
    for turn in 1..=count {
        let begun = Instant::now();
        let mut ended = begun;
        let output = traffic.during("save-restore", &[], |traffic| {
            traffic.round();
            ended = Instant::now();
        });
        let moved = answer(&output);
        assert_eq!(moved["generation"], turn + 1, "{moved}");
        assert_eq!(traffic.stops(), [turn; 2], "each device was stopped once for each move");
        // A round may end at the stop. What was sent then is taken before the next one sends the same: two messages of
        // a vector of which none is taken are one.
        traffic.settle();
        spans.push(ended - begun);
        downtimes.push(Duration::from_micros(moved["downtime_us"].as_u64().unwrap()));
    }
    traffic.round();
    let counted = traffic.end();
    println!(
        "{SEEN}{count} moves, each with the guest's rounds beside it: {}; the guest stood still for: {}",
        Spread::of(spans),
        Spread::of(downtimes)
    );
    println!("{SEEN}{counted}");
}

/// What is signalled between the CPUs' pause and the save comes once, on either side.
pub fn signals_of_the_pause() {
    let Some(mut traffic) = Traffic::start("moves-signals") else { return };
    traffic.round();
    for turn in 1..=5 {
        traffic.await_quiet();
        // A pause alone: what came in it waits for the CPUs, is counted, and is in nobody else's hands.
        traffic.m.vm.control_json("pause").unwrap();
        assert_eq!(traffic.stops(), [2 * turn - 1; 2]);
        let ([vectors, pins], others) = traffic.in_flight();
        assert!(vectors >= 1 && pins >= 1 && others == 0, "{vectors} vectors, {pins} pins, {others} others");
        traffic.m.vm.control_json("resume").unwrap();
        traffic.settle();
        // The same, and the other side is another set of processes. The guest waits for its console meanwhile: CPU 1
        // alone works.
        let moved = traffic.m.vm.control_json("save-restore").unwrap();
        assert!(moved.contains(&format!("\"generation\": {}", turn + 1)), "{moved}");
        assert_eq!(traffic.stops(), [2 * turn; 2]);
        traffic.settle();
        traffic.await_quiet();
        traffic.round();
    }
    println!("{SEEN}5 pauses and 5 moves; {}", traffic.end());
}

fn answer(output: &Output) -> serde_json::Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}
