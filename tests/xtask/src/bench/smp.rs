// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `cargo xtask bench smp`: what a second software CPU gives to a load that can be shared.
//!
//! One guest of two CPUs hashes the same data again and again: with one process, and with two at once. Both are timed
//! inside one boot, turns alternating, so that the ratio says what the CPUs share and not how fast the machine is. The
//! guest's own clock counts, which is the host's.

use std::{process::ExitCode, time::Duration};

use ::tests::{
    console::Console,
    vm::{self, Vm},
};
use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::{
    guest,
    product::{self, Profile},
    progress::Step,
};

const BOOT: Duration = Duration::from_secs(180);
const LOAD: Duration = Duration::from_secs(120);
const END: Duration = Duration::from_secs(30);

/// The goal: two processes do at least so much more than one, where the host has two cores for them.
const RATIO_MIN: f64 = 1.7;

/// Makes a shell function of the load: a hash of so many MiB of zeros in each of `$1` processes.
const LOAD_FUNCTION: &str = "load() { (for job in $(seq $1); do dd if=/dev/zero bs=64k count=256 2>/dev/null | sha256sum >/dev/null & \
                             done; wait); }";

/// How to measure.
#[derive(Args, Debug)]
#[group(id = "bench-smp-options")]
pub struct Options {
    /// Turns of each; the median counts
    #[arg(long, default_value_t = 5)]
    runs: u32,
    #[command(flatten)]
    guest: guest::Options,
}

/// The task. Ends with exit code 1 if the goal is missed.
pub fn run(options: &Options) -> Result<ExitCode> {
    ensure!(options.runs > 0, "at least one run is needed");
    let programs = product::build(Profile::Release)?;
    let files = guest::obtain(&options.guest)?;
    let mut machine = vm::Options::new(programs, files, "bench");
    machine.arguments = ["--cpu", "soft", "--vcpus", "2"].map(String::from).to_vec();
    let mut vm = Vm::launch(machine)?;
    vm.console.shell(BOOT)?;
    vm.console.run(LOAD_FUNCTION, BOOT)?;
    let mut ratios = Vec::new();
    for number in 1..=options.runs {
        let step = Step::begin(format!("turn {number} of {}", options.runs));
        let (one, two) = (timed(&mut vm.console, 1)?, timed(&mut vm.console, 2)?);
        let ratio = 2.0 * one / two;
        step.done(&format!("one process {one:.2} s, two {two:.2} s: {ratio:.2} times the work"));
        ratios.push(ratio);
    }
    vm.power_off(END)?;
    ratios.sort_by(f64::total_cmp);
    let ratio = ratios.get(ratios.len() / 2).context("no turn was measured")?;
    let verdict = if *ratio >= RATIO_MIN { "ok" } else { "MISSED" };
    println!("ratio      {ratio:.2} (goal: at least {RATIO_MIN}): {verdict}");
    Ok(if *ratio >= RATIO_MIN { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Seconds of the guest for the load in so many processes.
fn timed(console: &mut Console, processes: u32) -> Result<f64> {
    let command = format!("cut -d' ' -f1 /proc/uptime; load {processes}; cut -d' ' -f1 /proc/uptime");
    let answer = console.run(&command, LOAD)?.output;
    let mut times = answer.lines().map(str::parse::<f64>);
    match (times.next(), times.next()) {
        (Some(Ok(before)), Some(Ok(after))) => Ok(after - before),
        _ => anyhow::bail!("the guest's uptime was not read: {answer:?}"),
    }
}
