// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The programs that ship boot a guest on the lab server.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::{
    guest::{GuestFiles, USER_SPACE_MARK},
    vm::{Options, Vm},
};

use super::Verdict;
use crate::{places, report::Report};

const BOOT: Duration = Duration::from_secs(90);
const COMMAND: Duration = Duration::from_secs(30);

/// Boots to a shell on software vCPUs, with every process sealed, and powers off with nothing left behind.
pub fn software(report: &mut Report<'_>) -> Result<Verdict> {
    let files = GuestFiles::in_cache(Path::new(places::GUEST));
    let mut options = Options::new(places::PROGRAMS.into(), files, "soft");
    options.memory = "128M".into();
    options.extra = "quiet".into();
    let start = Instant::now();
    let mut vm = Vm::launch(options)?;
    vm.console.wait_for(USER_SPACE_MARK, BOOT).with_context(|| vm.console.errors())?;
    report.evidence(format!("user space after {:.1} s", start.elapsed().as_secs_f64()))?;
    vm.console.shell(BOOT)?;
    let answer = vm.console.run("uname -rm", COMMAND)?;
    ensure!(answer.code == 0, "`uname` ended with {}", answer.code);
    report.evidence(format!("guest says {}", answer.output))?;
    confined(&vm, report)?;
    vm.power_off(COMMAND)?;
    let left = vm.left_over();
    ensure!(left.is_empty(), "left behind: {}", left.join(", "));
    Ok(Verdict::Shown)
}

/// Every process is what its profile says: the product's own audit, from outside.
pub fn confined(vm: &Vm, report: &mut Report<'_>) -> Result<()> {
    let all: Value = serde_json::from_str(&vm.control_json("ps")?).context("`bulkhead ps` is not JSON")?;
    let rows = all.as_object().and_then(|all| all.values().next()?.as_array()).context("no processes")?;
    let mut names = Vec::new();
    for row in rows {
        let name = row.get("name").and_then(Value::as_str).unwrap_or("?");
        let drift = row.pointer("/observed/drift").and_then(Value::as_array);
        let drift = drift.with_context(|| format!("{name} was not audited"))?;
        ensure!(drift.is_empty(), "{name} is not as its profile says: {drift:?}");
        names.push(name);
    }
    report.evidence(format!("no drift: {}", names.join(" ")))
}
