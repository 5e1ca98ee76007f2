// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `cargo xtask bench nvme`: the NVMe controller, alone and in a guest.
//!
//! Alone: `dev-nvme`'s own bench, whose client maps its memory to the sealed program, beside the image file itself. In
//! a guest: Linux's driver behind the vSMMU, by the guest's own clock; there every access of the device is a message
//! that is translated, and the CPU is software, so the numbers are not of the controller but of the whole.

use std::{fs::File, process::ExitCode, time::Duration};

use ::tests::{
    SKIPPED,
    tools::CROSS,
    vm::{self, Vm},
};
use anyhow::{Context, Result, ensure};
use clap::Args;

use super::of_package;
use crate::{
    guest,
    product::{self, Profile},
};

const BOOT: Duration = Duration::from_secs(180);
const COMMAND: Duration = Duration::from_secs(120);
const IMAGE_LEN: u64 = 256 << 20;

/// How long the guest keeps up each pattern, by its own clock.
const SPAN_MS: u32 = 2000;

/// What the guest does: arguments of `diskrate`, and the bytes of an access.
const PATTERNS: [(&str, &str, u64, u32); 4] = [
    ("read", "random", 4096, 32),
    ("write", "random", 4096, 32),
    ("read", "sequential", 1 << 20, 4),
    ("write", "sequential", 1 << 20, 4),
];

/// How to measure.
#[derive(Args, Debug)]
#[group(id = "bench-nvme-options")]
pub struct Options {
    /// The controller alone: only patterns whose names contain this, such as "4 KiB"
    #[arg(long, value_name = "TEXT")]
    pattern: Option<String>,
    /// Leave out the guest
    #[arg(long)]
    alone: bool,
    /// Leave out the controller alone
    #[arg(long, conflicts_with_all = ["alone", "pattern"])]
    in_guest: bool,
    #[command(flatten)]
    guest: guest::Options,
}

/// The task.
pub fn run(options: &Options) -> Result<ExitCode> {
    if !options.in_guest {
        println!("The controller alone, beside its image file:");
        let pattern: Vec<&str> = options.pattern.as_deref().into_iter().collect();
        let code = of_package("dev-nvme", "nvme", &pattern)?;
        if code != ExitCode::SUCCESS {
            return Ok(code);
        }
    }
    if !options.alone {
        println!("In a guest, behind the vSMMU:");
        in_guest(&options.guest)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn in_guest(options: &guest::Options) -> Result<()> {
    let programs = product::build(Profile::Release)?;
    let Some(files) = guest::with_selftest(options)? else {
        println!("{SKIPPED}the guest's part: {}", CROSS.missing());
        return Ok(());
    };
    let folder = tempfile::tempdir().context("a folder for the disk")?;
    let image = folder.path().join("disk.img");
    File::create(&image).and_then(|file| file.set_len(IMAGE_LEN)).context("the disk")?;
    let mut machine = vm::Options::new(programs, files, "bench-nvme");
    machine.nvme.push(image);
    let mut vm = Vm::launch(machine)?;
    vm.console.shell(BOOT).with_context(|| format!("the boot: {}", vm.console.errors().trim()))?;
    // The kernel's messages would stand between a command and its output.
    vm.console.run("dmesg -n 1", COMMAND)?;
    for (way, order, len, depth) in PATTERNS {
        let command = format!("diskrate /dev/nvme0n1 {way} {order} {len} {depth} {SPAN_MS}");
        let answer = vm.console.run(&command, COMMAND)?;
        let rate =
            rate(&answer.output).with_context(|| format!("`{command}` said: {}", answer.output.trim()))?;
        println!(
            "{:<37}{:>9.0} IOPS {:>8.1} MB/s",
            format!("{} {order} {way}, depth {depth}", if len == 4096 { "4 KiB" } else { "1 MiB" }),
            rate,
            rate * len as f64 / 1e6
        );
    }
    vm.power_off(COMMAND)
}

/// Accesses a second, from what `diskrate` prints.
fn rate(output: &str) -> Result<f64> {
    let line = output.lines().find_map(|line| line.trim().strip_prefix("diskrate: "));
    let line = line.context("no line of diskrate")?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let [count, "accesses", "in", span, "us"] = words[..] else { anyhow::bail!("no rate") };
    let (count, span): (u64, u64) = (count.parse()?, span.parse()?);
    ensure!(count > 0 && span > 0, "nothing was measured");
    Ok(count as f64 * 1e6 / span as f64)
}

#[cfg(test)]
mod tests {
    use super::rate;

    #[test]
    fn rate_is_read_from_the_programs_line_only() {
        assert_eq!(rate("noise\ndiskrate: 500 accesses in 250000 us\r\n").unwrap(), 2000.0);
        for broken in
            ["", "diskrate: a request failed", "diskrate: 0 accesses in 5 us", "diskrate: 1 accesses in x us"]
        {
            assert!(rate(broken).is_err(), "{broken}");
        }
    }
}
