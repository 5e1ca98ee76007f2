// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Detects that the host kept this process from running: guests' own deadlines (Linux's for a CMD_SYNC) then show
//! nothing about the product.
//!
//! A thread that sleeps for a moment, again and again, notes the longest that it overslept. Linux gives an SMMU one
//! second for a CMD_SYNC, in which four threads of three processes have to run one after another. The guest and its
//! time are held while that is late; its time goes on while the vCPU that looks for the end of it waits for a CPU.

use std::{
    sync::{
        Once,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use crate::SKIPPED;

const NAP: Duration = Duration::from_millis(20);

/// A guest sees half a second pass at most while its commands wait: the vCPU, or on KVM the thread that holds it, was
/// late by the rest of the second. Whoever waited for a CPU for less has a guest that gave up for another reason.
const STARVED: Duration = Duration::from_millis(500);

/// What Linux says when a second was not enough.
const LATE: &str = "CMD_SYNC timeout";

static WATCH: Once = Once::new();
static WORST_MS: AtomicU64 = AtomicU64::new(0);

/// Watches from now on, until the process ends.
pub fn watch() {
    WATCH.call_once(|| {
        thread::spawn(|| {
            loop {
                let before = Instant::now();
                thread::sleep(NAP);
                let over = before.elapsed().saturating_sub(NAP).as_millis();
                WORST_MS.fetch_max(u64::try_from(over).unwrap_or(u64::MAX), Relaxed);
            }
        });
    });
}

/// The longest that a thread had to wait for a CPU since [`watch`], if that was long.
fn worst() -> Option<Duration> {
    Some(Duration::from_millis(WORST_MS.load(Relaxed))).filter(|worst| *worst >= STARVED)
}

/// What the guest's kernel has said, unless it is nothing else than what it says on such a host: then that is printed,
/// and left out.
pub fn unexplained(lines: String) -> String {
    let all_late = !lines.is_empty() && lines.lines().all(|line| line.contains(LATE));
    let Some(worst) = worst().filter(|_| all_late) else { return lines };
    println!("{SKIPPED}what the guest's kernel says: a thread had to wait {worst:?} for a CPU: {lines}");
    String::new()
}
