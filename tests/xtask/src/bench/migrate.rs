// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `cargo xtask bench migrate`: what movers carry beside bare connections, and how long a guest stands still beside
//! QEMU's.
//!
//! The movers alone: `mover`'s own bench, which also has a guest that writes as fast as is wanted. Whole guests: the
//! same kernel, initramfs and memory, one CPU each in software, over a Unix socket, ours and QEMU's in turn. Each
//! writes so many pages every tenth of a second, if its CPU is fast enough: what a second of it came to is measured by
//! each side's own means. How long a guest stands still is what either monitor says. With disks: ours alone, their
//! images in memory.

mod qemu;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use ::tests::{
    SKIPPED, disk,
    guest::GuestFiles,
    tools::{QEMU, Ready},
    vm::{self, Vm},
};
use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::Value;

use super::of_package;
use crate::{
    guest,
    product::{self, Profile},
};

const BOOT: Duration = Duration::from_secs(180);
const COMMAND: Duration = Duration::from_secs(60);
/// Before a migration, for what the guest writes to be steady.
const SETTLE: Duration = Duration::from_secs(2);
const DISK_MIB: u64 = 64;
/// Where files are memory.
const MEMORY_FOLDER: &str = "/dev/shm";

/// Pages that are written every tenth of a second.
const WRITES: [u32; 3] = [0, 160, 1600];
const DISKS: [usize; 3] = [1, 2, 4];

/// The stage behind which the guest stands still.
const PRECOPY: &str = "precopy";

/// Above what the last round takes.
const ABOVE_MAX: Duration = Duration::from_millis(10);

/// How to measure.
#[derive(Args, Debug)]
#[group(id = "bench-migrate-options")]
pub struct Options {
    /// Migrations of each guest; the median counts
    #[arg(long, default_value_t = 5)]
    moves: usize,
    /// Leave out the guests
    #[arg(long)]
    alone: bool,
    /// Leave out the movers alone
    #[arg(long, conflicts_with = "alone")]
    in_guest: bool,
    /// Programs that are built already, instead of those of the tree
    #[arg(long, value_name = "FOLDER")]
    programs: Option<PathBuf>,
    #[command(flatten)]
    guest: guest::Options,
}

/// What a migration came to.
#[derive(Debug, Clone)]
pub struct Moved {
    /// How long the guest stood still.
    pub downtime: Duration,
    /// Rounds, the last one included.
    pub rounds: u64,
    /// Of all memory, in bytes per second.
    pub rate: f64,
    /// What the last round took, if that is known.
    pub last_round: Option<Duration>,
    /// What the guest stood still for, in order, if that is known.
    pub stages: Vec<(String, Duration)>,
    /// Pages that the guest writes in a second.
    pub dirty_rate: u64,
}

