// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `cargo xtask check`: all that continuous integration runs besides the tests.
//!
//! First the rules that read the tree (fractions of a second), then formatting, then the compiler's lints,
//! then the other architecture. Every part runs even if an earlier one failed, so that one run shows all.

pub mod arm64;
mod edges;
mod links;
mod rules;
mod tree;

use std::process::{Command, ExitCode};

use ::tests::{SKIPPED, command::show};
use anyhow::{Result, bail};
use clap::Args;

use self::tree::Tree;
use crate::product::cargo;

/// What to check.
#[derive(Args, Debug)]
#[group(id = "check-options")]
pub struct Options {
    /// Only the rules that need no compiler: under a second
    #[arg(long)]
    quick: bool,
}

/// The outcome of one part.
enum Part {
    Ok,
    Failed(String),
    Skipped(String),
}

/// The task.
pub fn run(options: &Options) -> Result<ExitCode> {
    let tree = Tree::tracked()?;
    let mut parts: Vec<(&str, Part)> = Vec::new();
    for (name, rule) in rules::ALL {
        parts.push((name, judged(rule(&tree))));
    }
    parts.push(("dependency edges", judged(edges::check()?)));
    parts.push(("crates that sealed programs do not link", judged(links::check()?)));
    parts.push(("formatting", ran(cargo().args(["fmt", "--all", "--check"]))?));
    if !options.quick {
        let lints = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
        parts.push(("lints", ran(cargo().args(lints))?));
        parts.push(("lints of the loom models", ran(&mut loom_lints())?));
        parts.push((
            "arm64 build",
            match arm64::check_command() {
                Ok(mut command) => ran(&mut command)?,
                Err(why) => Part::Skipped(why),
            },
        ));
    }
    report(&parts)
}

/// The models are compiled only with this configuration, into a folder of their own: it changes every crate.
fn loom_lints() -> Command {
    let mut command = crate::test::loom_cargo();
    command.args([
        "clippy",
        "--package",
        "ipc",
        "--package",
        "soft-cpu",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]);
    command
}

fn ran(command: &mut Command) -> Result<Part> {
    Ok(if show(command)? { Part::Ok } else { Part::Failed("see above".into()) })
}

fn judged(findings: Vec<String>) -> Part {
    if findings.is_empty() {
        return Part::Ok;
    }
    Part::Failed(format!("\n  {}", findings.join("\n  ")))
}

fn report(parts: &[(&str, Part)]) -> Result<ExitCode> {
    println!();
    let (mut failed, mut skipped) = (0, 0);
    for (name, part) in parts {
        match part {
            Part::Ok => println!("ok       {name}"),
            Part::Failed(why) => {
                failed += 1;
                println!("FAILED   {name}: {why}");
            }
            Part::Skipped(why) => {
                skipped += 1;
                println!("{SKIPPED}{name}: {why}");
            }
        }
    }
    println!("check: {} parts, {failed} failed, {skipped} skipped", parts.len());
    if parts.is_empty() {
        bail!("nothing was checked");
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
