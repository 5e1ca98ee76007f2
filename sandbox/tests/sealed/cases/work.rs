// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A sealed process does its work: what each role needs is allowed, down to what the libraries do unasked.

use crate::harness::Case;
use crate::process::{Process, Role};

pub const CASES: &[Case] = &[
    ("coordinator_work_is_allowed", || works(Role::Coordinator)),
    ("coordinator_runtime_after_sealing_is_allowed", runtime),
    ("vcpu_work_is_allowed", || works(Role::Vcpu)),
    ("smmu_work_is_allowed", || works(Role::Smmu)),
    ("coordinator_restarts_a_child", restarts),
];

fn works(role: Role) {
    let mut process = Process::start(role);
    for (command, answer) in [
        ("threads", "done 0"),
        ("memory", "done 1"),
        ("waiting", "done 3"),
        ("descriptors", "done 1"),
        ("too-much-memory", "done 1"),
        ("caught-panic", "done"),
        ("threads", "done 0"),
    ] {
        // Only some roles may make eventfds.
        if command == "waiting" && role.profile().rule("eventfd2").is_none() {
            continue;
        }
        assert_eq!(process.tell(command), answer, "{role:?} {command}: {:?}", process.end());
    }
}

fn runtime() {
    let mut process = Process::start(Role::Coordinator);
    assert_eq!(process.tell("runtime"), "done 4");
}

fn restarts() {
    let mut coordinator = Process::start(Role::Coordinator);
    for _ in 0..3 {
        assert!(coordinator.ask("spawn smmu").starts_with("sealed "));
        assert_eq!(coordinator.ask("child threads"), "done 0");
        assert_eq!(coordinator.ask("child abort"), "");
        assert_eq!(coordinator.ask("child-end"), format!("code {}", 128 + libc::SIGABRT));
    }
    // Landlock confines signals to the process and those below it, which a child is.
    assert!(coordinator.ask("spawn vcpu-soft").starts_with("sealed "));
    assert_eq!(coordinator.ask("child threads"), "done 0");
    assert_eq!(coordinator.ask("child-kill"), "done");
    assert_eq!(coordinator.ask("child-end"), "signal 9");
}
