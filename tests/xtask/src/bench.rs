// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `cargo xtask bench`: numbers that are comparable between machines, because each is measured beside a reference in
//! the same run and printed as a ratio.

mod audit;
mod boot;
mod crash;
mod footprint;
mod migrate;
mod nvme;
mod smp;

use std::process::ExitCode;

use ::tests::command::show;
use anyhow::Result;
use clap::{Args, Subcommand};

use crate::product::cargo;

/// What to measure.
#[derive(Args, Debug)]
#[group(id = "bench-options")]
pub struct Options {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Subcommand, Debug)]
enum Bench {
    /// An audit of a VM with several disks, beside `ps`
    Audit(audit::Options),
    /// From start to shell prompt: wall time and instructions, beside QEMU's emulation
    Boot(boot::Options),
    /// Processes killed under a guest's disk I/O: the gap that the guest sees
    Crash(crash::Options),
    /// Memory of each process of an idle guest
    Footprint(footprint::Options),
    /// A harvest of dirty logs into the owed map, beside memcpy of as many bytes
    Merge,
    /// Migrations: movers beside bare connections, and guests beside QEMU's
    Migrate(migrate::Options),
    /// Round trips between processes through the MMIO ring, beside the bare limits
    Mmio,
    /// The NVMe controller: alone, beside its image file; and in a guest, behind the vSMMU
    Nvme(nvme::Options),
    /// What a second software CPU gives to a load that can be shared
    Smp(smp::Options),
    /// Translation of DMA by the software engine: hits, walks, invalidations, beside the bare limits
    Translate,
}

/// The task.
pub fn run(options: &Options) -> Result<ExitCode> {
    match &options.bench {
        Bench::Audit(options) => audit::run(options),
        Bench::Boot(options) => boot::run(options),
        Bench::Crash(options) => crash::run(options),
        Bench::Footprint(options) => footprint::run(options),
        Bench::Merge => of_package("ipc", "merge", &[]),
        Bench::Migrate(options) => migrate::run(options),
        Bench::Mmio => of_package("ipc", "mmio", &[]),
        Bench::Nvme(options) => nvme::run(options),
        Bench::Smp(options) => smp::run(options),
        Bench::Translate => of_package("dev-vfio", "translate", &[]),
    }
}

/// A bench that a package has, given `arguments`.
fn of_package(package: &str, bench: &str, arguments: &[&str]) -> Result<ExitCode> {
    let mut command = cargo();
    command.args(["bench", "--package", package, "--bench", bench, "--"]).args(arguments);
    Ok(if show(&mut command)? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
