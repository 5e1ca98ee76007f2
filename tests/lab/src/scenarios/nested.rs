// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The kernel's VFIO and iommufd under our own layer: with a device whose DMA a test can steer.

use anyhow::{Context, Result, ensure};

use super::Verdict;
use crate::{
    report::Report,
    seen::{self, EDU},
    suite,
};

/// What the device end and the nested IOMMU of `dev-vfio` do with a real device.
pub fn edu(report: &mut Report<'_>) -> Result<Verdict> {
    take_edu(report)?;
    suite::run(report, "dev-vfio-nested", &[])?;
    Ok(Verdict::Shown)
}

/// What they say to a host that keeps the guest's stage 1 out.
pub fn refused(report: &mut Report<'_>) -> Result<Verdict> {
    take_edu(report)?;
    suite::run(report, "dev-vfio-nested", &["host_that_does_not_nest"])?;
    Ok(Verdict::Shown)
}

fn take_edu(report: &mut Report<'_>) -> Result<()> {
    let functions = seen::functions_with(EDU)?;
    let edu = functions.first().context("the server has no edu device")?;
    let file = edu.bind_to_vfio()?;
    ensure!(file.exists(), "there is no {}: the kernel has no CONFIG_VFIO_DEVICE_CDEV", file.display());
    report.evidence(format!("{} is {}", edu.address, file.display()))?;
    Ok(())
}
