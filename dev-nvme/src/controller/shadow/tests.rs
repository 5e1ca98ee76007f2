// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#![allow(clippy::cast_possible_truncation, reason = "indices of 16 bits")]

use super::{Shadow, Watched};
use crate::spec::registers::Doorbell;

/// NVMe 1.4 section 7.13, as drivers have it: whether a doorbell that goes from `old` to `new` passes the event index.
const fn passes(event_index: u32, old: u32, new: u32) -> bool {
    (new as u16).wrapping_sub(event_index as u16).wrapping_sub(1) < (new as u16).wrapping_sub(old as u16)
}

fn watched(seen: u32) -> Watched {
    Shadow::new(0x1000, 0x2000).watched(Doorbell::SubmissionTail(1), seen)
}

#[test]
fn doorbell_passes_the_unreached_index_only_after_a_whole_turn() {
    for size in [2u32, 8, 64, 1024] {
        for seen in 0..size {
            let index = watched(seen).unreached();
            for step in 1..size {
                // The queue is full one entry short of a turn.
                for moved in (0..size - step).step_by(step as usize) {
                    let (old, new) = ((seen + moved) % size, (seen + moved + step) % size);
                    // Behind index 0 is none that the doorbell could have: it counts as passed at the turn of the
                    // queue.
                    let turned = seen == 0 && new < old;
                    assert!(turned || !passes(index, old, new), "size {size} seen {seen}: {old} to {new}");
                }
            }
        }
    }
}

#[test]
fn doorbell_passes_the_index_that_was_seen_with_its_next_step() {
    for size in [2u32, 8, 64, 1024] {
        for seen in 0..size {
            for step in 1..size {
                let new = (seen + step) % size;
                assert!(passes(watched(seen).seen, seen, new), "size {size}: {seen} to {new}");
            }
        }
    }
}
