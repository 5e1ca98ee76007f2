// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `cargo xtask test`: everything that needs no special hardware, in minutes on two cores.
//!
//! Parts: the programs (the suites run them), unit and integration tests, documentation tests, the loom models
//! of the shared-memory structures, and a short run of every fuzz target. A test that leaves out what it is
//! for prints a line that begins with `SKIPPED: `; those lines are gathered, counted and shown at the end, and so are
//! lines that begin with `COUNTED: `: how many cases of which kinds a comparison has seen.

pub mod skips;

use std::process::{Command, ExitCode};

use ::tests::{
    FULL_RUN, LONG_RUN,
    command::{find, show},
    places,
};
use anyhow::{Result, ensure};
use clap::Args;
use skips::Said;

use crate::{
    fuzz, guest,
    product::{self, Profile, cargo},
    stages::Stages,
};

/// What to test.
#[derive(Args, Debug)]
#[group(id = "test-options")]
pub struct Options {
    /// Only unit and integration tests, without the longest: the quickest answer while writing code
    #[arg(long)]
    quick: bool,
    /// The longest loops of the suites: thousands of kills, a thousand moves, a hundred migrations of a guest; hours
    #[arg(long, conflicts_with = "quick")]
    long: bool,
    /// Passed to the test runner, such as a part of a test's name
    #[arg(last = true)]
    runner: Vec<String>,
}

/// The task.
pub fn run(options: &Options) -> Result<ExitCode> {
    let mut stages = Stages::independent();
    stages.run_shown("programs", || {
        product::build(Profile::Dev)?;
        Ok(((), "built for the suites that run them".into()))
    });
    let mut skipped = Vec::new();
    let mut counted = Vec::new();
    if let Err(error) = guest::prepare_for_suites() {
        skipped.push(format!("suites that boot a guest: {error:#}"));
    }
    stages.run_shown("tests", || {
        let said = workspace_tests(options)?;
        skipped.extend(said.skipped);
        counted = said.counted;
        Ok(((), "unit and integration tests passed".into()))
    });
    if !options.quick {
        stages.run_shown("documentation tests", || {
            ensure!(
                show(cargo().args(["test", "--workspace", "--doc", "--quiet"]))?,
                "an example in the documentation fails"
            );
            Ok(((), "examples compile and pass".into()))
        });
        stages.run_shown("loom models", || {
            let mut command = loom_cargo();
            command.args(["test", "--package", "ipc", "--test", "loom_*"]);
            ensure!(show(&mut command)?, "a model found an interleaving that breaks its claim");
            let mut command = loom_cargo();
            command.args(["test", "--package", "soft-cpu", "--lib", "model"]);
            ensure!(
                show(&mut command)?,
                "a model of what vCPUs share found an interleaving that breaks its claim"
            );
            Ok(((), "all interleavings within each model's bound".into()))
        });
        stages.run_shown("fuzz targets", || fuzz::short().map(|seen| ((), seen)));
    }
    skips::print_counted(&counted);
    skips::print(&skipped);
    let code = stages.finish("test");
    println!("{} left out", skipped.len());
    Ok(code)
}

/// Runs the workspace's tests and returns what they left out, and counted.
fn workspace_tests(Options { quick, long, runner }: &Options) -> Result<Said> {
    let cargo = || {
        let mut command = cargo();
        if !quick {
            command.env(FULL_RUN, "1");
        }
        if *long {
            command.env(LONG_RUN, "1");
        }
        command
    };
    if find("cargo-nextest").is_some() {
        // Of `.config/nextest.toml`: which deadlines tests have.
        let profile = if *long { "long" } else { "default" };
        let report = places::target().join("nextest").join(profile).join("junit.xml");
        // A report of an earlier run must not speak for this one.
        let _ = std::fs::remove_file(&report);
        let mut command = cargo();
        command.args(["nextest", "run", "--profile", profile, "--workspace", "--no-fail-fast"]).args(runner);
        ensure!(show(&mut command)?, "a test fails");
        return Ok(skips::in_report(&std::fs::read_to_string(&report).unwrap_or_default()));
    }
    let mut command = cargo();
    command.args(["test", "--workspace", "--lib", "--bins", "--tests", "--no-fail-fast", "--"]).args(runner);
    command.arg("--show-output");
    skips::while_running(&mut command, &mut std::io::stdout())
}

/// Cargo with the model checker's configuration, in a target folder of its own: it changes every crate.
pub fn loom_cargo() -> Command {
    let mut command = cargo();
    command.env("RUSTFLAGS", "--cfg loom").env("CARGO_TARGET_DIR", places::target().join("loom"));
    command
}
