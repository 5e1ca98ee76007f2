// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `cargo xtask lab`: the Arm lab, an emulated arm64 server with KVM, a nesting SMMUv3, VFIO and iommufd.
//!
//! Everything is fetched, built and cached in the target folder, without root. The scenarios themselves run inside:
//! `tests/lab`, whose DESIGN.md says how to add one. The last lines are a table of them; exit code 0 means that all of
//! them are ok.

mod cross;
mod disk;
mod iort;
mod kernel;
mod server;
mod table;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use ::lab::{
    places as inside,
    report::{Outcome, Record},
    scenarios::{self, Scenario, When},
};
use ::tests::{
    SKIPPED,
    command::{show, write_whole},
    places,
    tools::{CROSS_LINKER, QEMU_LAB, Ready},
};
use anyhow::{Context, Result, bail};
use clap::Args;

use self::{server::Server, table::Table};
use crate::{
    guest::{self, tools},
    progress::Step,
};

/// Limit for a boot of the server, on a slow and busy machine; an idle one needs four seconds.
const BOOT: Duration = Duration::from_secs(60);

/// What to run.
#[derive(Args, Debug)]
#[group(id = "lab-options")]
pub struct Options {
    /// Scenarios to run; all that are run by default, if none is named
    #[arg(value_name = "SCENARIO", value_parser = known)]
    names: Vec<String>,
    /// Those too that take many minutes
    #[arg(long, conflicts_with_all = ["names", "shell"])]
    long: bool,
    /// List the scenarios
    #[arg(long, conflicts_with_all = ["names", "shell"])]
    list: bool,
    /// Give the server's console to you instead (Ctrl-A X ends the emulator)
    #[arg(long, conflicts_with = "names")]
    shell: bool,
    /// Boot a kernel built from Debian's sources with tests/lab/kernel.config, even if another lies ready
    #[arg(long, conflicts_with = "or_skip")]
    build_kernel: bool,
    /// Put the flat images of a public suite onto the server's disk, for the scenario `arm-suite`
    #[arg(long, value_name = "FOLDER")]
    arm_suite: Option<PathBuf>,
    /// Record events of the emulator in the logs, such as 'smmuv3_*'
    #[arg(long, value_name = "EVENTS")]
    trace: Option<String>,
    /// Where a part cannot be had without building a kernel, say so and leave the lab out
    #[arg(long)]
    or_skip: bool,
}

fn known(name: &str) -> Result<String, String> {
    match scenarios::named(name) {
        Some(_) => Ok(name.into()),
        None => Err("there is no such scenario (`cargo xtask lab --list`)".into()),
    }
}

