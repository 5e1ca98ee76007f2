// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `cargo xtask syscalls`: which system calls each sealed process makes, beside those that its profile allows.
//!
//! The programs that ship boot Linux under `strace`, twice: with an NVMe disk that is filled and read back, whose
//! processes are restarted and whose SMMU's is killed; and without one. Both are paused, resumed, inspected, and saved
//! and restored in between. What each process calls after it has sealed itself goes into a table,
//! `sandbox/SYSCALLS.md`; a call that is allowed and was not seen needs a reason there (`sandbox::profiles::UNSEEN`),
//! or the task fails. Needs root: a sealed process's memory is nobody else's to read.

mod document;
mod trace;

use std::{fs, process::ExitCode, time::Duration};

use ::tests::{
    SKIPPED,
    command::find,
    crash, disk, places,
    vm::{Options as Machine, Vm},
};
use anyhow::{Context, Result, ensure};
use clap::Args;

use self::trace::Used;
use crate::{
    guest,
    product::{self, Profile},
};

/// What to do.
#[derive(Args, Debug)]
#[group(id = "syscalls-options")]
pub struct Options {}

/// A traced machine is slower than others.
const BOOT: Duration = Duration::from_secs(240);
const STEP: Duration = Duration::from_secs(120);
const DISK: &str = "nvme0n1";
const DISK_MIB: u64 = 64;
const FILE_MIB: u64 = 16;

/// The task.
pub fn run(_options: &Options) -> Result<ExitCode> {
    let missing = [
        find("strace").is_none().then_some("strace is not installed (`apt-get install strace`)"),
        fs::read_dir("/proc/1/fd").is_err().then_some("only root may trace a sealed process"),
    ];
    if let Some(why) = missing.into_iter().flatten().next() {
        println!("{SKIPPED}the table of system calls: {why}");
        return Ok(ExitCode::SUCCESS);
    }
    let programs = product::build(Profile::Dev)?;
    let files = guest::obtain(&guest::Options::default())?;
    let folder = tempfile::tempdir().context("a folder for the traces")?;
    let mut used = Used::default();
    for with_disk in [true, false] {
        let traces = folder.path().join(if with_disk { "disk" } else { "moved" });
        fs::create_dir(&traces)?;
        let mut machine = Machine::new(programs.clone(), files.clone(), "traced");
        machine.under = trace::command(&traces);
        machine.arguments = ["--cpu", "soft"].map(String::from).to_vec();
        if with_disk {
            machine.nvme = vec![disk::image(&folder, DISK_MIB)?];
        }
        live(Vm::launch(machine)?, with_disk)?;
        used.add(&traces)?;
    }
    let text = document::render(&used)?;
    let path = places::root().join(document::PATH);
    fs::write(&path, text).with_context(|| format!("{} could not be written", path.display()))?;
    println!("{} is written", document::PATH);
    Ok(ExitCode::SUCCESS)
}

/// The life of a machine, from boot to its end.
fn live(mut vm: Vm, with_disk: bool) -> Result<()> {
    vm.console.shell(BOOT).with_context(|| vm.console.errors())?;
    if with_disk {
        disk::fill(&mut vm.console, DISK, FILE_MIB, STEP)?;
        vm.console
            .run(&format!("mount /dev/{DISK} /mnt && rm /mnt/data && fstrim /mnt; umount /mnt"), STEP)?;
    }
    if with_disk {
        vm.control_json("dirty-rate")?;
        for process in ["nvme0", "smmu0"] {
            let answer = vm.control("restart", &[process])?;
            ensure!(
                answer.status.success(),
                "restart {process}: {}",
                String::from_utf8_lossy(&answer.stderr)
            );
        }
        crash::kill_and_await(&vm, "smmu0", STEP)?;
        disk::fill(&mut vm.console, DISK, FILE_MIB, STEP)?;
    }
    for task in ["ps", "inspect", "pause", "inspect", "resume", "save-restore", "status"] {
        let answer = vm.control::<&str>(task, &[])?;
        ensure!(answer.status.success(), "{task}: {}", String::from_utf8_lossy(&answer.stderr));
    }
    ensure!(vm.console.run("true", STEP)?.code == 0, "the guest does not go on");
    if with_disk {
        return vm.power_off(STEP);
    }
    ensure!(vm.control::<&str>("stop", &[])?.status.success(), "the machine cannot be stopped");
    let status = vm.console.wait_exit(STEP)?;
    ensure!(status.success(), "`bulkhead run` ended with {status}");
    Ok(())
}
