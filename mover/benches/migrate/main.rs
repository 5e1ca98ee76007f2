// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What two movers carry in a second, beside bare connections of the same kind and number; and how long a guest would
//! stand still that writes its memory at some rate, beside its last pages at the rate of the bare connections.
//!
//! Everything is in one process, over loopback TCP: the movers without their sandbox, which costs them nothing per
//! byte, and their coordinators. Memory is random, so that no page is zero. A mover reads guest RAM, sums it, and
//! writes it to pages that the host has to make first. So do the bare connections, but for the sums: they are the
//! limit of a network that is as fast as memory, and what counts. Those of a slower one are beside them as they are,
//! with a buffer that is written over and over. All are measured in turn, and the median of the ratios counts. A
//! thread stands for the guest: it writes pages drawn from all of RAM, a word each, at a rate that is tried at any
//! machine, and notes them as a dirty log would. What packing (`--compress`) costs and saves is measured with that
//! memory, of which nothing becomes shorter, and with this program's own bytes.
//!
//! `cargo bench -p mover --bench migrate`; run by `cargo xtask bench migrate`.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a bench stops at the first surprise")]

mod bare;
mod identity;
mod pair;
mod writer;

use std::time::Duration;

use bare::Kind;
use ipc::protocol::mover::Packing;
use ipc::shm::region::Region;
use pair::Pair;
use writer::Writer;

/// Guest RAM, which is also what is sent.
pub const RAM_LEN: u64 = 512 << 20;
/// How often each is measured.
const TURNS: usize = 5;
const LANES: [u8; 3] = [1, 2, 4];
const RATE_GOAL: f64 = 0.8;

/// Pages that the guest writes in a second.
const RATES: [u64; 6] = [0, 10_000, 50_000, 100_000, 200_000, 400_000];
/// As `bulkhead migrate` has them by default.
const DOWNTIME_LIMIT: Duration = Duration::from_millis(300);
const ROUNDS_MAX: u32 = 30;
const DOWNTIME_GOAL: Duration = Duration::from_millis(10);

fn main() {
    println!("{} MiB of random memory, median of {TURNS} turns", RAM_LEN >> 20);
    println!(
        "{:<8}{:>6}{:>16}{:>16}{:>16}{:>10}{:>11}",
        "", "lanes", "a buffer", "memory", "movers", "of that", "of memory"
    );
    for kind in [Kind::Plain, Kind::Tls] {
        for lanes in LANES {
            rate(kind, lanes);
        }
    }
    println!("{:<8}{:>6}{:>16}{:>16}{:>8}{:>12}", "packed", "lanes", "plain", "packed", "ratio", "travels");
    for lanes in LANES {
        packed("random", None, lanes);
        packed("program", Some(&std::fs::read("/proc/self/exe").unwrap()), lanes);
    }
    println!(
        "A guest that writes, over 2 plain lanes; limit of the downtime {} ms, {ROUNDS_MAX} rounds at most",
        DOWNTIME_LIMIT.as_millis()
    );
    println!(
        "{:>10}{:>8}{:>12}{:>14}{:>14}{:>10}",
        "pages/s", "rounds", "last pages", "last round", "at bare rate", "above"
    );
    for rate in RATES {
        downtime(rate);
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Bytes in a second.
fn per_second(len: u64, took: Duration) -> f64 {
    len as f64 / took.as_secs_f64()
}

/// The rate of bare connections between RAM and RAM that is fresh.
fn memory_to_memory(kind: Kind, lanes: u8, pair: &Pair) -> f64 {
    let fresh = Region::create("fresh", RAM_LEN).unwrap();
    per_second(RAM_LEN, bare::carry(kind, lanes, RAM_LEN, Some([&pair.ram(), fresh.file()])))
}

fn rate(kind: Kind, lanes: u8) {
    let (mut bare, mut filled, mut moved) = (Vec::new(), Vec::new(), Vec::new());
    let (mut of_filled, mut of_bare) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        bare.push(per_second(RAM_LEN, bare::carry(kind, lanes, RAM_LEN, None)));
        let mut pair = Pair::new(kind, lanes, Packing::Plain);
        pair.owe_all();
        let (report, took) = pair.round(0);
        moved.push(per_second(report.sent_len, took));
        filled.push(memory_to_memory(kind, lanes, &pair));
        of_filled.push(moved[moved.len() - 1] / filled[filled.len() - 1]);
        of_bare.push(moved[moved.len() - 1] / bare[bare.len() - 1]);
        pair.end();
    }
    let ratio = median(of_filled);
    let verdict = if ratio >= RATE_GOAL { "ok" } else { "MISSED" };
    println!(
        "{:<8}{lanes:>6}{:>11.0} MB/s{:>11.0} MB/s{:>11.0} MB/s{:>10.2}{ratio:>11.2} (goal: {RATE_GOAL}): {verdict}",
        kind.as_str(),
        median(bare) / 1e6,
        median(filled) / 1e6,
        median(moved) / 1e6,
        median(of_bare),
    );
}

/// Pages that are carried as they are and packed, and how much of them travels.
fn packed(what: &str, content: Option<&[u8]>, lanes: u8) {
    let (mut plain, mut packed, mut ratios, mut travels) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..TURNS {
        let [(_, unpacked), (sent_len, shorter)] = [Packing::Plain, Packing::Lz4].map(|packing| {
            let mut pair = Pair::new(Kind::Plain, lanes, packing);
            content.into_iter().for_each(|content| pair.fill_with(content));
            pair.owe_all();
            let (report, took) = pair.round(0);
            pair.check();
            pair.end();
            (report.sent_len, per_second(RAM_LEN, took))
        });
        plain.push(unpacked);
        packed.push(shorter);
        ratios.push(shorter / unpacked);
        travels.push(sent_len as f64 / RAM_LEN as f64);
    }
    println!(
        "{what:<8}{lanes:>6}{:>11.0} MB/s{:>11.0} MB/s{:>8.2}{:>10.0} %",
        median(plain) / 1e6,
        median(packed) / 1e6,
        median(ratios),
        median(travels) * 100.0,
    );
}

/// A whole precopy under a guest that writes.
fn downtime(pages_per_second: u64) {
    const LANES: u8 = 2;
    let mut pair = Pair::new(Kind::Plain, LANES, Packing::Plain);
    let bare = memory_to_memory(Kind::Plain, LANES, &pair);
    pair.owe_all();
    let writer = Writer::start(pair.ram(), pages_per_second);
    let mut rounds = 0;
    loop {
        let (report, took) = pair.round(rounds);
        rounds += 1;
        let owed = writer.harvest(&mut pair);
        let estimate = took.mul_f64((owed * 4096) as f64 / report.sent_len.max(1) as f64);
        if estimate <= DOWNTIME_LIMIT || rounds >= ROUNDS_MAX {
            break;
        }
    }
    // The guest stands still.
    writer.stop(&mut pair);
    let (report, took) = pair.round(rounds);
    let ideal = Duration::from_secs_f64(report.sent_len as f64 / bare);
    let above = took.saturating_sub(ideal);
    let verdict = if above <= DOWNTIME_GOAL { "ok" } else { "MISSED" };
    println!(
        "{pages_per_second:>10}{:>8}{:>12}{:>11.1} ms{:>11.1} ms{:>7.1} ms (goal: {} ms): {verdict}",
        rounds + 1,
        report.page_count,
        took.as_secs_f64() * 1e3,
        ideal.as_secs_f64() * 1e3,
        above.as_secs_f64() * 1e3,
        DOWNTIME_GOAL.as_millis(),
    );
    pair.check();
    pair.end();
}
