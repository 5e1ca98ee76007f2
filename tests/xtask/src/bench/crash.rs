// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `cargo xtask bench crash`: how long a guest's disk stands still when a process on its way is killed.
//!
//! A guest keeps requests under way all the time and notes the longest time between two completions, by its own clock,
//! around each kill; a kill with no request under way does not count. The gap of a disk that is left alone stands
//! beside it: what the guest's own CPU, and the host, are late by.

use std::{path::PathBuf, process::ExitCode, thread, time::Duration};

use ::tests::{
    SKIPPED, Spread,
    crash::kill_under_work,
    disk::{self, busy},
    draw::Draw,
    tools::CROSS,
    vm::{self, Vm},
};
use anyhow::{Context, Result, ensure};
use clap::Args;

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
    let folder = tempfile::tempdir().context("a folder for the disk")?;
    let mut machine = vm::Options::new(programs, files, "bench-crash");
    machine.nvme.push(disk::image(&folder, DISK_MIB)?);
    machine.extra = "iommu.passthrough=0 iommu.strict=1".into();
    // They die more often here than a user would put up with.
    machine.arguments = ["--smmu-restarts-per-minute", "1000", "--device-restarts-per-minute", "1000"]
        .map(String::from)
        .to_vec();
    let mut vm = Vm::launch(machine)?;
    vm.console.shell(BOOT).with_context(|| format!("the boot: {}", vm.console.errors().trim()))?;
    busy::begin(&mut vm.console, COMMAND)?;
    println!("{:<12}{}", "none", undisturbed(&mut vm, options.kills)?);
    let mut draw = Draw::by_seed();
    let mut are_met = true;
    for name in NAMES {
        let kills = kill_under_work(&mut vm, &[name], options.kills, SPAN, &mut draw, COMMAND)?;
        let spread = Spread::of(kills.gaps);
        let is_met = spread.median <= MEDIAN_MAX && spread.p99 <= P99_MAX;
        are_met &= is_met;
        let verdict = if is_met { "ok" } else { "MISSED" };
        println!("{name:<12}{spread} (goals: {MEDIAN_MAX:?}, {P99_MAX:?}): {verdict}");
    }
    busy::end_unnoticed(&mut vm.console, COMMAND)?;
    vm.power_off(END)?;
    Ok(if are_met { ExitCode::SUCCESS } else { ExitCode::FAILURE })
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
