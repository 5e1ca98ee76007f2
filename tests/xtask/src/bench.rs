// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `cargo xtask bench`: numbers that mean something on any machine, because each is taken beside a yardstick in
//! the same run and printed as a ratio.

mod boot;

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
    /// From start to shell prompt: wall time and instructions, beside QEMU's emulation
    Boot(boot::Options),
    /// Round trips between processes through the MMIO ring, beside the bare limits
    Mmio,
}

/// The task.
pub fn run(options: &Options) -> Result<ExitCode> {
    match &options.bench {
        Bench::Boot(options) => boot::run(options),
        Bench::Mmio => {
            let ok = show(cargo().args(["bench", "--package", "ipc", "--bench", "mmio"]))?;
            Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}
