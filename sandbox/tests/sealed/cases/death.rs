// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! However a sealed process dies of itself, it dies for sure and says why; text it leaves is made printable.

use sandbox::Death;
use sandbox::report::EXIT_FAULT_BASE;
use sandbox::spawn::Exit;

use crate::harness::Case;
use crate::process::{Process, Role};

pub const CASES: &[Case] = &[
    ("panic_leaves_its_message", panics),
    ("abort_is_reported", || faults("abort", libc::SIGABRT)),
    ("stack_overflow_is_reported", || faults("overflow", libc::SIGSEGV)),
    ("stack_overflow_in_a_thread_is_reported", || faults("overflow-in-thread", libc::SIGSEGV)),
    ("orderly_exit_leaves_no_report", exits),
    ("killed_process_leaves_no_report", killed),
];

fn panics() {
    for role in [Role::Coordinator, Role::Smmu] {
        let mut process = Process::start(role);
        assert_eq!(process.tell("panic"), "");
        let end = process.end();
        assert_eq!(end.exit, Exit::Code(101));
        let Some(Death::Panic { profile, message }) = &end.death else { panic!("{end:?}") };
        assert_eq!(*profile, role.name());
        assert!(
            message.contains("thread `main`") && message.contains("told to \u{fffd}[31mpanic⏎in two"),
            "{message}"
        );
        assert!(!message.contains(char::is_control));
        // The log has it too, by the standard hook.
        assert!(role != Role::Coordinator || end.log.contains("in two lines"), "{}", end.log);
    }
}

fn faults(command: &str, expected: i32) {
    for role in [Role::Coordinator, Role::Vcpu] {
        let mut process = Process::start(role);
        assert_eq!(process.tell(command), "");
        let end = process.end();
        assert_eq!(end.exit, Exit::Code(EXIT_FAULT_BASE + expected), "{end:?}");
        match end.death {
            Some(Death::Fault { profile, signal, .. }) => {
                assert_eq!((profile, signal), (role.name(), expected))
            }
            other => panic!("{other:?}"),
        }
    }
}

fn exits() {
    let mut process = Process::start(Role::Smmu);
    assert_eq!(process.tell("exit 7"), "");
    let end = process.end();
    assert_eq!((end.exit, end.death), (Exit::Code(7), None));
}

fn killed() {
    let process = Process::start(Role::Coordinator);
    process.kill();
    let end = process.end();
    assert_eq!((end.exit, end.death), (Exit::Signal(libc::SIGKILL), None));
}
