// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The processes of a running machine and what each is confined by, from `bulkhead ps`.
//!
//! The table has both views: what a process says it enforced on itself, and what `/proc` shows from outside.
//! A row with drift, without an outside view, or with an outside view that lacks one of the essentials fails.

use std::collections::BTreeMap;

use ::tests::vm::Vm;
use anyhow::{Context, Result, bail, ensure};
use comfy_table::{ContentArrangement, Table, presets};
use serde::Deserialize;

/// Roles that a machine with an NVMe has.
const ROLES: [&str; 5] = ["coordinator", "vcpu", "smmu", "vfio", "nvme"];

/// The part of a row of `bulkhead ps --json` that is shown and judged.
#[derive(Debug, Deserialize)]
struct Row {
    name: String,
    role: String,
    pid: i32,
    #[serde(default)]
    host_pid: Option<i32>,
    state: String,
    profile: String,
    #[serde(default)]
    enforced: Vec<String>,
    #[serde(default)]
    observed: Option<Observed>,
}

#[derive(Debug, Deserialize)]
struct Observed {
    facts: Vec<String>,
    drift: Vec<String>,
}

/// Prints the table; an error unless every process is confined as its profile says.
pub fn check(vm: &Vm) -> Result<String> {
    let rows = read(&vm.control_json("ps")?)?.into_values().flatten().collect::<Vec<Row>>();
    println!("{}", table(&rows));
    judge(&rows)?;
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for row in &rows {
        *counts.entry(&row.role).or_default() += 1;
    }
    let counts: Vec<String> = counts.iter().map(|(role, count)| format!("{count} {role}")).collect();
    Ok(format!("{}, none drifts from its profile", counts.join(", ")))
}

/// The processes of each machine, by its name.
fn read(json: &str) -> Result<BTreeMap<String, Vec<Row>>> {
    serde_json::from_str(json).context("`bulkhead ps --json` does not list the processes of each machine")
}

/// The rule: every role is there, every process runs, says what it enforced, and shows no drift.
fn judge(rows: &[Row]) -> Result<()> {
    for role in ROLES {
        ensure!(rows.iter().any(|row| row.role == role), "no process has the role {role}");
    }
    for row in rows {
        let name = &row.name;
        ensure!(row.state == "running", "process {name} is {}", row.state);
        ensure!(!row.enforced.is_empty(), "process {name} does not say what it enforced");
        let Some(observed) = &row.observed else { bail!("process {name} was not observed from outside") };
        ensure!(!observed.facts.is_empty(), "nothing about process {name} was observed");
        ensure!(
            observed.drift.is_empty(),
            "process {name} drifts from its profile: {}",
            observed.drift.join("; ")
        );
    }
    Ok(())
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::ASCII_BORDERS_ONLY_CONDENSED)
        .set_content_arrangement(ContentArrangement::Dynamic);
    table.set_width(160).set_header([
        "process",
        "pid",
        "state",
        "profile",
        "says it enforced",
        "seen from outside",
    ]);
    for row in rows {
        let seen = row.observed.as_ref().map(|observed| observed.facts.join(", ")).unwrap_or_default();
        let pid = row.host_pid.unwrap_or(row.pid).to_string();
        table.add_row([&row.name, &pid, &row.state, &row.profile, &row.enforced.join(", "), &seen]);
    }
    table
}

#[cfg(test)]
mod tests;
