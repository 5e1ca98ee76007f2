// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `cargo xtask userland`: a Debian is installed by the guest itself on an NVMe disk, then systemd brings it up.
//!
//! The disk holds what debootstrap's first stage leaves ([`image`]); the second stage, dpkg's and every package's
//! scripts, is hundreds of programs and some 10,000 small files on the software machine. The same disk and kernel run
//! on QEMU's emulation, once with one CPU, as the reference for both time and outcome. A task for a person: it takes
//! some minutes a machine.

mod image;
mod machine;
mod packages;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use ::tests::{
    SKIPPED,
    tools::{QEMU, Ready},
};
use anyhow::{Context, Result, ensure};
use clap::Args;
use comfy_table::{Table, presets};

use self::machine::{Engine, Machine, copy_of};
use crate::{
    guest,
    product::{self, Profile},
    progress::Step,
};

/// What systemd says when every unit is up.
const RUNNING: &str = "running";

/// What to run.
#[derive(Args, Debug)]
#[group(id = "userland-options")]
pub struct Options {
    /// Numbers of CPUs of our machine
    #[arg(long, value_delimiter = ',', default_values_t = [1, 4])]
    cpus: Vec<u32>,
    /// Fetch the packages again even if the disk is cached
    #[arg(long = "update-packages")]
    update_packages: bool,
    /// Run the programs in this folder instead of a release build of today
    #[arg(long, value_name = "FOLDER")]
    programs: Option<PathBuf>,
    /// Leave out the reference
    #[arg(long)]
    no_reference: bool,
    #[command(flatten)]
    guest: guest::Options,
}

/// What one machine needed.
struct Row {
    name: String,
    cpus: u32,
    second_stage: Duration,
    boot: Duration,
    state: String,
    failed: String,
}

/// The task. Exit code 0 if every machine of ours installs all packages and systemd has every unit up.
pub fn run(options: &Options) -> Result<ExitCode> {
    let programs = product::given_or_built(options.programs.as_deref(), Profile::Release)?;
    let kernel = guest::obtain(&options.guest)?.kernel;
    let (image, package_count) = image::obtain(&::tests::places::cache(), options.update_packages)?;
    let mut machines: Vec<(String, Engine, u32)> = Vec::new();
    if !options.no_reference {
        match QEMU.installed() {
            Some(qemu) => machines.push((name_of(&qemu)?, Engine::Qemu(qemu), 1)),
            None => println!("{SKIPPED}the reference: {}", QEMU.missing()),
        }
    }
    let ours = options.cpus.iter();
    machines.extend(ours.map(|cpus| ("bulkhead".to_string(), Engine::Bulkhead(programs.clone()), *cpus)));
    ensure!(
        machines.iter().any(|(_, engine, _)| matches!(engine, Engine::Bulkhead(_))),
        "no number of CPUs is given"
    );
    let mut rows = Vec::new();
    for (name, engine, cpus) in machines {
        let row = install_and_boot(&name, engine, cpus, &kernel, &image, package_count);
        rows.push(row.with_context(|| format!("{name} with {cpus} CPUs"))?);
    }
    println!("{package_count} packages\n{}", table(&rows));
    let up = rows.iter().filter(|row| row.name == "bulkhead").all(|row| row.state == RUNNING);
    Ok(if up { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn name_of(qemu: &Ready) -> Result<String> {
    let version = qemu.version()?;
    Ok(format!("QEMU {}", version.split_whitespace().nth(3).unwrap_or_default()))
}

fn install_and_boot(
    name: &str,
    engine: Engine,
    cpus: u32,
    kernel: &Path,
    image: &Path,
    package_count: usize,
) -> Result<Row> {
    let folder = tempfile::tempdir_in(::tests::places::cache()).context("a folder for the disk")?;
    let disk = copy_of(image, folder.path())?;
    let machine = Machine { engine, cpus, kernel, disk: &disk };
    let step = Step::begin(format!("{name}, {cpus} CPUs: second stage"));
    let second_stage = machine.second_stage(package_count)?;
    step.done(&format!("{package_count} packages"));
    let step = Step::begin(format!("{name}, {cpus} CPUs: systemd"));
    let booted = machine.boot()?;
    step.done(&booted.state);
    Ok(Row {
        name: name.into(),
        cpus,
        second_stage,
        boot: booted.took,
        state: booted.state,
        failed: booted.failed,
    })
}

/// Times, each also as a multiple of the reference's, which is the first row if it is not ours.
fn table(rows: &[Row]) -> Table {
    let reference = rows.first().filter(|row| row.name != "bulkhead");
    let time = |of: fn(&Row) -> Duration, row: &Row| {
        let seconds = of(row).as_secs_f64();
        match reference {
            Some(reference) => format!("{seconds:.0} s ({:.2} x)", seconds / of(reference).as_secs_f64()),
            None => format!("{seconds:.0} s"),
        }
    };
    let mut table = Table::new();
    table.load_style(presets::ASCII_BORDERS_ONLY_CONDENSED).set_header([
        "machine",
        "CPUs",
        "second stage",
        "systemd up",
        "state",
        "failed units",
    ]);
    for row in rows {
        table.add_row([
            row.name.clone(),
            row.cpus.to_string(),
            time(|row| row.second_stage, row),
            time(|row| row.boot, row),
            row.state.clone(),
            row.failed.clone(),
        ]);
    }
    table
}
