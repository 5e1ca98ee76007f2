// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Counts the cases that a comparison has seen, by kind: printed, and held against what must have come up.
//!
//! A line that begins with `COUNTED: ` is one that `cargo xtask test` gathers and shows at the end.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::cell::RefCell;
use std::collections::BTreeMap;

/// How often each kind came up, in groups.
#[derive(Default)]
pub struct Tally(RefCell<BTreeMap<&'static str, BTreeMap<String, u64>>>);

impl Tally {
    /// One more of a kind.
    pub fn count(&self, group: &'static str, kind: impl Into<String>) {
        *self.0.borrow_mut().entry(group).or_default().entry(kind.into()).or_default() += 1;
    }

    /// Prints what was counted, a line for each group.
    ///
    /// # Panics
    /// If one of the `expected` kinds of a group came up less than `least` times: the comparison has not shown
    /// what it is for.
    pub fn finish(&self, title: &str, least: u64, expected: &[(&str, &[&str])]) {
        let groups = self.0.borrow();
        for (group, kinds) in groups.iter() {
            let all: Vec<String> = kinds.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
            let sum: u64 = kinds.values().sum();
            println!("COUNTED: {title}, {sum} by {group}: {}", all.join(", "));
        }
        for (group, kinds) in expected {
            for kind in *kinds {
                let count = groups.get(group).and_then(|kinds| kinds.get(*kind)).copied().unwrap_or(0);
                assert!(count >= least, "{title}: {group} {kind} came up {count} times, not {least}");
            }
        }
    }
}

/// The name of an event's number (IHI 0070 section 7.3).
pub fn event_name(number: u64) -> &'static str {
    match number {
        0x02 => "C_BAD_STREAMID",
        0x03 => "F_STE_FETCH",
        0x04 => "C_BAD_STE",
        0x06 => "F_STREAM_DISABLED",
        0x08 => "C_BAD_SUBSTREAMID",
        0x09 => "F_CD_FETCH",
        0x0a => "C_BAD_CD",
        0x0b => "F_WALK_EABT",
        0x10 => "F_TRANSLATION",
        0x11 => "F_ADDR_SIZE",
        0x12 => "F_ACCESS",
        0x13 => "F_PERMISSION",
        _ => "another event",
    }
}

/// Every name there is.
pub const EVENTS: [&str; 12] = [
    "C_BAD_STREAMID",
    "F_STE_FETCH",
    "C_BAD_STE",
    "F_STREAM_DISABLED",
    "C_BAD_SUBSTREAMID",
    "F_CD_FETCH",
    "C_BAD_CD",
    "F_WALK_EABT",
    "F_TRANSLATION",
    "F_ADDR_SIZE",
    "F_ACCESS",
    "F_PERMISSION",
];
