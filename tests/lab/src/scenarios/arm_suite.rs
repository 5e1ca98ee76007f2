// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A public suite of guests for arm64 KVM (`tests::arm_suite`) on the lab server's KVM, with one, two and four CPUs.

use std::path::{Path, PathBuf};

use ::tests::arm_suite::{CASES, Machine, Outcome};
use anyhow::{Context, Result, ensure};

use super::Verdict;
use crate::{places, report::Report};

/// Where the host's kernel lists its PMUs, and for each the events that PMCEID0_EL0 and PMCEID1_EL0 have, by name.
const PMUS: &str = "/sys/bus/event_source/devices";

/// The case that demands the events which the manual requires of every PMUv3.
const INTROSPECTION: &str = "pmu-event-introspection";
const REQUIRED_EVENTS: [&str; 3] = ["sw_incr", "cpu_cycles", "inst_retired"];

/// Every case that fits each number of CPUs; a row of evidence says what each came to.
pub fn kvm(report: &mut Report<'_>) -> Result<Verdict> {
    let images = Path::new(places::ARM_SUITE);
    if !images.is_dir() {
        return Ok(Verdict::Skipped(
            "no images were given (`cargo xtask lab --arm-suite FOLDER arm-suite`)".into(),
        ));
    }
    let lacking = lacking_events(Path::new(PMUS));
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
                Ok(Outcome::Fail(reason)) if case.name == INTROSPECTION && !lacking.is_empty() => {
                    format!("skip: the host's PMU lacks {}; the guest says: {reason}", lacking.join(", "))
                }
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

/// The required events that the host's own PMU lacks: KVM can show a guest no more than PMCEID0_EL0 has. None where the
/// host shows no PMU: then nothing excuses a failure.
fn lacking_events(pmus: &Path) -> Vec<&'static str> {
    let Ok(entries) = pmus.read_dir() else { return Vec::new() };
    let of_cpus = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("armv8_"))
            && path.join("events").is_dir()
    };
    let Some(pmu) = entries.flatten().map(|entry| entry.path()).find(of_cpus) else { return Vec::new() };
    REQUIRED_EVENTS.into_iter().filter(|event| !pmu.join("events").join(event).is_file()).collect()
}

#[cfg(test)]
mod tests;
