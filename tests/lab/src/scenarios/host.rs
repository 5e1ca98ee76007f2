// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The server itself: is it what the other scenarios take it for?

use std::{fs, path::Path};

use anyhow::{Context, Result, bail, ensure};

use super::Verdict;
use crate::{
    report::Report,
    seen::{self, EDU, NVME},
};

/// The bit for nested stages in the features that Linux's arm-smmu-v3 driver prints.
const FEATURE_NESTING: u64 = 1 << 19;

/// KVM at EL2, a nesting SMMU, the files of KVM, iommufd and VFIO, and every device of ours in a group of its own.
pub fn nesting(report: &mut Report<'_>) -> Result<Verdict> {
    let log = seen::kernel_log()?;
    report.evidence(
        fs::read_to_string("/proc/version")
            .context("the kernel's version")?
            .split(" (")
            .next()
            .unwrap_or_default(),
    )?;
    for text in ["CPU: All CPU(s) started at EL2", "VHE mode initialized", "IORT ACPI table found in initrd"]
    {
        let line = seen::line(&log, text).with_context(|| format!("the kernel's log has no {text:?}"))?;
        report.evidence(line)?;
    }
    let line = seen::line(&log, "(features 0x").context("no SMMUv3 in the kernel's log")?;
    ensure!(features(line)? & FEATURE_NESTING != 0, "the SMMU offers no nested stages: {line}");
    report.evidence(line)?;
    for file in ["/dev/kvm", "/dev/iommu", "/dev/vfio/vfio"] {
        ensure!(Path::new(file).exists(), "there is no {file}");
    }
    let functions = seen::functions()?;
    for (id, count) in [(EDU, 1), (NVME, 2)] {
        let found: Vec<_> = functions.iter().filter(|function| function.id == id).collect();
        ensure!(found.len() == count, "{} devices {id}, not {count}", found.len());
        for function in found {
            let Some((group, kind)) = &function.group else {
                bail!("{} is in no IOMMU group", function.address)
            };
            ensure!(kind == "DMA", "group {group} of {} has type {kind}, not DMA", function.address);
            let members =
                fs::read_dir(function.folder().join("iommu_group/devices")).context("a group's devices")?;
            ensure!(members.count() == 1, "{} shares group {group}", function.address);
            report.evidence(format!("{} {} group {group} type {kind}", function.address, function.id))?;
        }
    }
    Ok(Verdict::Shown)
}

/// The same server with the firmware's own IORT: the SMMU still has two stages, but nothing was overridden.
pub fn no_nesting(report: &mut Report<'_>) -> Result<Verdict> {
    let log = seen::kernel_log()?;
    ensure!(seen::line(&log, "IORT ACPI table found in initrd").is_none(), "the IORT was overridden");
    let line = seen::line(&log, "(features 0x").context("no SMMUv3 in the kernel's log")?;
    report.evidence(line)?;
    ensure!(Path::new("/dev/iommu").exists(), "there is no /dev/iommu");
    Ok(Verdict::Shown)
}

fn features(line: &str) -> Result<u64> {
    let digits = line.split("features 0x").nth(1).and_then(|rest| rest.split(')').next());
    u64::from_str_radix(digits.unwrap_or_default(), 16).with_context(|| format!("features in {line:?}"))
}
