// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The runner's command line; `cargo xtask fuzz` is its usual caller.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail};
use clap::Parser;
use fuzz::{
    runner::{self, Outcome},
    targets::{ALL, Target},
};

#[derive(Parser)]
#[command(about = "Runs fuzz targets", disable_version_flag = true)]
struct Arguments {
    /// The target; all of them if none is named
    target: Option<String>,
    /// Seconds for each target
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// The random source's start
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Take the clock as the seed
    #[arg(long, conflicts_with = "seed")]
    fresh: bool,
    /// Run this one input
    #[arg(long, value_name = "FILE", requires = "target")]
    input: Option<PathBuf>,
    /// List the targets
    #[arg(long)]
    list: bool,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    if arguments.list {
        ALL.iter().for_each(|target| println!("{:<9} {}", target.name, target.takes));
        return Ok(ExitCode::SUCCESS);
    }
    let chosen: Vec<&Target> = ALL
        .iter()
        .filter(|target| arguments.target.as_ref().is_none_or(|name| name == target.name))
        .collect();
    if chosen.is_empty() {
        bail!("there is no such target; --list names them");
    }
    if let (Some(file), [target]) = (&arguments.input, &chosen[..]) {
        let input = std::fs::read(file).with_context(|| format!("{} could not be read", file.display()))?;
        (target.run)(&input);
        println!("{}: passed", target.name);
        return Ok(ExitCode::SUCCESS);
    }
    let seed = if arguments.fresh {
        SystemTime::now().duration_since(UNIX_EPOCH).context("the clock stands before 1970")?.as_secs()
    } else {
        arguments.seed
    };
    let mut failed = 0;
    for target in &chosen {
        failed += u32::from(!run(target, Duration::from_secs(arguments.seconds), seed)?);
    }
    println!("fuzz: {} targets, {failed} failed", chosen.len());
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs one target and says what came of it; true if nothing failed.
fn run(target: &Target, time: Duration, seed: u64) -> Result<bool> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR"));
    let kept = source.join("../../target/fuzz");
    let corpus = source.join("corpus").join(target.name);
    match runner::run(target, &corpus, time, seed, &kept) {
        Outcome::Passed { count } => {
            println!("{:<9} {count} inputs in {} s, seed {seed}", target.name, time.as_secs());
            Ok(true)
        }
        Outcome::Failed { input, message } => {
            let file = runner::keep(&kept, target, &input)?;
            println!("{:<9} FAILED: {message}", target.name);
            println!("         again: cargo xtask fuzz {} --input {}", target.name, file.display());
            Ok(false)
        }
    }
}
