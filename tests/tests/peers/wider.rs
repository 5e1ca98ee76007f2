// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A disk's process that has sealed itself with one rule more than its profile has, as one of another build may, or a
//! planted one: everything works, and `bulkhead audit` names it, from outside.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use dev_nvme::service::managed::{Given, NvmeProgram};
use sandbox::profile::Rule;
use sandbox::profiles;
use serde_json::Value;
use tests::{SEEN, SKIPPED, disk, programs};

use crate::support::{self, COMMAND, launch_at_shell};

const MIB: u64 = 32;
/// A call that harms nobody, and is in no profile of a disk's controller.
const CALL: &str = "getuid";

/// The controller's program, sealed so.
pub fn main() {
    let mut profile = profiles::nvme();
    assert!(profile.rule(CALL).is_none());
    profile.rules.push(Rule::any(CALL));
    profile.rules.sort_by_key(|rule| rule.syscall);
    drop(process::run::<NvmeProgram>(&profile, Given::take));
}

pub fn named() {
    let Some(built) = support::programs() else { return };
    if !rustix::process::geteuid().is_root() {
        return println!("{SKIPPED}filters of sealed processes: only root may see them");
    }
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join("programs");
    programs::folder_without(Some("bulkhead-nvme"), &built, &own).unwrap();
    let program = own.join("bulkhead-nvme");
    fs::copy("/proc/self/exe", &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let image = disk::image(&folder, MIB).unwrap();
    let vm = launch_at_shell("wider", |options| {
        options.nvme = vec![image];
        options.programs = own;
    });
    let Some(mut vm) = vm else { return };
    disk::fill(&mut vm.console, "nvme0n1", 1, COMMAND).unwrap();
    let audited = vm.controller().command("audit", &["--json"]).output().unwrap();
    assert_eq!(audited.status.code(), Some(1), "{audited:?}");
    let answer: Value = serde_json::from_slice(&audited.stdout).unwrap();
    for process in answer["processes"].as_array().unwrap() {
        let drift: Vec<&str> =
            process["drift"].as_array().unwrap().iter().map(|drift| drift.as_str().unwrap()).collect();
        if process["process"] == "nvme0" {
            assert!(matches!(&drift[..], [drift] if drift.contains("is not the profile's")), "{drift:?}");
            println!("{SEEN}{}", drift.join("; "));
        } else {
            assert!(drift.is_empty(), "{}: {drift:?}", process["process"]);
        }
    }
    vm.power_off(COMMAND).unwrap();
}
