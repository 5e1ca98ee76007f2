// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The proofs of the sandbox, with the arm64 profiles on an arm64 kernel: the suites that prove them elsewhere.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use tests::{
    guest::GuestFiles,
    vm::{Options, Vm},
};

use super::Verdict;
use crate::{
    places,
    report::Report,
    seen::{self, Function, NVME},
    suite::{self, Which},
};

/// For a machine to run, and to end.
const SOON: Duration = Duration::from_secs(60);

/// What a taken-over process would try, and whether it must end over it: the others may be refused by an error.
const ATTEMPTS: [(&str, bool); 10] = [
    ("open", false),
    ("execve", false),
    ("fork", false),
    ("kill", false),
    ("socket", true),
    ("ptrace", true),
    ("foreign-ioctl", true),
    ("mmap-exec", true),
    ("unshare", true),
    ("mount", true),
];

/// Processes sealed with each profile.
pub fn sealed(report: &mut Report<'_>) -> Result<Verdict> {
    suite::run(report, "sandbox-sealed", Which::All)?;
    Ok(Verdict::Shown)
}

/// The roles of running machines: with guests of a few instructions, and with Linux.
pub fn roles(report: &mut Report<'_>) -> Result<Verdict> {
    suite::run(report, "vmm-main-isolation", Which::All)?;
    suite::run(report, "tests-isolation", Which::All)?;
    Ok(Verdict::Shown)
}

/// The process of a physical device, with its device, attacked from inside; `vfio-guest` audits it from outside.
pub fn real_device(report: &mut Report<'_>) -> Result<Verdict> {
    if !Path::new("/dev/kvm").exists() {
        return Ok(Verdict::Skipped("this server has no KVM".into()));
    }
    let device = seen::functions_with(NVME)?.into_iter().next().context("the server has no NVMe")?;
    device.bind_to_vfio()?;
    let (mut refused, mut ended) = (Vec::new(), Vec::new());
    for (attempt, is_deadly) in ATTEMPTS {
        let survived = survives(&device, attempt).with_context(|| format!("attempt {attempt:?}"))?;
        ensure!(!(survived && is_deadly), "attempt {attempt:?} did not end the process");
        if survived { refused.push(attempt) } else { ended.push(attempt) }
    }
    for (what, attempts) in [("refused", refused), ("ended with a report", ended)] {
        if !attempts.is_empty() {
            report.evidence(format!("vfio0, {what}: {}", attempts.join(" ")))?;
        }
    }
    Ok(Verdict::Shown)
}

/// Whether the process lives on after an attempt that was refused; its death must be a report, and costs the machine
/// its device alone.
fn survives(device: &Function, attempt: &str) -> Result<bool> {
    let mut options =
        Options::new(places::PROGRAMS.into(), GuestFiles::in_cache(Path::new(places::GUEST)), "attacked");
    options.memory = "128M".into();
    // The emulated SMMU has no SubstreamIDs.
    options.arguments = ["--cpu", "kvm", "--smmu-ssidsize", "0", "--vfio"].map(String::from).to_vec();
    options.arguments.push(device.address.clone());
    let mut vm = Vm::launch(options)?;
    vm.wait_running(SOON).with_context(|| vm.console.errors())?;
    let answer = vm.control("probe", &["vfio0", attempt])?;
    let survived = answer.status.success();
    if survived {
        let said = String::from_utf8_lossy(&answer.stdout);
        ensure!(said.starts_with("refused with errno"), "it was not refused: {said}");
    }
    ensure!(vm.control::<&str>("stop", &[])?.status.success(), "the machine cannot be stopped");
    let code = vm.console.wait_exit(SOON)?.code();
    ensure!(code == Some(0), "`bulkhead run` ended with {code:?}: {}", vm.console.errors());
    if !survived {
        let told = vm.console.errors();
        let report = told.lines().find(|line| line.contains("`vfio-kernel` ended itself"));
        ensure!(report.is_some_and(|line| line.contains("refused: ")), "its death is not reported: {told}");
    }
    let left = vm.left_over();
    ensure!(left.is_empty(), "left behind: {}", left.join(", "));
    Ok(survived)
}
