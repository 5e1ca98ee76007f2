// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The kernel's VFIO and iommufd under our own layer: with a device whose DMA a test can steer.

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use tests::{
    guest::GuestFiles,
    vm::{Options, Vm},
};

use super::Verdict;
use crate::{
    places,
    report::Report,
    seen::{self, EDU, Function},
    suite::{self, Which},
};

/// For a program to refuse.
const SOON: Duration = Duration::from_secs(20);

/// Exit code of `bulkhead run` when the host lacks something.
const HOST_REFUSED: i32 = 1;

/// The test of what a host is told that does not nest.
const REFUSAL: &[&str] = &["host_that_does_not_nest"];

/// What the device end and the nested IOMMU of `dev-vfio` do with a physical device.
pub fn edu(report: &mut Report<'_>) -> Result<Verdict> {
    let edu = take_edu(report)?;
    let (well, table) = host_check(&edu)?;
    ensure!(well, "host-check finds something wrong:\n{table}");
    report.evidence(format!("host-check: {} lines, none of them NO", table.lines().count()))?;
    suite::run(report, "dev-vfio-nested", Which::But(REFUSAL))?;
    Ok(Verdict::Shown)
}

/// What our client side does with the kernel's migration states.
pub fn migration(report: &mut Report<'_>) -> Result<Verdict> {
    suite::run(report, "dev-vfio-mtty", Which::But(&[A_HUNDRED]))?;
    Ok(Verdict::Shown)
}

/// The process of such a device, moved often.
pub fn moved_often(report: &mut Report<'_>) -> Result<Verdict> {
    suite::run(report, "dev-vfio-mtty", Which::Only(&[A_HUNDRED]))?;
    Ok(Verdict::Shown)
}

/// In the name of the test that takes long.
const A_HUNDRED: &str = "in_a_hundred_moves";

/// What they say to a host that keeps the guest's stage 1 out.
pub fn refused(report: &mut Report<'_>) -> Result<Verdict> {
    let edu = take_edu(report)?;
    let (well, table) = host_check(&edu)?;
    let line = table.lines().find(|line| line.contains("CANWBS")).unwrap_or_default();
    ensure!(!well && line.contains("NO "), "host-check finds nothing wrong:\n{table}");
    report.evidence(format!("host-check: {}", line.split(": ").next().unwrap_or(line)))?;
    suite::run(report, "dev-vfio-nested", Which::Only(REFUSAL))?;
    Ok(Verdict::Shown)
}

/// What our layer does with the kernel's mock of an IOMMU, which has what the emulated SMMU lacks.
pub fn mock(report: &mut Report<'_>) -> Result<Verdict> {
    suite::run(report, "dev-vfio-mock", Which::All)?;
    Ok(Verdict::Shown)
}

/// What the programs say to a host without iommufd: the check, and a machine that is to be started.
pub fn no_iommufd(report: &mut Report<'_>) -> Result<Verdict> {
    ensure!(!Path::new("/dev/iommu").exists(), "this server has an iommufd");
    let edu = take_edu(report)?;
    let (well, table) = host_check(&edu)?;
    let line = table.lines().find(|line| line.contains("iommufd (/dev/iommu)")).unwrap_or_default();
    ensure!(
        !well && line.contains("NO ") && line.contains("CONFIG_IOMMUFD"),
        "host-check finds nothing wrong:\n{table}"
    );
    report.evidence(format!("host-check: {}", line.split_whitespace().collect::<Vec<_>>().join(" ")))?;

    let files = GuestFiles::in_cache(Path::new(places::GUEST));
    let mut options = Options::new(places::PROGRAMS.into(), files, "refused");
    options.arguments = ["--vfio".to_owned(), edu.address].into();
    let mut vm = Vm::launch(options)?;
    let code = vm.console.wait_exit(SOON)?.code();
    let told = vm.console.errors();
    ensure!(code == Some(HOST_REFUSED), "`bulkhead run` ended with {code:?}: {told}");
    for part in ["iommufd cannot be opened", "/dev/iommu", "CONFIG_IOMMUFD"] {
        ensure!(told.contains(part), "`bulkhead run` does not say {part:?}: {told}");
    }
    report.evidence(format!("bulkhead run: {}", told.lines().next().unwrap_or_default()))?;
    let left = vm.left_over();
    ensure!(left.is_empty(), "left behind: {}", left.join(", "));
    Ok(Verdict::Shown)
}

/// What the product says of this host, and whether it is content.
pub fn host_check(device: &Function) -> Result<(bool, String)> {
    let program = Path::new(places::PROGRAMS).join("bulkhead");
    let output = Command::new(program)
        .args(["host-check", "--device", &device.address])
        .output()
        .context("`bulkhead host-check` did not start")?;
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    println!("{table}{}", String::from_utf8_lossy(&output.stderr));
    Ok((output.status.success(), table))
}

fn take_edu(report: &mut Report<'_>) -> Result<Function> {
    let edu = seen::functions_with(EDU)?.into_iter().next().context("the server has no edu device")?;
    let file = edu.bind_to_vfio()?;
    ensure!(file.exists(), "there is no {}: the kernel has no CONFIG_VFIO_DEVICE_CDEV", file.display());
    report.evidence(format!("{} is {}", edu.address, file.display()))?;
    Ok(edu)
}
