// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Every process of a machine that runs Linux, from outside: it is confined as its profile says.
//!
//! `bulkhead ps` has the product's own audit; `/proc` is read here once more, without any of the product's code. What
//! each process attempts from inside is `vmm-main/tests/isolation.rs`.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test stops at the first surprise, in its helpers too"
)]

#[expect(dead_code, reason = "this suite starts machines without devices only")]
mod support;

use std::{fs, path::Path};

use serde_json::Value;
use tests::{SKIPPED, guest::GuestFiles, vm::Vm};

use self::support::{BOOT, COMMAND, launch};

/// The namespaces that a process must not share with this one.
const NAMESPACES: [&str; 6] = ["user", "mnt", "pid", "net", "ipc", "uts"];

/// The rows of `bulkhead ps`.
fn processes(vm: &Vm, name: &str) -> Vec<Value> {
    let all: Value = serde_json::from_str(&vm.control_json("ps").unwrap()).unwrap();
    all[name].as_array().unwrap().clone()
}

/// The value of a line of `/proc/PID/status`.
fn status(pid: i64, key: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    text.lines().find_map(|line| line.strip_prefix(key)).unwrap().trim_start_matches(':').trim().to_string()
}

#[test]
fn processes_seen_from_outside_are_confined() {
    let Some(mut vm) = launch(GuestFiles::cached(), "outside", "") else { return };
    vm.wait_running(BOOT).unwrap();
    let rows = processes(&vm, "outside");
    let mut roles: Vec<&str> = rows.iter().filter_map(|row| row["role"].as_str()).collect();
    roles.sort_unstable();
    assert_eq!(roles, ["coordinator", "smmu", "vcpu"]);
    for row in &rows {
        let (name, pid) = (&row["name"], row["host_pid"].as_i64().unwrap());
        assert_eq!(row["observed"]["drift"], Value::Array(vec![]), "{name}");
        assert_eq!(status(pid, "Seccomp"), "2", "{name}");
        assert_eq!(status(pid, "NoNewPrivs"), "1", "{name}");
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(u64::from_str_radix(&status(pid, set), 16), Ok(0), "{name}: {set}");
        }
        if is_root() {
            namespaces_and_root(pid, name);
        } else {
            println!("{SKIPPED}namespaces and root of {name}: only root may look at a sealed process's");
        }
    }
    vm.control("stop", &["--json"]).unwrap();
    vm.console.wait_exit(COMMAND).unwrap();
    assert_eq!(vm.left_over(), [""; 0]);
}

fn namespaces_and_root(pid: i64, name: &Value) {
    for namespace in NAMESPACES {
        let of = |who: &str| fs::read_link(format!("/proc/{who}/ns/{namespace}")).unwrap();
        assert_ne!(of(&pid.to_string()), of("self"), "{name} shares the {namespace} namespace with us");
    }
    let root = format!("/proc/{pid}/root/");
    assert_eq!(fs::read_dir(Path::new(&root)).unwrap().count(), 0, "{name} has something in its root");
}

/// True if this test may look into other users' processes.
fn is_root() -> bool {
    fs::read_to_string("/proc/self/status")
        .unwrap()
        .lines()
        .any(|line| line.starts_with("CapEff") && line.contains("1ff"))
}
