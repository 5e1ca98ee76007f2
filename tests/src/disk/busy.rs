// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest whose disk is never idle, and which measures how long nothing completes: the program `work`
//! (`tests/guest/work`), in the foreground of its shell.
//!
//! It keeps requests under way around the page cache, checks every byte, and answers a line with the longest time
//! between two completions since the answer before. Nothing else runs in the guest meanwhile, so that the time is the
//! disk's. Callers: the suite of crashes, `cargo xtask bench crash`.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::console::Console;
use crate::starved;

/// Requests under way at any time.
const DEPTH: u32 = 16;
const BEGUN: &str = "work: begun\n";
const GAP: &str = "work: gap ";
const ENDED: &str = "work: ended, ";
/// Anything else that it says.
const FAILED: &str = "work: FAILED";

/// Lines of the guest's kernel that speak of a busy host, and of nothing that was done to the machine.
const OF_THE_HOST: &str = "hrtimer: interrupt took";

/// The longest time between two completions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// By the guest's clock.
    pub length: Duration,
    /// How many requests were begun before it, and completed behind it.
    pub held: u64,
}

/// Has the guest begin; its shell does nothing else from now on. `limit` is for each step, here and below.
pub fn begin(console: &mut Console, limit: Duration) -> Result<()> {
    starved::watch();
    console.output("dmesg -c >/dev/null", limit)?;
    console.send(&format!("work /dev/nvme0n1 {DEPTH}\n"))?;
    said(console, BEGUN, limit).map(drop)
}

/// Waits until each request has completed twice more, and returns the longest gap since the last call.
pub fn gap(console: &mut Console, limit: Duration) -> Result<Gap> {
    console.send("\n")?;
    let line = said(console, GAP, limit)?;
    read_gap(&line).with_context(|| format!("no gap in {line:?}"))
}

/// Has it stop: everything that was begun has completed. Its kernel may have said nothing meanwhile. Returns how many
/// requests there were.
pub fn end_unnoticed(console: &mut Console, limit: Duration) -> Result<u64> {
    console.send("q\n")?;
    let line = said(console, ENDED, limit)?;
    let completed = line.split(' ').next().and_then(|word| word.parse().ok());
    let noise = console.output(&format!("dmesg | grep -v '{OF_THE_HOST}' || true"), limit)?;
    let noise = starved::unexplained(noise);
    ensure!(noise.is_empty(), "the guest's kernel says: {noise}");
    completed.with_context(|| format!("no count in {line:?}"))
}

/// The rest of the line that begins so.
fn said(console: &mut Console, start: &str, limit: Duration) -> Result<String> {
    let (which, _) = console.wait_for_any(&[start, FAILED], limit)?;
    if which == FAILED {
        bail!("the guest's work has failed{}", console.wait_for("\n", limit)?);
    }
    if start.ends_with('\n') { Ok(String::new()) } else { console.wait_for("\n", limit) }
}

/// From `17 us, 15 held, 4000 completed`.
fn read_gap(line: &str) -> Option<Gap> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [length, "us,", held, "held,", _, "completed"] = words[..] else { return None };
    Some(Gap { length: Duration::from_micros(length.parse().ok()?), held: held.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Gap, read_gap};

    #[test]
    fn gap_is_read_from_a_whole_line_only() {
        let gap = Gap { length: Duration::from_micros(1700), held: 15 };
        assert_eq!(read_gap("1700 us, 15 held, 4000 completed"), Some(gap));
        for broken in ["", "1700 us, 15 held", "x us, 15 held, 4000 completed", "1700 us, held, 15 completed"]
        {
            assert_eq!(read_gap(broken), None, "{broken}");
        }
    }
}
