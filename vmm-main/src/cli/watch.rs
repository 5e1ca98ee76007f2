// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `bulkhead migrate --status --watch`: a bar that fills as the guest's memory arrives, with the rate, and for how long
//! the guest would stand still.
//!
//! On a terminal one line is drawn over and over; elsewhere there is a line whenever something has changed.

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
const BAR_LEN: u64 = 24;

/// Shows the migration until there is none. The guest has moved if its VM is gone then.
pub(super) fn until_over(target: &Target) -> Result<(), Problem> {
    let over_and_over = stdout().is_terminal() && !target.json;
    let mut shown = String::new();
    loop {
        let status: Result<Status, Problem> = ask(target, Method::GET, "/v1/status", Vec::new());
        let status = match status {
            // It has ended meanwhile.
            Err(problem) if problem.class == Class::Unreachable && !shown.is_empty() => {
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

/// How far it is, in a line that fits a terminal.
fn line(progress: &MigrationProgress) -> String {
    let MigrationProgress { state, round_count, sent_len, bytes_per_second, downtime_estimate_us, .. } =
        progress;
    let share = arrived_percent(progress);
    let cells = usize::try_from(share * BAR_LEN / 100).unwrap_or(0);
    let bar = format!("{:<width$}", "#".repeat(cells), width = usize::try_from(BAR_LEN).unwrap_or(0));
    let rate = bytes_per_second.map(|rate| format!(", {}/s", size::about(rate))).unwrap_or_default();
    let estimate = downtime_estimate_us
        .map(|estimate| format!(", would stand still for {} ms", estimate.div_ceil(1000)))
        .unwrap_or_default();
    format!(
        "{state:<14} [{bar}] {share:>3}%  round {}, {} sent{rate}{estimate}",
        round_count.saturating_add(1),
        size::about(*sent_len)
    )
}

/// How much of memory the other host has as it is now.
fn arrived_percent(progress: &MigrationProgress) -> u64 {
    let pages = progress.memory_len / ipc::addr::PAGE_LEN;
    // Before anything is sent nothing is known to be owed.
    if pages == 0 || progress.state == "connecting" || progress.state == "offering" {
        return 0;
    }
    100 - (progress.owed_page_count.min(pages) * 100).div_ceil(pages)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(state: &str, owed_page_count: u64) -> MigrationProgress {
        let progress = MigrationProgress {
            side: "source".to_owned(),
            state: state.to_owned(),
            to: "there".to_owned(),
            round_count: 2,
            sent_len: 3 << 30,
            owed_page_count: 0,
            memory_len: 1 << 30,
            bytes_per_second: Some(512 << 20),
            downtime_estimate_us: None,
            took_us: 1,
        };
        progress.owing(owed_page_count)
    }

    #[test]
    fn bar_is_what_the_other_host_has_and_the_estimate_what_it_has_not_at_the_rate() {
        // A quarter of 1 GiB at 512 MiB/s.
        let quarter = progress("precopy", (1 << 30) / 4096 / 4);
        assert_eq!(quarter.downtime_estimate_us, Some(500_000));
        let shown = line(&quarter);
        for part in
            ["precopy", "[##################      ]  75%", "round 3", "3 GiB sent", "512 MiB/s", "500 ms"]
        {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        assert!(line(&progress("precopy", 1)).contains(" 99%"), "not all of it");
        assert!(line(&progress("committing", 0)).contains("[########################] 100%"));
        for (state, owed) in [("offering", 0), ("precopy", u64::MAX)] {
            assert!(line(&progress(state, owed)).contains("[                        ]   0%"), "{state}");
        }
        assert!(shown.len() <= 120, "{shown}");
    }
}
