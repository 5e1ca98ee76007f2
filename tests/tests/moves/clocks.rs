// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest's clocks over migrations: its counter never goes back and never counts more than the time that passes; it is
//! behind by what the guest stood still. Its real-time clock is the host's, which it can set its date by.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tests::SEEN;

use crate::code::{self, COUNTER};
use crate::monitor::Monitor;
use crate::support::{COMMAND, programs};

/// Migrations.
const MOVES: u32 = 4;
/// The counter's frequency, and the data register of the PL031 (DDI 0224 section 3.3.1).
const HZ: u64 = 62_500_000;
const RTC_DATA: u64 = 0x0901_0000;

/// By the guest's own counter and clock.
pub fn go_on() {
    let Some(built) = programs() else { return };
    let folder = tempfile::Builder::new().prefix("bulkhead-moves-").tempdir().unwrap();
    let set = |options: &mut tests::vm::Options| {
        options.programs = built;
        options.arguments = ["--cpu", "soft"].map(Into::into).to_vec();
    };
    let Some(mut m) = Monitor::start(folder.path(), "moves-clocks", set) else { return };
    code::write(&mut m);
    let begun = Instant::now();
    let first = m.call(COUNTER, 0);
    let (mut counter, mut stood) = (first, Duration::ZERO);
    for _ in 0..MOVES {
        let next = m.vm.other_host(COMMAND).unwrap();
        let before = m.call(COUNTER, 0);
        assert!(before >= counter, "{before} behind {counter}");
        let answer = m.vm.migrate_to(&next, &["--json"]).unwrap();
        assert!(answer.status.success(), "{answer:?}");
        let report: serde_json::Value = serde_json::from_slice(&answer.stdout).unwrap();
        stood += Duration::from_micros(report["downtime_us"].as_u64().unwrap());
        assert!(m.vm.console.wait_exit(COMMAND).unwrap().success());
        m.vm = next;
        counter = m.call(COUNTER, 0);
        assert!(counter >= before, "{counter} behind {before}, over a migration");
    }
    let counted = Duration::from_nanos((counter - first) * (1_000_000_000 / HZ));
    let passed = begun.elapsed();
    assert!(counted <= passed, "{counted:?} in {passed:?}");
    // In whole seconds, of which one may have begun in between.
    let seconds = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let before = seconds();
    let shown = u64::from(m.load32(RTC_DATA));
    assert!((before.saturating_sub(1)..=seconds()).contains(&shown), "{shown}, and it is {before}");
    println!(
        "{SEEN}{MOVES} migrations: the guest has counted {counted:.1?} in {passed:.1?}, and stood still for {stood:.1?}"
    );
    m.vm.console.send(".").unwrap();
    assert!(m.vm.console.wait_exit(COMMAND).unwrap().success(), "{}", m.vm.console.errors());
    assert_eq!(m.vm.left_over(), [""; 0]);
}
