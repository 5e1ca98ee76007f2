// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `cargo xtask bench crash`: how long a guest's disk stands still when a process on its way is killed.
//!
//! A guest keeps requests under way all the time and notes the longest time between two completions, by its own clock,
//! around each kill; a kill with no request under way does not count. The gap of a disk that is left alone stands
//! beside it: what the guest's own CPU, and the host, are late by. Then the same of a guest with several disks, of
//! which one comes back, or all at once; that has no goal, for every process that starts takes its time on a CPU.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::Duration,
};

use ::tests::{
    SKIPPED, Spread,
    crash::kill_under_work,
    disk::{self, busy},
    draw::Draw,
    guest::GuestFiles,
    tools::CROSS,
    vm::{self, Vm},
};
use anyhow::{Context, Result, ensure};
use clap::Args;
use tempfile::TempDir;

use crate::{
    guest,
    product::{self, Profile},
};

const BOOT: Duration = Duration::from_secs(180);
const COMMAND: Duration = Duration::from_secs(60);
const END: Duration = Duration::from_secs(30);
const DISK_MIB: u64 = 64;
/// The guest works for up to so long before a kill.
const SPAN: Duration = Duration::from_millis(100);

/// The goals, on a machine that does nothing else.
const MEDIAN_MAX: Duration = Duration::from_millis(5);
const P99_MAX: Duration = Duration::from_millis(30);

/// The processes on the way of a disk's request.
const NAMES: [&str; 3] = ["smmu0", "vfio0", "nvme0"];

/// So many disks come back at once.
const DISKS: usize = 4;

/// How to measure.
#[derive(Args, Debug)]
#[group(id = "bench-crash-options")]
pub struct Options {
    /// How often each process is killed
    #[arg(long, default_value_t = 100)]
    kills: u32,
    /// Programs that are built already, instead of those of the tree
    #[arg(long, value_name = "FOLDER")]
    programs: Option<PathBuf>,
    #[command(flatten)]
    guest: guest::Options,
}

/// The task. Ends with exit code 1 if a goal is missed.
pub fn run(options: &Options) -> Result<ExitCode> {
    ensure!(options.kills > 0, "at least one kill is needed");
    let programs = product::given_or_built(options.programs.as_deref(), Profile::Release)?;
    let Some(files) = guest::with_selftest(&options.guest)? else {
        println!("{SKIPPED}{}", CROSS.missing());
        return Ok(ExitCode::SUCCESS);
    };
    let mut draw = Draw::by_seed();
    let are_met = alone(options, &programs, &files, &mut draw)?;
    together(options, &programs, &files, &mut draw)?;
    Ok(if are_met { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Kills of each process on the way of the only disk. Whether the goals are met.
fn alone(options: &Options, programs: &Path, files: &GuestFiles, draw: &mut Draw) -> Result<bool> {
    let mut working = Working::begin(programs, files, 1)?;
    println!("{:<12}{}", "none", undisturbed(&mut working.vm, options.kills)?);
    let mut are_met = true;
    for name in NAMES {
        let spread = working.gaps(&[name], options.kills, draw)?;
        let is_met = spread.median <= MEDIAN_MAX && spread.p99 <= P99_MAX;
        are_met &= is_met;
        let verdict = if is_met { "ok" } else { "MISSED" };
        println!("{name:<12}{spread} (goals: {MEDIAN_MAX:?}, {P99_MAX:?}): {verdict}");
    }
    working.end()?;
    Ok(are_met)
}

/// Kills of one controller, and of all at once, in a guest that works on the first disk.
fn together(options: &Options, programs: &Path, files: &GuestFiles, draw: &mut Draw) -> Result<()> {
    let mut working = Working::begin(programs, files, DISKS)?;
    let names: Vec<String> = (0..DISKS).map(|number| format!("nvme{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let one = working.gaps(&["nvme0"], options.kills, draw)?;
    println!("{:<12}{one}", format!("1 of {DISKS}"));
    let all = working.gaps(&names, options.kills, draw)?;
    let ratio = all.median.as_secs_f64() / one.median.as_secs_f64();
    println!("{:<12}{all}, {ratio:.2} x", format!("{DISKS} of {DISKS}"));
    working.end()
}

/// A guest that works on the first of its disks.
struct Working {
    vm: Vm,
    _folders: Vec<TempDir>,
}

impl Working {
    fn begin(programs: &Path, files: &GuestFiles, disks: usize) -> Result<Self> {
        let mut machine = vm::Options::new(programs.to_owned(), files.clone(), "bench-crash");
        let mut folders = Vec::new();
        for _ in 0..disks {
            let folder = tempfile::tempdir().context("a folder for the disk")?;
            machine.nvme.push(disk::image(&folder, DISK_MIB)?);
            folders.push(folder);
        }
        machine.extra = "iommu.passthrough=0 iommu.strict=1".into();
        // They die more often here than a user would put up with.
        machine.arguments = ["--smmu-restarts-per-minute", "1000", "--device-restarts-per-minute", "1000"]
            .map(String::from)
            .to_vec();
        let mut vm = Vm::launch(machine)?;
        vm.console.shell(BOOT).with_context(|| format!("the boot: {}", vm.console.errors().trim()))?;
        busy::begin(&mut vm.console, COMMAND)?;
        Ok(Self { vm, _folders: folders })
    }

    /// The gaps around kills of these at once.
    fn gaps(&mut self, names: &[&str], count: u32, draw: &mut Draw) -> Result<Spread> {
        let kills = kill_under_work(&mut self.vm, names, names.len(), count, SPAN, draw, COMMAND)?;
        Ok(Spread::of(kills.gaps))
    }

    fn end(mut self) -> Result<()> {
        busy::end_unnoticed(&mut self.vm.console, COMMAND)?;
        self.vm.power_off(END)
    }
}

/// The longest gaps of so many spans in which nothing was done.
fn undisturbed(vm: &mut Vm, count: u32) -> Result<Spread> {
    busy::gap(&mut vm.console, COMMAND)?;
    let mut gaps = Vec::new();
    for _ in 0..count {
        thread::sleep(SPAN);
        gaps.push(busy::gap(&mut vm.console, COMMAND)?.length);
    }
    Ok(Spread::of(gaps))
}