/// The task. Ends with exit code 1 if a goal is missed by a guest; the movers alone say so in their lines.
pub fn run(options: &Options) -> Result<ExitCode> {
    ensure!(options.moves > 0, "at least one migration is needed");
    if !options.in_guest {
        println!("The movers alone, beside bare connections:");
        let code = of_package("mover", "migrate", &[])?;
        if code != ExitCode::SUCCESS {
            return Ok(code);
        }
    }
    if options.alone {
        return Ok(ExitCode::SUCCESS);
    }
    let programs = product::given_or_built(options.programs.as_deref(), Profile::Release)?;
    let files = guest::obtain(&options.guest)?;
    let qemu = QEMU.installed();
    if qemu.is_none() {
        println!("{SKIPPED}the comparison: {}", QEMU.missing());
    }
    println!("A guest of 512 MiB and one CPU, medians of {} migrations:", options.moves);
    let mut are_met = true;
    for pages in WRITES {
        let ours = ours(&programs, &files, &[], pages, options.moves)?;
        are_met &= report("bulkhead", pages, &ours);
        let theirs = qemu.as_ref().map(|qemu| theirs(qemu, &files, pages, options.moves)).transpose()?;
        if let Some(theirs) = theirs {
            report("qemu", pages, &theirs);
            let is_met = downtime(&ours) < downtime(&theirs);
            are_met &= is_met;
            println!("  the guest stands still for less than QEMU's: {}", verdict(is_met));
        }
    }
    let folder = tempfile::tempdir_in(MEMORY_FOLDER).context("a folder for the disks")?;
    for count in DISKS {
        let folders = (0..count).map(|_| tempfile::tempdir_in(folder.path())).collect::<Result<Vec<_>, _>>();
        let folders = folders.context("a folder for a disk")?;
        let images =
            folders.iter().map(|folder| disk::image(folder, DISK_MIB)).collect::<Result<Vec<_>>>()?;
        let moved = ours(&programs, &files, &images, 0, options.moves)?;
        are_met &= report(&format!("{count} disks"), 0, &moved);
    }
    Ok(if are_met { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

const fn verdict(is_met: bool) -> &'static str {
    if is_met { "ok" } else { "MISSED" }
}

fn median<T: Copy + PartialOrd>(moved: &[Moved], value: impl Fn(&Moved) -> T) -> Option<T> {
    let mut values: Vec<T> = moved.iter().map(value).collect();
    values.sort_by(|one, other| one.partial_cmp(other).unwrap_or(std::cmp::Ordering::Equal));
    values.get(values.len() / 2).copied()
}

fn downtime(moved: &[Moved]) -> Option<Duration> {
    median(moved, |moved| moved.downtime)
}

/// A row. True: what the guest stood still for besides the last round is within its limit, if that is known.
fn report(who: &str, pages: u32, moved: &[Moved]) -> bool {
    let above = |moved: &Moved| Some(moved.downtime.saturating_sub(moved.last_round?));
    let above = median(moved, above).flatten();
    let is_met = above.is_none_or(|above| above <= ABOVE_MAX);
    println!(
        "{who:<10}{:>7} pages/s asked, {:>6} seen: stands still for {:>7.1} ms{}, {} rounds, {:.0} MB/s",
        pages * 10,
        median(moved, |moved| moved.dirty_rate).unwrap_or_default(),
        downtime(moved).unwrap_or_default().as_secs_f64() * 1e3,
        above.map_or_else(String::new, |above| format!(
            " ({:.1} ms above the last round, goal {}: {})",
            above.as_secs_f64() * 1e3,
            ABOVE_MAX.as_millis(),
            verdict(is_met)
        )),
        median(moved, |moved| moved.rounds).unwrap_or_default(),
        median(moved, |moved| moved.rate).unwrap_or_default() / 1e6,
    );
    let names = moved.first().into_iter().flat_map(|moved| &moved.stages).map(|(name, _)| name);
    let stages: Vec<String> = names
        .filter_map(|name| {
            let took = |moved: &Moved| Some(moved.stages.iter().find(|(other, _)| other == name)?.1);
            Some(format!("{name} {:.1}", median(moved, took)??.as_secs_f64() * 1e3))
        })
        .collect();
    if !stages.is_empty() {
        println!("  of it, in ms: {}", stages.join(", "));
    }
    is_met
}

/// What has a guest write so many pages every tenth of a second, in the background.
pub fn writer(pages: u32) -> String {
    let blocks = pages / 16;
    format!(
        "[ {blocks} = 0 ] || (dd if=/dev/urandom of=/tmp/pages bs=64k count={blocks} 2>/dev/null; \
         while :; do dd if=/tmp/pages of=/tmp/written bs=64k conv=notrunc 2>/dev/null; sleep 0.1; done &)"
    )
}

/// Our guest, moved so often.
fn ours(
    programs: &Path,
    files: &GuestFiles,
    images: &[PathBuf],
    pages: u32,
    moves: usize,
) -> Result<Vec<Moved>> {
    let mut options = vm::Options::new(programs.into(), files.clone(), "bench-migrate");
    options.nvme = images.to_vec();
    let mut vm = Vm::launch(options)?;
    vm.console.shell(BOOT).with_context(|| format!("our boot: {}", vm.console.errors().trim()))?;
    vm.console.run(&writer(pages), COMMAND)?;
    thread::sleep(SETTLE);
    let mut moved = Vec::new();
    for _ in 0..moves {
        let rate: Value = serde_json::from_str(&vm.control_json("dirty-rate")?)?;
        let next = vm.other_host(COMMAND)?;
        let answer = vm.migrate_to(&next, &["--json"])?;
        ensure!(answer.status.success(), "the migration: {}", String::from_utf8_lossy(&answer.stderr));
        vm.console.wait_exit(COMMAND)?;
        vm = next;
        moved.push(read(&serde_json::from_slice(&answer.stdout)?, &rate).context("our report")?);
    }
    vm.power_off(COMMAND)?;
    Ok(moved)
}

/// From the reports of a migration and of a measurement of the dirty rate.
fn read(report: &Value, rate: &Value) -> Option<Moved> {
    let rounds = report.get("rounds")?.as_array()?;
    let micros = |value: &Value, field: &str| Some(Duration::from_micros(value.get(field)?.as_u64()?));
    let took = rounds.iter().map(|round| micros(round, "took_us")).sum::<Option<Duration>>()?;
    let sent = report.get("sent_len")?.as_u64()?;
    let stages = report.get("stages").and_then(Value::as_array).into_iter().flatten();
    let stages =
        stages.filter_map(|stage| Some((stage.get("name")?.as_str()?.to_owned(), micros(stage, "took_us")?)));
    let span = rate.get("span_us")?.as_u64()?;
    let pages = rate.get("page_count")?.as_u64()?;
    Some(Moved {
        downtime: micros(report, "downtime_us")?,
        rounds: u64::try_from(rounds.len()).ok()?,
        rate: sent as f64 / took.as_secs_f64(),
        last_round: rounds.last().and_then(|round| micros(round, "took_us")),
        stages: stages.skip_while(|(name, _)| name != PRECOPY).skip(1).collect(),
        dirty_rate: pages.saturating_mul(1_000_000).checked_div(span)?,
    })
}

/// QEMU's guest, moved so often.
fn theirs(qemu: &Ready, files: &GuestFiles, pages: u32, moves: usize) -> Result<Vec<Moved>> {
    let folder = tempfile::tempdir().context("a folder for sockets")?;
    let mut machine = qemu::Machine::boot(qemu, files, folder.path())?;
    machine.console.shell(BOOT).context("QEMU's boot")?;
    machine.console.run(&writer(pages), COMMAND)?;
    thread::sleep(SETTLE);
    let mut moved = Vec::new();
    for _ in 0..moves {
        let (next, report) = machine.moved(qemu, files, folder.path())?;
        machine = next;
        moved.push(report);
    }
    // The guest answers where it has arrived.
    machine.console.run("true", COMMAND)?;
    machine.end()?;
    Ok(moved)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Moved, median, read, report};
    use std::time::Duration;

    #[test]
    fn report_is_read_whole_or_not_at_all() {
        let round = |took| json!({ "took_us": took, "sent_len": 1000 });
        let migrated = json!({ "rounds": [round(900), round(100)], "sent_len": 2000, "downtime_us": 700 });
        let rate = json!({ "span_us": 2_000_000, "page_count": 500 });
        let moved = read(&migrated, &rate).unwrap();
        assert_eq!((moved.rounds, moved.dirty_rate), (2, 250));
        assert_eq!(
            (moved.downtime, moved.last_round),
            (Duration::from_micros(700), Some(Duration::from_micros(100)))
        );
        assert!((moved.rate - 2e6).abs() < 1.0, "{moved:?}");
        assert!(read(&json!({ "rounds": [] }), &rate).is_none() && read(&migrated, &json!({})).is_none());
    }

    #[test]
    fn goal_is_what_a_guest_stands_still_for_above_its_last_round() {
        let moved = |downtime, last| Moved {
            downtime: Duration::from_millis(downtime),
            rounds: 2,
            rate: 1e6,
            last_round: Some(Duration::from_millis(last)),
            stages: Vec::new(),
            dirty_rate: 0,
        };
        assert!(report("within", 0, &[moved(60, 50), moved(500, 0), moved(50, 50)]));
        assert!(!report("above", 0, &[moved(61, 50)]));
        assert_eq!(median(&[], |moved: &Moved| moved.rounds), None);
    }
}
