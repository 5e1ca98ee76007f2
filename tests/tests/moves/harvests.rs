// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The truth of the dirty logs, over moves: what `bulkhead dirty-rate` counts is what was written, page for page.
//!
//! In each round both CPUs and a device write, into a pool of pages that each draws from anew. The test knows every
//! page, so it holds each process's count, and that of all together, against the sets and their union. Then the guest
//! moves, and the logs are those of other processes.

use std::collections::BTreeSet;

use serde_json::Value;
use tests::SEEN;
use tests::dirty_rate::measured_over_turns;

use crate::code::worker_pages;
use crate::traffic::{POOL_COUNT, Traffic};

const ROUNDS: u64 = 5;
/// Pages that each of them draws.
const DRAWN: usize = 16;

/// No page that was written is missing.
pub fn truth() {
    let Some(mut traffic) = Traffic::start("moves-harvests") else { return };
    traffic.round();
    let mut random = Random(0x1234_5678_9abc_def1);
    let (mut written_in_all, mut counted_in_all) = (0, 0);
    for round in 0..ROUNDS {
        let (by_cpu, by_device) = (random.pages(), random.pages());
        let measured = measure(&mut traffic, &by_cpu, &by_device, round);
        let cpus: BTreeSet<u64> =
            by_cpu.iter().map(|page| Traffic::pool(*page).gpa).chain(worker_pages()).collect();
        let device: BTreeSet<u64> = by_device.iter().map(|page| Traffic::pool(*page).gpa).collect();
        let all = cpus.union(&device).count();
        for (process, written) in [("vcpu", cpus.len()), ("vfio1", device.len()), ("smmu0", 0)] {
            let row = row(&measured, process);
            let counted = (row["page_count"].as_u64().unwrap(), row["seen"].as_str().unwrap());
            assert_eq!(counted, (written as u64, "exact"), "{process} in round {round}: {measured}");
        }
        let counted = measured["page_count"].as_u64().unwrap();
        assert!(counted >= all as u64, "{all} pages were written in round {round}: {measured}");
        (written_in_all, counted_in_all) = (written_in_all + all as u64, counted_in_all + counted);
        let moved = traffic.m.vm.control_json("save-restore").unwrap();
        assert!(moved.contains(&format!("\"generation\": {}", round + 2)), "{moved}");
        traffic.settle();
    }
    println!(
        "{SEEN}{ROUNDS} harvests with a move behind each: {written_in_all} pages written, {counted_in_all} in the logs, {} of them \
         not changed",
        counted_in_all - written_in_all
    );
    traffic.end();
}

/// What is measured while all of it is written several times.
fn measure(traffic: &mut Traffic, by_cpu: &[u64], by_device: &[u64], round: u64) -> Value {
    let controller = traffic.m.vm.controller();
    let mut turn = 0;
    let write = || {
        turn += 1;
        for page in by_cpu {
            traffic.write_by_cpu(*page, round << 32 | turn);
        }
        for page in by_device {
            traffic.write_by_device(*page, round << 32 | turn);
        }
    };
    measured_over_turns(&controller, write).unwrap()
}

fn row<'a>(measured: &'a Value, process: &str) -> &'a Value {
    let rows = measured["processes"].as_array().unwrap();
    rows.iter().find(|row| row["process"] == process).unwrap_or_else(|| panic!("{process}: {measured}"))
}

/// xorshift64 (Marsaglia).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Pages of the pool, each once.
    fn pages(&mut self) -> Vec<u64> {
        let mut pages = BTreeSet::new();
        while pages.len() < DRAWN {
            pages.insert(self.next() % POOL_COUNT);
        }
        pages.into_iter().collect()
    }
}
