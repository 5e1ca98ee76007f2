// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `cargo xtask fuzz`: runs the fuzz targets of `tests/fuzz`, briefly or for long.

use std::process::ExitCode;

use ::tests::command::show;
use anyhow::{Result, ensure};
use clap::Args;

use crate::product::cargo;

/// Seconds for each target in `cargo xtask test`: enough to run every seed and some ten thousand mutations.
const SHORT_SECONDS: u64 = 5;
const LONG_SECONDS: u64 = 600;

/// What to run.
#[derive(Args, Debug)]
#[group(id = "fuzz-options")]
pub struct Options {
    /// The target; all of them if none is named
    target: Option<String>,
    /// Seconds for each target
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Ten minutes for each target, and other mutations on every run
    #[arg(long, conflicts_with = "seconds")]
    long: bool,
    /// Run this one input instead, as kept from a failure
    #[arg(long, value_name = "FILE", requires = "target")]
    input: Option<std::path::PathBuf>,
    /// List the targets
    #[arg(long)]
    list: bool,
}

/// The task.
pub fn run(options: &Options) -> Result<ExitCode> {
    let mut arguments: Vec<String> = Vec::new();
    if options.list {
        arguments.push("--list".into());
    }
    if let Some(target) = &options.target {
        arguments.push(target.clone());
    }
    if let Some(input) = &options.input {
        arguments.extend(["--input".into(), std::path::absolute(input)?.display().to_string()]);
    }
    let seconds = if options.long { LONG_SECONDS } else { options.seconds };
    arguments.extend(["--seconds".into(), seconds.to_string()]);
    if options.long {
        arguments.push("--fresh".into());
    }
    let ok = show(cargo().args(["run", "--quiet", "--package", "fuzz", "--"]).args(arguments))?;
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The short run of all targets, for `cargo xtask test`.
pub fn short() -> Result<String> {
    let seconds = SHORT_SECONDS.to_string();
    let mut command = cargo();
    command.args(["run", "--quiet", "--package", "fuzz", "--", "--seconds", &seconds]);
    ensure!(show(&mut command)?, "a target found an input that breaks it");
    Ok(format!("{SHORT_SECONDS} s for each target"))
}
