// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `bulkhead migrate --status --watch`: a bar that fills as the guest's memory arrives, with the rate, and for how long
//! the guest would stand still.
//!
//! On a terminal one line is drawn over and over; elsewhere there is a line whenever it is another one.

use std::io::{IsTerminal, stdout};
use std::thread::sleep;
use std::time::Duration;

use hyper::Method;

use super::client_commands::{Target, ask, cannot_show, print};
use crate::api::types::{MigrationProgress, Status};
use crate::config::size;
use crate::problem::{Class, Problem};

/// Poll interval: a bar that moves for the eye.
const INTERVAL: Duration = Duration::from_millis(250);
/// Cells of the bar.
const BAR_LEN: u64 = 8;

/// Shows the migration until there is none. The guest has moved if its VM is gone then.
pub(super) fn until_over(target: &Target) -> Result<(), Problem> {
    // The same VM to the end, though another may be the only one by then.
    let target = &target.resolved()?;
    let over_and_over = stdout().is_terminal() && !target.json;
    let mut shown = String::new();
    loop {
        let status: Result<Status, Problem> = ask(target, Method::GET, "/v1/status", Vec::new());
        let status = match status {
            Err(problem)
                if problem.class == Class::Unreachable && !shown.is_empty() && !target.is_there()? =>
            {
                return end(over_and_over, "the VM has ended here: see what `bulkhead migrate` answers\n");
            }
            status => status?,
        };
        let Some(progress) = &status.migration else {
            if target.json {
                return Ok(());
            }
            let line = format!("{}: no migration is under way; the guest is {}\n", status.name, status.phase);
            return end(over_and_over && !shown.is_empty(), &line);
        };
        let line = if target.json {
            serde_json::to_string(progress).map_err(|error| cannot_show(&error))?
        } else {
            line(progress)
        };
        if over_and_over {
            // Over the line before, whose end may be longer.
            print(&format!("\r{line}\x1b[K"))?;
        } else if line != shown {
            print(&format!("{line}\n"))?;
        }
        shown = line;
        sleep(INTERVAL);
    }
}

fn end(below: bool, line: &str) -> Result<(), Problem> {
    print(&format!("{}{line}", if below { "\n" } else { "" }))
}

/// How far it is, in a line that fits a terminal of 80 columns.
fn line(progress: &MigrationProgress) -> String {
    let MigrationProgress { state, round_count, sent_len, bytes_per_second, downtime_estimate_us, .. } =
        progress;
    let Some(share) = arrived_percent(progress) else { return state.clone() };
    let cells = usize::try_from(share * BAR_LEN / 100).unwrap_or(0);
    let bar = format!("{:<width$}", "#".repeat(cells), width = usize::try_from(BAR_LEN).unwrap_or(0));
    let (round, sent) = (round_count.saturating_add(1), size::about(*sent_len));
    let rate = bytes_per_second.map(|rate| format!(", {}/s", size::about(rate))).unwrap_or_default();
    let estimate = downtime_estimate_us
        .map(|estimate| format!(", downtime {} ms", estimate.div_ceil(1000)))
        .unwrap_or_default();
    format!("{state:<10} [{bar}] {share:>3}% round {round}, {sent}{rate}{estimate}")
}

/// How much the other host has of what is known of memory. None before anything is known to be owed, and where a guest
/// arrives: how much that is only the source knows.
fn arrived_percent(progress: &MigrationProgress) -> Option<u64> {
    let pages = progress.memory_len / ipc::addr::PAGE_LEN;
    let is_known = progress.side == "source" && !["connecting", "offering"].contains(&&*progress.state);
    let missing = (progress.owed_page_count.min(pages) * 100).div_ceil(pages.max(1));
    is_known.then(|| 100 - missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(state: &str, owed_page_count: u64) -> MigrationProgress {
        MigrationProgress {
            side: "source".to_owned(),
            state: state.to_owned(),
            to: "there".to_owned(),
            round_count: 2,
            sent_len: 3 << 30,
            owed_page_count,
            memory_len: 1 << 30,
            bytes_per_second: Some(512 << 20),
            downtime_estimate_us: Some(1_234_567),
            throttle_percent: 0,
            took_us: 1,
        }
    }

    #[test]
    fn bar_is_what_the_other_host_has_of_memory_and_the_line_fits_a_terminal() {
        let shown = line(&progress("precopy", (1 << 30) / 4096 / 4));
        assert_eq!(shown, "precopy    [######  ]  75% round 3, 3 GiB, 512 MiB/s, downtime 1235 ms");
        assert!(line(&progress("precopy", 1)).contains(" 99%"), "not all of it");
        assert!(line(&progress("committing", 0)).contains("[########] 100%"));
        assert!(line(&progress("precopy", u64::MAX)).contains("[        ]   0%"));
        let longest = MigrationProgress {
            round_count: 8,
            sent_len: 1023 << 30,
            bytes_per_second: Some(1023 << 20),
            downtime_estimate_us: Some(9_999_000),
            ..progress("precopy", 0)
        };
        assert!(line(&longest).len() < 80, "{}", line(&longest));
    }

    #[test]
    fn bar_is_left_out_where_nobody_knows_what_is_missing() {
        assert_eq!(line(&progress("offering", 0)), "offering");
        let there = MigrationProgress { side: "destination".to_owned(), ..progress("receiving", 0) };
        assert_eq!(line(&there), "receiving");
    }
}
