// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The features that Linux's driver reports for our SMMU, against those that we advertise.
//!
//! The driver prints the features it derived from the ID registers as a bit mask of its own; the bits are
//! named here after its source (drivers/iommu/arm/arm-smmu-v3/arm-smmu-v3.h, unchanged since 5.10 for these).

use anyhow::{Context, Result, ensure};

/// Bits of the mask that the default model must show, with their names in the driver.
const FEATURES: [(u32, &str); 6] = [
    (1 << 0, "2LVL_STRTAB"),
    (1 << 1, "2LVL_CDTAB"),
    (1 << 2, "TT_LE"),
    (1 << 8, "COHERENCY"),
    (1 << 9, "TRANS_S1"),
    (1 << 15, "RANGE_INV"),
];

/// Bits that the default model must not show: each would promise something that it does not do.
const ABSENT: [(u32, &str); 5] =
    [(1 << 4, "PRI"), (1 << 5, "ATS"), (1 << 7, "MSI"), (1 << 10, "TRANS_S2"), (1 << 11, "STALLS")];

/// Checks the driver's lines and returns them in short.
pub fn check(log: &str) -> Result<String> {
    let line = log
        .lines()
        .find(|line| line.contains("arm-smmu-v3") && line.contains("features"))
        .context("the arm-smmu-v3 driver did not report the SMMU's features")?;
    let mask = line.rsplit_once("features 0x").and_then(|(_, rest)| rest.split(')').next());
    let mask =
        mask.and_then(|digits| u32::from_str_radix(digits, 16).ok()).context("the features are no number")?;
    for (bit, name) in FEATURES {
        ensure!(
            mask & bit != 0,
            "the driver does not see {name}, which we advertise (features {mask:#010x})"
        );
    }
    for (bit, name) in ABSENT {
        ensure!(mask & bit == 0, "the driver sees {name}, which we do not advertise (features {mask:#010x})");
    }
    for queue in ["cmdq", "evtq"] {
        ensure!(log.contains(&format!("entries for {queue}")), "the driver set up no {queue}");
    }
    let trouble = ["timeout", "failed", "Unknown", "error", "unexpected"];
    if let Some(bad) = log.lines().find(|line| trouble.iter().any(|word| line.contains(word))) {
        anyhow::bail!("the driver complains: {}", bad.trim());
    }
    let names: Vec<&str> = FEATURES.iter().map(|(_, name)| *name).collect();
    Ok(format!("features {mask:#010x}: {}", names.join(" ")))
}

#[cfg(test)]
mod tests;
