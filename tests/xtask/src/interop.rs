// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `cargo xtask interop`: both ends of vfio-user against third-party implementations.
//!
//! The foreign parts are fetched into the cache: QEMU as a package of the newest stable release of the machine's own
//! distribution, with its libraries, and the example server of a crate from the crate registry. Neither is needed to
//! build or run anything else. The scenarios are tests (`tests/tests/interop*.rs`), so that `cargo xtask test` runs
//! them too where the parts are there.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use ::tests::{
    SEEN, SKIPPED,
    command::{capture, remove_folder},
    foreign, places,
    tools::VFIO_USER_QEMU,
};
use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::{
    guest,
    product::{self, Profile, cargo},
    stages::Stages,
    test::skips,
};

/// What to do.
#[derive(Args, Debug)]
#[group(id = "interop-options")]
pub struct Options {
    /// Only fetch the foreign parts, for `cargo xtask test`
    #[arg(long)]
    fetch: bool,
    /// Fetch them again, perhaps newer ones
    #[arg(long)]
    update: bool,
    /// Run libvfio-user's sample servers too, which were built into this folder (`build/samples` of its sources)
    #[arg(long, value_name = "FOLDER")]
    servers: Option<PathBuf>,
}

/// A line of the table, and the test behind it.
const SCENARIOS: [(&str, &str, &str); 5] = [
    (
        "our client, foreign device",
        "interop_client",
        "client_opens_a_foreign_device_and_reaches_its_register",
    ),
    (
        "our codec, foreign interrupt",
        "interop_client",
        "connection_takes_a_foreign_servers_interrupt_and_outlives_its_refusals",
    ),
    ("foreign device in our guest", "interop", "device_of_a_foreign_server_is_a_function_of_our_guest"),
    (
        "our NVMe in QEMU's guest",
        "interop",
        "qemu_guest_keeps_a_file_system_on_our_nvme_over_a_reboot_and_a_second_client",
    ),
    (
        "the same, DMA by messages",
        "interop",
        "qemu_guest_keeps_a_file_system_on_our_nvme_that_reaches_its_memory_by_messages",
    ),
];

/// The same for the samples of the reference library, which no registry has: package, suite, test.
const SAMPLES: [(&str, [&str; 3]); 4] = [
    (
        "sample `server`: DMA, INTx, I/O",
        [
            "dev-vfio",
            "service",
            "samples::server_sample_does_its_dma_by_message_and_in_memory_and_interrupts",
        ],
    ),
    (
        "sample `server`: disconnect",
        ["dev-vfio", "service", "samples::server_sample_ends_when_its_client_does"],
    ),
    (
        "sample `gpio`: a second client",
        ["dev-vfio", "service", "samples::gpio_sample_counts_what_is_written_and_takes_a_second_client"],
    ),
    (
        "sample `gpio` in our guest",
        ["tests", "interop", "io_bar_of_a_reference_sample_is_driven_by_our_guest"],
    ),
];

/// The task.
pub fn run(options: &Options) -> Result<ExitCode> {
    let mut stages = Stages::independent();
    stages.run_shown("foreign server", || server(options.update).map(|seen| ((), seen)));
    stages.run("QEMU as client", || qemu(options.update).map(|seen| ((), seen)));
    if options.fetch {
        return Ok(stages.finish("interop"));
    }
    stages.run("guest files", || {
        guest::prepare_for_suites()?;
        Ok(((), "kernel and initramfs".into()))
    });
    stages.run_shown("programs", || {
        product::build(Profile::Dev)?;
        Ok(((), "built for the suites that run them".into()))
    });
    for (name, suite, test) in SCENARIOS {
        stages.run(name, || scenario(["tests", suite, test], None).map(|seen| ((), seen)));
    }
    if let Some(servers) = &options.servers {
        let servers = servers.canonicalize().with_context(|| format!("{}", servers.display()))?;
        for (name, test) in SAMPLES {
            stages.run(name, || scenario(test, Some(&servers)).map(|seen| ((), seen)));
        }
    }
    Ok(stages.finish("interop"))
}

/// Runs one test. Here, where the parts were to be fetched, a skip is a failure.
fn scenario([package, suite, test]: [&str; 3], servers: Option<&Path>) -> Result<String> {
    let mut command = cargo();
    command.envs(servers.map(|folder| (foreign::SERVERS, folder)));
    command.args(["test", "--quiet", "--package", package, "--test", suite, "--"]);
    command.args(["--exact", test, "--show-output"]);
    let output = capture(&mut command)?;
    if let Some(reason) = skips::in_report(&output).skipped.first() {
        bail!("{SKIPPED}{reason}");
    }
    let seen = output.lines().find_map(|line| line.split_once(SEEN));
    seen.map(|(_, seen)| seen.to_string()).with_context(|| format!("{test} was not run"))
}

/// Builds the foreign server, unless it is there.
fn server(update: bool) -> Result<String> {
    let root = foreign::root();
    if foreign::program().is_none() || update {
        // Somewhere else than in the workspace, whose configuration is for our own programs.
        let mut command = Command::new(cargo().get_program());
        command.current_dir(std::env::temp_dir()).args(["install", "--quiet", "--locked", "--debug"]);
        command.args([foreign::PACKAGE, "--example", foreign::EXAMPLE, "--force", "--root"]).arg(&root);
        capture(&mut command).context("the example server could not be built from the crate registry")?;
    }
    let installed = capture(cargo().args(["install", "--list", "--root"]).arg(&root))?;
    let version = installed.lines().next().unwrap_or_default().trim_end_matches(':').to_string();
    ensure!(version.starts_with(foreign::PACKAGE), "{} holds no server", root.display());
    Ok(format!("{version}, example {}", foreign::EXAMPLE))
}

/// Unpacks a QEMU that is a vfio-user client, unless the machine or the cache has one.
fn qemu(update: bool) -> Result<String> {
    if update {
        remove_folder(&places::cache().join(VFIO_USER_QEMU.folder))?;
    }
    guest::tools::obtain(&VFIO_USER_QEMU, &places::cache())?.version()
}
