// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Why writes are logged by guest physical address: a page that a device wrote is not found by the IOVA any more, once
//! the guest has given that to another page.
//!
//! The guest does so while a round is being sent to a host that is this test ([`crate::another_host`]), which holds the
//! source in the middle of it: between the write and the next harvest the address is reused. What has arrived in the
//! end is compared with the guest's RAM, page for page.

use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::vm::address;
use tests::{SEEN, programs};

use crate::another_host::{AnotherHost, REASON};
use crate::contents::ram;
use crate::support::{self, COMMAND};
use crate::traffic::Traffic;
use crate::unfaithful::Breach;

/// Pages that are written through one address.
const COUNT: u64 = 8;
const VALUE: u64 = 0x1234_5678_9abc_def0;
/// Rounds while the guest runs; the second is held.
const ROUNDS: &str = "5";
/// For how long nothing may be sent before the source counts as held.
const STILL: Duration = Duration::from_millis(500);

/// As shipped.
pub fn by_gpa() {
    let Some(built) = support::programs() else { return };
    let Some((written, missing)) = lost("tracking-gpa", built) else { return };
    assert_eq!(missing, [0; 0], "of the pages {written:#x?}");
    println!("{SEEN}{COUNT} pages were written by DMA through one address in one round: each has arrived");
}

/// With a log of IOVAs.
pub fn by_iova() {
    let Some(built) = support::programs() else { return };
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join("programs");
    programs::folder_without(Some("bulkhead-vfio"), &built, &own).unwrap();
    Breach::LogByIova.write(&own.join("bulkhead-vfio"));
    let Some((written, missing)) = lost("tracking-iova", own) else { return };
    let still_mapped = *written.last().unwrap();
    let unmapped: Vec<u64> = written.into_iter().filter(|page| *page != still_mapped).collect();
    assert_eq!(missing, unmapped);
    println!("{SEEN}with a log of IOVAs {} of {COUNT} pages are missing", missing.len());
}

/// Which pages a device wrote through one address while a guest with these programs was migrated, and which pages of
/// all its RAM did not arrive. Nothing, where the suite has to skip.
fn lost(name: &str, programs: PathBuf) -> Option<(Vec<u64>, Vec<u64>)> {
    let mut traffic = Traffic::start_with(name, programs)?;
    traffic.round();
    let socket = traffic.folder().join("host");
    let host = AnotherHost::listen_and_hold(&socket, ram(&traffic));
    let to = address(&socket);
    let arguments = ["--to", &to, "--lanes", "1", "--downtime-limit", "0", "--max-rounds", ROUNDS];
    let (mut is_accepted, mut written) = (false, Vec::new());
    let output = traffic.during("migrate", &arguments, |traffic| {
        if !is_accepted && host.is_asked() {
            host.go_on();
            is_accepted = true;
        }
        if written.is_empty() && host.holds() {
            await_held(traffic);
            written = traffic.write_by_reused_address(COUNT, VALUE);
            host.go_on();
        }
        sleep(Duration::from_millis(2));
    });
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains(REASON), "{said}");
    assert_eq!(written.len() as u64, COUNT, "the source was never held: {said}");
    let received = host.received();
    traffic.settle();
    traffic.end();
    let page = |number: usize| 0x4000_0000 + 0x1000 * number as u64;
    Some((written, received.missing.into_iter().map(page).collect()))
}

/// Waits until no round ends any more: CPU 1 dirties more in each than a socket takes.
fn await_held(traffic: &Traffic) {
    let rounds = || -> Value {
        let status: Value = serde_json::from_str(&traffic.m.vm.control_json("status").unwrap()).unwrap();
        status["migration"]["round_count"].clone()
    };
    let until = Instant::now() + COMMAND;
    let (mut seen, mut since) = (rounds(), Instant::now());
    while since.elapsed() < STILL {
        assert!(Instant::now() < until, "rounds end though nobody reads: {seen}");
        sleep(Duration::from_millis(20));
        let now = rounds();
        if now != seen {
            (seen, since) = (now, Instant::now());
        }
    }
}
