// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How fast a guest dirties its memory, as `bulkhead dirty-rate` reports it: one that writes nothing, and one that
//! writes pages which the test knows.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at the first surprise, in its helpers too"
)]

#[expect(dead_code, reason = "the guest of another suite, of which this one needs a part")]
#[path = "faults/monitor.rs"]
mod monitor;
#[expect(dead_code, reason = "this suite starts machines of its own making only")]
mod support;

use monitor::Monitor;
use serde_json::Value;
use support::{COMMAND, programs};
use tests::dirty_rate::measured_over_turns;

/// Pages that the guest writes, again and again.
const PAGE_COUNT: u64 = 8;
const FIRST: u64 = 0x4200_0000;

#[test]
fn measurement_has_the_pages_that_the_guest_writes_and_no_others() {
    let Some(built) = programs() else { return };
    let folder = tempfile::tempdir().unwrap();
    let set = |options: &mut tests::vm::Options| {
        options.programs = built;
        options.arguments = ["--cpu", "soft", "--vcpus", "2"].map(Into::into).to_vec();
    };
    let Some(mut m) = Monitor::start(folder.path(), "dirty-rate", set) else { return };
    m.store64(FIRST, 1);
    assert_eq!(m.load64(FIRST), 1);
    let idle: Value = serde_json::from_str(&m.vm.control_json("dirty-rate").unwrap()).unwrap();
    assert_eq!(idle["page_count"], 0, "{idle}");
    // Twice: what one has taken is not in the next.
    for round in 0..2 {
        let measured = measured_while_writing(&mut m, round);
        assert_eq!(measured["page_count"], PAGE_COUNT, "{measured}");
        let processes = measured["processes"].as_array().unwrap();
        let of = |name: &str| processes.iter().find(|row| row["process"] == name).unwrap();
        assert_eq!((&of("vcpu")["page_count"], &of("vcpu")["seen"]), (&PAGE_COUNT.into(), &"exact".into()));
        assert_eq!((&of("smmu0")["page_count"], &of("smmu0")["seen"]), (&0.into(), &"exact".into()));
    }
    let refused = m.vm.control("dirty-rate", &["--seconds", "0"]).unwrap();
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    m.vm.control_json("pause").unwrap();
    let refused = m.vm.control::<&str>("dirty-rate", &[]).unwrap();
    assert_eq!(refused.status.code(), Some(5), "{refused:?}");
    m.vm.control_json("resume").unwrap();
    m.vm.console.send(".").unwrap();
    assert!(m.vm.console.wait_exit(COMMAND).unwrap().success(), "{}", m.vm.console.errors());
}

/// The result of a measurement during which the guest writes its pages several times.
fn measured_while_writing(m: &mut Monitor, salt: u64) -> Value {
    let controller = m.vm.controller();
    let write = || {
        for page in 0..PAGE_COUNT {
            m.store64(FIRST + page * 0x1000, page + salt);
        }
        // All of it is done.
        assert_eq!(m.load64(FIRST), salt);
    };
    measured_over_turns(&controller, write).unwrap()
}