/// The task.
pub fn run(options: &Options) -> Result<ExitCode> {
    if options.list {
        for scenario in scenarios::ALL {
            let asked = match scenario.when {
                When::Default => "",
                When::Long => " (with --long, or by name)",
                When::Named => " (only by name)",
            };
            println!("{:<16} {}{asked}", scenario.name, scenario.about);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let start = Instant::now();
    let parts = match Parts::obtain(options) {
        Ok(parts) => parts,
        Err(error) if options.or_skip => {
            println!("{SKIPPED}the Arm lab: {error:#}");
            return Ok(ExitCode::SUCCESS);
        }
        Err(error) => return Err(error),
    };
    let lab = Lab::build(parts, options.arm_suite.as_deref(), options.trace.clone())?;
    if options.shell {
        return lab.shell();
    }
    let chosen: Vec<&Scenario> = scenarios::ALL
        .iter()
        .filter(|scenario| match options.names.is_empty() {
            true => scenario.when == When::Default || options.long && scenario.when == When::Long,
            false => options.names.iter().any(|name| name == scenario.name),
        })
        .collect();
    let prepared = start.elapsed();
    let mut table = Table::default();
    for kind in scenarios::Server::ALL {
        let here: Vec<&Scenario> =
            chosen.iter().filter(|scenario| scenario.server == kind).copied().collect();
        lab.run(kind, &here, &mut table)?;
    }
    let code = table.finish();
    println!(
        "lab: {:.1} s to prepare, {:.1} s to run; logs in {}",
        prepared.as_secs_f64(),
        (start.elapsed() - prepared).as_secs_f64(),
        lab.logs().display()
    );
    Ok(code)
}

/// What the lab is made from: to be had or not, whatever the state of the sources here.
struct Parts {
    /// Where all that is made goes.
    folder: PathBuf,
    /// The folder of the guest's files.
    guest: PathBuf,
    emulator: Ready,
    firmware: PathBuf,
    linker: Ready,
    kernel: PathBuf,
}

impl Parts {
    /// Fetches what is missing.
    fn obtain(options: &Options) -> Result<Self> {
        let folder = places::target().join("lab");
        fs::create_dir_all(&folder).with_context(|| format!("{} could not be made", folder.display()))?;
        cross::library()?;
        let files = guest::obtain(&guest::Options::default())?;
        let guest = files.initramfs.parent().context("the guest's files have no folder")?.to_path_buf();
        let emulator = tools::obtain(&QEMU_LAB, &places::cache())?;
        let firmware = emulator.firmware().context("no UEFI for arm64 (package qemu-efi-aarch64)")?;
        let linker = tools::obtain(&CROSS_LINKER, &places::cache())?;
        let ready = if options.build_kernel { kernel::built(&folder)? } else { kernel::present(&folder)? };
        let kernel = match ready {
            Some(kernel) => kernel,
            None if options.or_skip => {
                bail!("there is no kernel for it (`cargo xtask lab` builds one, in some ten minutes)")
            }
            None => kernel::build(&folder, &linker)?,
        };
        Ok(Self { folder, guest, emulator, firmware, linker, kernel })
    }
}

/// The lab, ready to boot.
struct Lab {
    parts: Parts,
    disk: PathBuf,
    /// The archive that makes the kernel offer nesting.
    tables: PathBuf,
    trace: Option<String>,
}

impl Lab {
    fn build(parts: Parts, arm_suite: Option<&Path>, trace: Option<String>) -> Result<Self> {
        // Two tasks at once would make the same disk: the second waits.
        let lock = fs::File::create(parts.folder.join(".lock")).context("the lab's lock file")?;
        lock.lock().context("the lab could not be locked")?;
        let built = cross::build(&parts.linker)?;
        let step = Step::begin("lab disk");
        let contents =
            disk::Contents { built: &built, kernel: &parts.kernel, guest: &parts.guest, arm_suite };
        let disk = disk::make(&parts.folder, &parts.linker, &contents)?;
        step.done(&disk.display().to_string());
        let mut lab = Self { parts, disk, tables: PathBuf::new(), trace: None };
        lab.tables = lab.override_tables()?;
        lab.trace = trace;
        Ok(lab)
    }

    fn logs(&self) -> PathBuf {
        self.parts.folder.join("logs")
    }

    fn server<'a>(
        &'a self,
        tables: Option<&'a Path>,
        kernel_parameters: &'static str,
        logs: &str,
    ) -> Server<'a> {
        Server {
            emulator: &self.parts.emulator,
            firmware: &self.parts.firmware,
            kernel: &self.parts.kernel,
            disk: &self.disk,
            tables,
            kernel_parameters,
            trace: self.trace.as_deref(),
            logs: self.logs().join(logs),
        }
    }

    /// The changed IORT of this very machine, read from it in a boot of its own and cached.
    fn override_tables(&self) -> Result<PathBuf> {
        let mut key = crc32fast::Hasher::new();
        key.update(Server::hardware().as_bytes());
        key.update(self.parts.emulator.version()?.as_bytes());
        key.update(&fs::read(&self.parts.firmware).context("the firmware")?);
        let file = self.parts.folder.join(format!("iort-{:08x}.cpio", key.finalize()));
        if file.is_file() {
            return Ok(file);
        }
        let step = Step::begin("lab tables");
        let mut table = None;
        self.server(None, "", "tables").run(&format!("{}IORT", inside::PARAMETER_TABLE), BOOT, |record| {
            if let Record::Table(hex) = record {
                table = Some(hex);
            }
        })?;
        let table = table.context("the server did not send its IORT: see target/lab/logs/tables")?;
        write_whole(&file, &iort::overriding(&iort::from_hex(&table)?)?)?;
        step.done("IORT read and changed");
        Ok(file)
    }

    fn shell(&self) -> Result<ExitCode> {
        let server = self.server(Some(&self.tables), "", "shell");
        eprintln!("the server's console is yours; `poweroff -f` or Ctrl-A X ends it");
        let well = show(&mut server.command(inside::PARAMETER_SHELL, true)?)?;
        Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// Boots a server of this kind and runs `chosen` on it. If it dies on the way, the rest gets a new one.
    fn run(&self, kind: scenarios::Server, chosen: &[&Scenario], table: &mut Table) -> Result<()> {
        let tables = Some(self.tables.as_path());
        let (tables, words, logs) = match kind {
            scenarios::Server::Nesting => (tables, "", "nesting"),
            scenarios::Server::NoNesting => (None, "", "no-nesting"),
            scenarios::Server::NoIommufd => (tables, "initcall_blacklist=iommufd_init ", "no-iommufd"),
        };
        let mut left: Vec<&Scenario> = chosen.to_vec();
        let mut boot = 0;
        while !left.is_empty() {
            boot += 1;
            let names: Vec<&str> = left.iter().map(|scenario| scenario.name).collect();
            let limit = BOOT + left.iter().map(|scenario| scenario.limit).sum::<Duration>();
            let server = self.server(tables, words, &format!("{logs}-{boot}"));
            let ended_well =
                server.run(&format!("{}{}", inside::PARAMETER_RUN, names.join(",")), limit, |record| {
                    if let Record::End(..) = &record {
                        left.remove(0);
                    }
                    table.take(record);
                });
            if left.is_empty() {
                ended_well?;
                break;
            }
            let why = match ended_well {
                Ok(()) => "the server powered off before its end".to_string(),
                Err(error) => format!("{error:#}"),
            };
            if !table.open() {
                bail!("{why}, before a scenario began: see {}", server.logs.display());
            }
            left.remove(0);
            table.take(Record::End(Outcome::Failed(why), 0));
        }
        Ok(())
    }
}
