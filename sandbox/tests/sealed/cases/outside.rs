// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the kernel says of a sealed process, from outside: every fact of its profile, and drift where there is some.

use sandbox::audit::{self, Drift, Observed};

use crate::harness::Case;
use crate::process::{Process, Role};

pub const CASES: &[Case] = &[
    ("observed_facts_match_each_profile", facts),
    ("unsealed_process_drifts_in_every_fact", drift),
    ("wrong_profile_is_drift", wrong_profile),
    ("ended_process_is_unreadable_not_fine", ended),
];

fn facts() {
    for role in [Role::Coordinator, Role::Vcpu, Role::Smmu, Role::Nvme] {
        let mut process = Process::start(role);
        let observed = audit::observe(process.pid());
        let drifts = audit::compare(&observed, &role.profile());
        // An ordinary user cannot list the descriptors of a process that is not dumpable; that must be said, and alone.
        let unread: Vec<&Drift> = drifts.iter().filter(|drift| drift.unread).collect();
        if rustix::process::geteuid().is_root() {
            assert_eq!(drifts, [], "{role:?}: {observed:?}");
            let targets: Vec<String> = observed
                .descriptors
                .as_ref()
                .unwrap()
                .iter()
                .map(|descriptor| descriptor.target.clone())
                .collect();
            assert!(targets[0].starts_with("socket:["), "{targets:?}");
            assert!(targets[1].starts_with("/memfd:crash-page"), "{targets:?}");
            assert!(targets[2].starts_with("pipe:["), "{targets:?}");
        } else {
            assert_eq!(unread.len(), drifts.len(), "{role:?}: {drifts:?}");
            assert!(drifts.iter().all(|drift| drift.what == "descriptors"), "{role:?}: {drifts:?}");
        }
        independent(role, &observed);
        assert_eq!(process.tell("memory"), "done 1");
    }
}

/// The same facts checked one by one, so that a fault in `compare` cannot hide behind itself.
fn independent(role: Role, observed: &Observed) {
    let status = observed.status.as_ref().unwrap();
    assert_eq!(status.seccomp_mode, 2);
    assert!(status.no_new_privs);
    assert_eq!(status.capabilities, audit::Capabilities::default());
    assert_eq!(observed.dumpable, Ok(false));
    assert_eq!(status.ns_pids.last(), Some(&1));
    assert_eq!(status.ns_pids.len(), if role == Role::Coordinator { 2 } else { 3 });
    assert!(status.seccomp_filters.unwrap() >= if role == Role::Coordinator { 2 } else { 4 });
    let own = if rustix::process::geteuid().is_root() { 65534 } else { rustix::process::geteuid().as_raw() };
    assert_eq!(status.uids, [own; 4]);
    assert_eq!(observed.namespaces.len(), 6);
    for (name, namespace) in &observed.namespaces {
        let namespace = namespace.as_ref().unwrap();
        assert_ne!(namespace.id, namespace.observer, "{name}");
    }
    assert_eq!(observed.root_entries.as_ref().unwrap(), &Vec::<String>::new());
    assert_eq!(observed.mounts.as_ref().unwrap().len(), 1);
    let limits = observed.limits.as_ref().unwrap();
    assert_eq!(limits["Max core file size"], (Some(0), Some(0)));
    assert_eq!(limits["Max open files"].1, Some(role.profile().limits.nofile_count));
}

fn drift() {
    let own = i32::try_from(std::process::id()).unwrap();
    let drifts = audit::compare(&audit::observe(own), &Role::Smmu.profile());
    for what in ["seccomp", "no_new_privs", "pid namespace", "namespace", "root", "mounts", "limits"] {
        assert!(drifts.iter().any(|drift| drift.what == what && !drift.unread), "{what}: {drifts:?}");
    }
}

fn wrong_profile() {
    let process = Process::start(Role::Coordinator);
    let drifts = audit::compare(&audit::observe(process.pid()), &Role::Smmu.profile());
    assert!(drifts.iter().any(|drift| drift.what == "limits"), "{drifts:?}");
    assert!(drifts.iter().any(|drift| drift.what == "seccomp"), "{drifts:?}");
}

fn ended() {
    let mut process = Process::start(Role::Coordinator);
    let pid = process.pid();
    process.tell("exit 0");
    process.end();
    let drifts = audit::compare(&audit::observe(pid), &Role::Coordinator.profile());
    assert!(drifts.len() >= 10 && drifts.iter().all(|drift| drift.unread), "{drifts:?}");
}
