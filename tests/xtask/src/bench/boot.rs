// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `cargo xtask bench boot`: Debian's kernel to its shell prompt, ours and QEMU's taking turns.
//!
//! Same kernel, same initramfs, one CPU, the same command line but for the console's name. Turns alternate, so
//! that a busy spell of the machine hits both; the median of each counts.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use ::tests::{
    SKIPPED,
    console::Console,
    guest::{GuestFiles, PROMPT},
    tools::{QEMU, Ready},
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
const END: Duration = Duration::from_secs(30);

/// The goal: no slower than this, as a ratio of wall times.
const RATIO_MAX: f64 = 1.25;

/// How to measure.
#[derive(Args, Debug)]
#[group(id = "bench-boot-options")]
pub struct Options {
    /// Boots of each; the median counts
    #[arg(long, default_value_t = 3)]
    runs: u32,
    #[command(flatten)]
    guest: guest::Options,
}

/// One of our boots.
struct Boot {
    wall: Duration,
    /// Instructions that the guest's CPU executed up to the prompt, if `bulkhead inspect` shows them.
    instructions: Option<u64>,
}

/// The task. Ends with exit code 1 if the goal is missed.
pub fn run(options: &Options) -> Result<ExitCode> {
    ensure!(options.runs > 0, "at least one run is needed");
    let programs = product::build(Profile::Release)?;
    let files = guest::obtain(&options.guest)?;
    let qemu = QEMU.installed();
    let (mut ours, mut theirs, mut instructions) = (Vec::new(), Vec::new(), Vec::new());
    for number in 1..=options.runs {
        let step = Step::begin(format!("boot {number} of {}", options.runs));
        let boot = boot_ours(vm::Options::new(programs.clone(), files.clone(), "bench"))?;
        let mut seen = format!("bulkhead {:.2} s", boot.wall.as_secs_f64());
        ours.push(boot.wall);
        instructions.extend(boot.instructions);
        if let Some(qemu) = &qemu {
            let wall = boot_qemu(qemu, &files)?;
            seen.push_str(&format!(", QEMU {:.2} s", wall.as_secs_f64()));
            theirs.push(wall);
        }
        step.done(&seen);
    }
    let our_median = median(&mut ours).context("no boot was measured")?;
    println!("bulkhead   median {:.2} s to the shell prompt", our_median.as_secs_f64());
    match median(&mut instructions) {
        Some(count) => {
            let per_second = count as f64 / our_median.as_secs_f64() / 1e6;
            println!(
                "           {:.3} G instructions, {per_second:.0} million per second",
                count as f64 / 1e9
            );
        }
        None => println!("{SKIPPED}the number of instructions: `bulkhead inspect` does not show it"),
    }
    let (Some(qemu), Some(their_median)) = (qemu, median(&mut theirs)) else {
        println!("{SKIPPED}the comparison: {}", QEMU.missing());
        return Ok(ExitCode::SUCCESS);
    };
    println!("qemu       median {:.2} s ({})", their_median.as_secs_f64(), qemu.version()?);
    let ratio = our_median.as_secs_f64() / their_median.as_secs_f64();
    let verdict = if ratio <= RATIO_MAX { "ok" } else { "MISSED" };
    println!("ratio      {ratio:.2} (goal: at most {RATIO_MAX}): {verdict}");
    Ok(if ratio <= RATIO_MAX { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn boot_ours(options: vm::Options) -> Result<Boot> {
    let start = Instant::now();
    let mut vm = Vm::launch(options)?;
    let reached = vm.console.wait_for(PROMPT, BOOT).and_then(|_| vm.console.wait_for("# ", BOOT));
    reached.with_context(|| format!("our boot: {}", vm.console.errors().trim()))?;
    let wall = start.elapsed();
    let instructions = vm.counter("instructions");
    vm.power_off(END)?;
    Ok(Boot { wall, instructions })
}

fn boot_qemu(qemu: &Ready, files: &GuestFiles) -> Result<Duration> {
    let start = Instant::now();
    let mut console = Console::start(&mut qemu.boot(files, ""))?;
    console.wait_for(PROMPT, BOOT).and_then(|_| console.wait_for("# ", BOOT)).context("QEMU's boot")?;
    let wall = start.elapsed();
    console.send("poweroff -f\n")?;
    console.wait_exit(END)?;
    Ok(wall)
}

/// The middle value, the upper one of two.
fn median<T: Ord + Copy>(values: &mut [T]) -> Option<T> {
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn median_is_the_middle_of_any_order() {
        assert_eq!(median(&mut [9, 1, 5]), Some(5));
        assert_eq!(median(&mut [2, 1]), Some(2));
        assert_eq!(median::<u32>(&mut []), None);
    }
}
