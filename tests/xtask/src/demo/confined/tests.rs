// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One row out of order is enough to fail.

use super::{Row, judge, table};

fn read(list: &str) -> Result<Vec<Row>, String> {
    let json = format!("{{\"vm\": {list}}}");
    let machines = super::read(&json).map_err(|error| error.to_string())?;
    Ok(machines.into_values().flatten().collect())
}

fn row(role: &str, state: &str, drift: &str) -> String {
    format!(
        r#"{{"name":"{role}0","role":"{role}","program":"p","pid":2,"generation":1,"state":"{state}",
            "profile":"{role}","restart":"ends the VM","enforced":["seccomp"],
            "observed":{{"facts":["seccomp filter"],"drift":[{drift}]}}}}"#
    )
}

fn rows(smmu_state: &str, smmu_drift: &str) -> String {
    let mut list: Vec<String> =
        ["coordinator", "vcpu", "vfio", "nvme"].iter().map(|role| row(role, "running", "")).collect();
    list.push(row("smmu", smmu_state, smmu_drift));
    format!("[{}]", list.join(","))
}

#[test]
fn processes_running_without_drift_pass() {
    let rows = read(&rows("running", "")).unwrap();
    judge(&rows).unwrap();
    assert!(table(&rows).to_string().contains("seccomp filter"));
}

#[test]
fn process_that_drifts_fails_by_name() {
    let error = judge(&read(&rows("running", "\"CapEff is 1\"")).unwrap()).unwrap_err().to_string();
    assert!(error.contains("smmu0") && error.contains("CapEff is 1"), "{error}");
}

#[test]
fn process_that_does_not_run_fails() {
    assert!(judge(&read(&rows("dead", "")).unwrap()).unwrap_err().to_string().contains("dead"));
}

#[test]
fn process_unobserved_fails() {
    let json = rows("running", "").replace("observed", "ignored");
    assert!(judge(&read(&json).unwrap()).unwrap_err().to_string().contains("not observed"));
}

#[test]
fn role_missing_fails() {
    let json = format!("[{}]", row("vcpu", "running", ""));
    assert!(judge(&read(&json).unwrap()).unwrap_err().to_string().contains("coordinator"));
}

#[test]
fn answer_that_lists_no_processes_is_refused() {
    assert!(super::read("[]").is_err());
    assert!(super::read("{\"vm\": 3}").is_err());
    assert!(super::read("").is_err());
}
