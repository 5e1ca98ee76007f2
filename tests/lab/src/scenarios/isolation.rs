// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The proofs of the sandbox, with the arm64 profiles on an arm64 kernel: the suites that prove them elsewhere.

use anyhow::Result;

use super::Verdict;
use crate::{report::Report, suite};

/// Processes sealed with each profile.
pub fn sealed(report: &mut Report<'_>) -> Result<Verdict> {
    suite::run(report, "sandbox-sealed", &[])?;
    Ok(Verdict::Shown)
}

/// The roles of running machines: with guests of a few instructions, and with Linux.
pub fn roles(report: &mut Report<'_>) -> Result<Verdict> {
    suite::run(report, "vmm-main-isolation", &[])?;
    suite::run(report, "tests-isolation", &[])?;
    Ok(Verdict::Shown)
}
