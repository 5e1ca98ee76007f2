// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `cargo xtask arm-suite`: the guests of kvm-unit-tests on this machine, as a table of pass, skip with reason, fail.
//!
//! The images are built outside the tree, from the suite's own sources, configured for kvmtool's kind of machine and
//! our serial port: `./configure --arch=arm64 --target=kvmtool --earlycon=uart,mmio,0x09000000` and `make`; its folder
//! `arm` has them. Without the images there is nothing to run, which is an error. In the Arm lab the same cases run on
//! KVM (`cargo xtask lab --arm-suite FOLDER arm-suite`).

use std::{path::PathBuf, process::ExitCode, time::Instant};

use ::tests::arm_suite::{CASES, Case, Machine, Outcome};
use anyhow::{Context, Result, ensure};
use clap::Args;
use comfy_table::{Table, presets};

use crate::{
    product::{self, Profile},
    progress::Step,
};

/// What to run.
#[derive(Args, Debug)]
#[group(id = "arm-suite-options")]
pub struct Options {
    /// The folder of the suite's flat images
    #[arg(long, value_name = "FOLDER")]
    images: PathBuf,
    /// Numbers of CPUs
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 4, 8])]
    cpus: Vec<u32>,
    /// Run the programs in this folder instead of a development build of today
    #[arg(long, value_name = "FOLDER")]
    programs: Option<PathBuf>,
    /// Cases to run, by parts of their names; all if none is given
    #[arg(value_name = "CASE")]
    names: Vec<String>,
}

impl Options {
    fn chosen(&self) -> impl Iterator<Item = (&'static Case, u32)> {
        let named = |case: &&Case| {
            self.names.is_empty() || self.names.iter().any(|name| case.name.contains(name.as_str()))
        };
        CASES.iter().filter(named).flat_map(|case| {
            self.cpus.iter().copied().filter(|count| case.fits(*count)).map(move |count| (case, count))
        })
    }
}

/// The task. Exit code 0 if no case fails.
pub fn run(options: &Options) -> Result<ExitCode> {
    ensure!(options.images.is_dir(), "{} is no folder", options.images.display());
    let programs = product::given_or_built(options.programs.as_deref(), Profile::Dev)?;
    let mut table = Table::new();
    table
        .load_style(presets::ASCII_BORDERS_ONLY_CONDENSED)
        .set_header(["case", "CPUs", "result", "took", "seen"]);
    let (mut passed, mut skipped, mut failed) = (0, 0, 0);
    for (case, cpus) in options.chosen() {
        let step = Step::begin(format!("{}, {cpus} CPUs", case.name));
        let begun = Instant::now();
        let machine = Machine { programs: programs.clone(), cpu: "soft", cpus };
        let outcome = machine.run(case, &options.images).with_context(|| case.name);
        let (count, word, seen) = match outcome {
            Ok(Outcome::Pass(checks)) => (&mut passed, "pass", format!("{checks} checks")),
            Ok(Outcome::Skip(reason)) => (&mut skipped, "skip", reason),
            Ok(Outcome::Fail(reason)) => (&mut failed, "FAIL", reason),
            Err(error) => (&mut failed, "FAIL", format!("{error:#}")),
        };
        *count += 1;
        step.done(&format!("{word}: {seen}"));
        let took = format!("{:.1} s", begun.elapsed().as_secs_f64());
        table.add_row([case.name, &cpus.to_string(), word, &took, &seen]);
    }
    ensure!(passed + skipped + failed > 0, "no case has such a name and fits such a number of CPUs");
    println!("\n{table}");
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
