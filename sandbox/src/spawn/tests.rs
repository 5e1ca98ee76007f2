// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Records through the pipe, and what a failure tells its reader to do.

use super::*;

fn error(step: Step, errno: i32) -> String {
    let cause = Cause::Os(std::io::Error::from_raw_os_error(errno));
    SpawnError { step, profile: "smmu", cause }.to_string()
}

#[test]
fn records_survive_the_pipe() {
    for (step, kind, value) in [
        (Step::Plan, RecordKind::Errno, 1),
        (Step::PivotRoot, RecordKind::Errno, libc::EINVAL),
        (Step::Exec, RecordKind::AboutToExec, 0),
        (Step::Unknown, RecordKind::Denied, 435),
        (Step::Capabilities, RecordKind::Errno, i32::MIN),
    ] {
        let record = Record { step, kind, value };
        assert_eq!(Record::decode(record.encode()), record);
    }
    assert_eq!(Record::decode(denied_record(41)).kind, RecordKind::Denied);
}

#[test]
fn every_step_has_its_own_number_and_words() {
    let steps: Vec<Step> = (1..=22).map(Step::from_number).collect();
    for (at, step) in steps.iter().enumerate() {
        assert_eq!(usize::from(*step as u8), at + 1);
        assert_eq!(steps.iter().filter(|other| other.what() == step.what()).count(), 1, "{step:?}");
    }
    assert_eq!(Step::from_number(0), Step::Unknown);
    assert_eq!(Step::from_number(200), Step::Unknown);
}

#[test]
fn failures_say_what_to_do() {
    for (step, errno, advice) in [
        (Step::Clone, libc::ENOSPC, "user.max_user_namespaces"),
        (Step::Clone, libc::EPERM, "kernel.unprivileged_userns_clone=1"),
        (Step::Clone, libc::EPERM, "kernel.apparmor_restrict_unprivileged_userns=0"),
        (Step::Clone, libc::EINVAL, "CONFIG_USER_NS"),
        (Step::IdMaps, libc::EPERM, "65534"),
        (Step::RootMount, libc::EACCES, "mounting is forbidden"),
        (Step::PivotRoot, libc::EINVAL, "initial ramfs"),
        (Step::Descriptors, libc::EMFILE, "ulimit -n"),
        (Step::Exec, libc::EACCES, "noexec"),
    ] {
        let text = error(step, errno);
        assert!(text.contains(advice), "{text}");
        assert!(text.contains(step.what()) && text.contains(&format!("os error {errno}")), "{text}");
    }
    // An error nobody has met yet is told without advice, not with a wrong one.
    assert!(error(Step::Session, libc::EPERM).ends_with("(os error 1)"));
}

#[test]
fn refused_call_is_told_by_name() {
    let number = crate::syscalls::number("pivot_root", crate::profile::Arch::host()).unwrap();
    let refused = SpawnError { step: Step::Unknown, profile: "smmu", cause: Cause::Denied(number) };
    assert!(refused.to_string().contains("the caller's own seccomp filter refused pivot_root"));
    assert_eq!(refused.errno(), None);
}

#[test]
fn who_the_child_is_depends_on_the_caller() {
    use crate::profile::RootKind;
    assert_eq!(Identity::of_caller(RootKind::Inherited, Some(7)), Identity::Unmapped);
    let expected = if rustix::process::geteuid().is_root() {
        Identity::Become(UNPRIVILEGED_ID)
    } else {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        Identity::Own { inside: uid, uid, gid }
    };
    assert_eq!(Identity::of_caller(RootKind::NewEmpty, None), expected);
}
