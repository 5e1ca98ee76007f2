// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `cargo xtask bench audit`: how long `bulkhead audit` takes of a VM with several disks, beside `bulkhead ps`, which
//! starts the same program, asks the same VM, and reads less of each process.

use std::{
    path::PathBuf,
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use ::tests::{
    disk,
    vm::{self, Vm},
};
use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::{
    guest,
    product::{self, Profile},
};

const BOOT: Duration = Duration::from_secs(180);
const END: Duration = Duration::from_secs(30);
const DISK_MIB: u64 = 32;
const LIMIT: Duration = Duration::from_millis(100);

/// How to measure.
#[derive(Args, Debug)]
#[group(id = "bench-audit-options")]
pub struct Options {
    /// Audits; the median counts
    #[arg(long, default_value_t = 21)]
    audits: usize,
    /// Disks of the VM, each of which has two processes
    #[arg(long, default_value_t = 8)]
    disks: usize,
    /// Programs that are built already, instead of those of the tree
    #[arg(long, value_name = "FOLDER")]
    programs: Option<PathBuf>,
    #[command(flatten)]
    guest: guest::Options,
}

/// The task.
pub fn run(options: &Options) -> Result<ExitCode> {
    ensure!(options.audits > 0, "at least one audit is needed");
    let programs = product::given_or_built(options.programs.as_deref(), Profile::Release)?;
    let files = guest::obtain(&options.guest)?;
    let folders = (0..options.disks).map(|_| tempfile::tempdir()).collect::<Result<Vec<_>, _>>();
    let folders = folders.context("a folder for a disk")?;
    let images = folders.iter().map(|folder| disk::image(folder, DISK_MIB)).collect::<Result<Vec<_>>>()?;
    let mut vm =
        Vm::launch(vm::Options { nvme: images, ..vm::Options::new(programs, files, "bench-audit") })?;
    vm.console.shell(BOOT).with_context(|| format!("the boot: {}", vm.console.errors().trim()))?;
    let (mut audit, mut ps) = (Vec::new(), Vec::new());
    for _ in 0..options.audits {
        audit.push(span(vm.controller().command::<&str>("audit", &[]))?);
        ps.push(span(vm.controller().command::<&str>("ps", &[]))?);
    }
    vm.power_off(END)?;
    let (audit, ps) = (median(audit), median(ps));
    let is_met = audit <= LIMIT;
    println!(
        "audit of a VM with {} disks: {:.1} ms, {:.1} x `ps` ({:.1} ms), goal {} ms: {}",
        folders.len(),
        audit.as_secs_f64() * 1e3,
        audit.as_secs_f64() / ps.as_secs_f64(),
        ps.as_secs_f64() * 1e3,
        LIMIT.as_millis(),
        if is_met { "ok" } else { "MISSED" }
    );
    Ok(if is_met { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// How long it takes; it has to find everything as it should be.
fn span(mut command: Command) -> Result<Duration> {
    let begun = Instant::now();
    let output = command.output().context("`bulkhead` does not start")?;
    let span = begun.elapsed();
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{}: {said}{}", output.status, String::from_utf8_lossy(&output.stderr));
    Ok(span)
}

fn median(mut spans: Vec<Duration>) -> Duration {
    spans.sort_unstable();
    spans.get(spans.len() / 2).copied().unwrap_or_default()
}
