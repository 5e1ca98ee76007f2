// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A public suite of guests for arm64 KVM (`tests::arm_suite`) on the lab server's KVM, with one, two and four CPUs.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use tests::arm_suite::{CASES, Machine, Outcome};

use super::Verdict;
use crate::{places, report::Report};

/// Every case that fits each number of CPUs; a row of evidence says what each came to.
pub fn kvm(report: &mut Report<'_>) -> Result<Verdict> {
    let images = Path::new(places::ARM_SUITE);
    if !images.is_dir() {
        return Ok(Verdict::Skipped(
            "no images were given (`cargo xtask lab --arm-suite FOLDER arm-suite`)".into(),
        ));
    }
    let (mut passed, mut failed) = (0, Vec::new());
    for cpus in [1, 2, 4] {
        for case in CASES.iter().filter(|case| case.fits(cpus)) {
            let machine = Machine { programs: places::PROGRAMS.into(), cpu: "kvm", cpus };
            let said = match machine.run(case, images).with_context(|| case.name) {
                Ok(Outcome::Pass(checks)) => {
                    passed += 1;
                    format!("pass, {checks} checks")
                }
                Ok(Outcome::Skip(reason)) => format!("skip: {reason}"),
                Ok(Outcome::Fail(reason)) => {
                    failed.push(format!("{} with {cpus} CPUs: {reason}", case.name));
                    format!("FAIL: {reason}")
                }
                Err(error) => {
                    failed.push(format!("{} with {cpus} CPUs: {error:#}", case.name));
                    format!("FAIL: {error:#}")
                }
            };
            report.evidence(format!("{} {cpus}: {said}", case.name))?;
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join("; "));
    ensure!(passed > 0, "no case passed");
    Ok(Verdict::Shown)
}
